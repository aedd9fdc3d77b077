"""Recognise handwritten digits with XGBoost: early stopping, and an accuracy at the end.

An ordinary script, which knows nothing of Backprop: `backprop run examples/digits_xgboost.py -m 0.1` stops it in time,
with its booster saved, and `backprop resume last` goes on with the next round. Data: scikit-learn's digits, 1,797
images of 8x8 pixels, which ship in the package.
"""

import argparse
from pathlib import Path

import xgboost as xgb
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--patience", type=int, default=40, help="rounds without a better validation loss")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("digits-xgboost.json"))
    args = parser.parse_args()

    images, labels = load_digits(return_X_y=True)
    fit, held_back, fit_labels, held_back_labels = train_test_split(
        images, labels, test_size=0.2, random_state=args.seed, stratify=labels
    )
    train = xgb.DMatrix(fit, fit_labels)
    valid = xgb.DMatrix(held_back, held_back_labels)
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
    accuracy = (booster.predict(valid).argmax(axis=1) == held_back_labels).mean()
    print(f"{booster.num_boosted_rounds()} rounds, best {booster.best_iteration}, accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
