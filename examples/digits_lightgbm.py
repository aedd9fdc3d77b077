"""Recognise handwritten digits with LightGBM: bagging, sampled features, a falling learning rate, early stopping.

An ordinary script, which knows nothing of Backprop: `backprop run examples/digits_lightgbm.py -m 0.1` stops it in time,
with its booster saved, and `backprop resume last` goes on with the next round. Data: digits.csv.gz, as
for digits.py.
"""

import argparse
from pathlib import Path

import lightgbm as lgb
import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--leaves", type=int, default=15)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--patience", type=int, default=40, help="rounds without a better validation loss")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("digits-lightgbm.txt"))
    args = parser.parse_args()

    digits = np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",", dtype=np.int64)
    digits = np.random.default_rng(args.seed).permutation(digits)
    images, labels = digits[:, :-1].astype(float), digits[:, -1]
    fit, held_back = slice(360, None), slice(360)
    train = lgb.Dataset(images[fit], labels[fit])
    valid = lgb.Dataset(images[held_back], labels[held_back], reference=train)
    params = {
        "objective": "multiclass",
        "num_class": 10,
        "metric": ["multi_error", "multi_logloss"],
        "num_leaves": args.leaves,
        "bagging_fraction": 0.8,
        "bagging_freq": 2,
        "feature_fraction": 0.8,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "seed": args.seed,
        "verbosity": -1,
    }
    booster = lgb.train(
        params,
        train,
        num_boost_round=args.rounds,
        valid_sets=[train, valid],
        valid_names=["train", "valid"],
        callbacks=[
            lgb.early_stopping(args.patience),
            lgb.log_evaluation(20),
            lgb.reset_parameter(learning_rate=lambda done: args.lr * 0.995**done),
        ],
    )
    booster.save_model(args.out)
    accuracy = (booster.predict(images[held_back]).argmax(axis=1) == labels[held_back]).mean()
    print(f"{booster.current_iteration()} rounds, best {booster.best_iteration}, accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
