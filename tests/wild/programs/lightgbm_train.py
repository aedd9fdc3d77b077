"""LightGBM, lgb.train."""
# requires lightgbm scikit-learn
# tried in CI: test_boosting

import hashlib

import lightgbm
from sklearn.datasets import load_digits


def print_steps(environment):
    print("step", environment.iteration, flush=True)


data = lightgbm.Dataset(*load_digits(return_X_y=True))
parameters = {"objective": "multiclass", "num_class": 10, "verbose": -1, "seed": 0, "deterministic": True}
booster = lightgbm.train(parameters | {"num_threads": 1}, data, num_boost_round=80, callbacks=[print_steps])
print("final", hashlib.sha256(booster.model_to_string().encode()).hexdigest()[:12], booster.current_iteration())
