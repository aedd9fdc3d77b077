"""A learning-rate range test on the digits of the examples: the rate grows until the loss is no number any more."""

import json
from pathlib import Path

import numpy as np

DIGITS = Path(__file__).with_name("digits.csv.gz")  # demonstration.py puts both into one folder
STEPS = 400
FIRST_LR, LAST_LR = 1e-3, 1e4
BATCH = 64


def main() -> None:
    np.seterr(all="ignore")  # that it overflows is the point
    digits = np.loadtxt(DIGITS, delimiter=",", dtype=np.int64)
    pixels, labels = digits[:, :-1] / 16.0, digits[:, -1]
    generator = np.random.default_rng(0)
    weights = np.zeros((pixels.shape[1], 10))
    for step in range(STEPS):
        lr = FIRST_LR * (LAST_LR / FIRST_LR) ** (step / STEPS)
        chosen = generator.integers(0, len(pixels), BATCH)
        x, y = pixels[chosen], labels[chosen]
        odds = np.exp(x @ weights)  # without the usual shift: overflows when the weights are large
        shares = odds / odds.sum(axis=1, keepdims=True)
        loss = float(-np.log(shares[np.arange(BATCH), y]).mean())
        print(json.dumps({"step": step, "loss": loss, "lr": lr, "total_steps": STEPS}), flush=True)
        shares[np.arange(BATCH), y] -= 1
        weights -= lr * x.T @ shares / BATCH


if __name__ == "__main__":
    main()
