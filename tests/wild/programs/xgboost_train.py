"""XGBoost, xgb.train."""
# requires xgboost scikit-learn
# tried in CI: test_boosting

import hashlib

import xgboost
from sklearn.datasets import load_digits


class PrintSteps(xgboost.callback.TrainingCallback):
    def after_iteration(self, model, epoch, evals_log):
        print("step", epoch, flush=True)
        return False


data = xgboost.DMatrix(*load_digits(return_X_y=True))
parameters = {"objective": "multi:softprob", "num_class": 10, "max_depth": 4, "seed": 0}
booster = xgboost.train(
    parameters, data, num_boost_round=150, evals=[(data, "train")], callbacks=[PrintSteps()], verbose_eval=False
)
print("final", hashlib.sha256(booster.save_raw("ubj")).hexdigest()[:12], booster.num_boosted_rounds())
