"""CatBoost, fit with save_snapshot=True."""
# requires catboost scikit-learn

import hashlib

from catboost import CatBoostClassifier
from sklearn.datasets import load_digits


class PrintSteps:
    def after_iteration(self, info):
        print("step", info.iteration, flush=True)
        return True


model = CatBoostClassifier(iterations=400, random_seed=0, thread_count=1, depth=4, verbose=False, train_dir="out")
model.fit(
    *load_digits(return_X_y=True),
    save_snapshot=True,
    snapshot_file="snapshot.cbsnapshot",
    snapshot_interval=1,
    callbacks=[PrintSteps()],
)
model.save_model("model.json", format="json")
weights = model.predict_proba(load_digits().data).tobytes()
print("final", hashlib.sha256(weights).hexdigest()[:12], model.tree_count_)
