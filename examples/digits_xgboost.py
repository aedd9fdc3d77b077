"""Recognise handwritten digits with XGBoost: early stopping, and an accuracy at the end.

An ordinary script, which knows nothing of Backprop: `backprop run examples/digits_xgboost.py -m 0.1` stops it in time,
with its booster saved, and `backprop resume last` goes on with the next round. Data: digits.csv.gz, as
for digits.py.
"""

import argparse
from pathlib import Path

import numpy as np
import xgboost as xgb


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--patience", type=int, default=40, help="rounds without a better validation loss")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("digits-xgboost.json"))
    args = parser.parse_args()

    digits = np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",", dtype=np.int64)
    digits = np.random.default_rng(args.seed).permutation(digits)
    images, labels = digits[:, :-1].astype(float), digits[:, -1]
    fit, held_back = slice(360, None), slice(360)
    train = xgb.DMatrix(images[fit], labels[fit])
    valid = xgb.DMatrix(images[held_back], labels[held_back])
    params = {
        "objective": "multi:softprob",
        "num_class": 10,
        "eval_metric": ["merror", "mlogloss"],
        "max_depth": args.depth,
        "learning_rate": args.lr,
        "tree_method": "hist",
        "nthread": 1,
        "seed": args.seed,
    }
    booster = xgb.train(
        params,
        train,
        num_boost_round=args.rounds,
        evals=[(train, "train"), (valid, "valid")],
        early_stopping_rounds=args.patience,
        verbose_eval=20,
    )
    booster.save_model(args.out)
    accuracy = (booster.predict(valid).argmax(axis=1) == labels[held_back]).mean()
    print(f"{booster.num_boosted_rounds()} rounds, best {booster.best_iteration}, accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
