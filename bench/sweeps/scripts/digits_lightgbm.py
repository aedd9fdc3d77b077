"""Boosted trees with LightGBM on scikit-learn's digits. Knows nothing of Backprop, Optuna or Ray.

700 images to train on, 397 to validate, 700 to test.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

STEPS = 900  # rounds of a whole training
REPORT_EVERY = 10  # rounds
DATA = Path(__file__).parents[3] / "examples" / "digits.csv.gz"  # as in sklearn.datasets.load_digits


def train(
    config: Mapping[str, float],
    report: Callable[[int, float], object],
    *,
    steps: int = STEPS,
    seed: int = 0,
    step_s: float = 0.0,
) -> dict[str, float]:
    """The best reported round by its validation loss: step, val_loss, test_loss, test_accuracy.

    step_s: each round takes at least so long, as a step on a GPU would that leaves the processor to others.
    """
    digits = np.loadtxt(DATA, delimiter=",", dtype=np.int64)
    digits = digits[np.random.default_rng(0).permutation(len(digits))]
    images, labels = digits[:, :-1] / 16.0, digits[:, -1]
    training = lightgbm.Dataset(images[:700], labels[:700])
    validation = lightgbm.Dataset(images[700:1097], labels[700:1097], reference=training)
    best = {"step": 0.0, "val_loss": float("inf")}

    began, rounds = time.monotonic(), itertools.count(1)

    def watch(env: Any) -> None:
        time.sleep(max(0.0, began + next(rounds) * step_s - time.monotonic()))
        step, val_loss = env.iteration + 1, env.evaluation_result_list[0][2]
        if step % REPORT_EVERY == 0:
            if val_loss < best["val_loss"]:
                best.update(step=step, val_loss=val_loss)
            report(step, val_loss)

    params = {
        **config,
        "objective": "multiclass",
        "num_class": 10,
        "num_threads": 1,
        "seed": seed,
        "verbose": -1,
    }
    booster = lightgbm.train(
        params, training, num_boost_round=steps, valid_sets=[validation], valid_names=["val"], callbacks=[watch]
    )
    chances = booster.predict(images[1097:], num_iteration=int(best["step"]), num_threads=1)
    right = chances[np.arange(len(chances)), labels[1097:]]
    accuracy = float((chances.argmax(1) == labels[1097:]).mean())
    return {**best, "test_loss": float(-np.log(np.maximum(right, 1e-15)).mean()), "test_accuracy": accuracy}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--learning_rate", type=float, default=0.1)
    parser.add_argument("--num_leaves", type=int, default=31)
    parser.add_argument("--min_child_samples", type=int, default=20)
    parser.add_argument("--colsample_bytree", type=float, default=1.0)
    parser.add_argument("--reg_alpha", type=float, default=0.0)
    parser.add_argument("--reg_lambda", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step-s", type=float, default=0.0, help="seconds that a round takes at least")
    parser.add_argument("--test", action="store_true", help="print the test results of the best round at the end")
    args = parser.parse_args()
    names = "learning_rate num_leaves min_child_samples colsample_bytree reg_alpha reg_lambda"
    best = train(
        {name: getattr(args, name) for name in names.split()},
        lambda step, val_loss: print(json.dumps({"step": step, "val_loss": val_loss}), flush=True),
        steps=args.steps,
        seed=args.seed,
        step_s=args.step_s,
    )
    if args.test:
        print(json.dumps({"best": best}))


if __name__ == "__main__":
    main()
