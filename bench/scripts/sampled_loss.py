"""What sampling the loss adds to a training step of PyTorch: `sampled_loss.py SECONDS OUT`, in a run.

Writes CPU seconds a step as JSON: {"bare": [...], "sampled": [...]}, a number for each batch of steps, in pairs.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic, process_time

import torch

STEPS = 20  # in a batch
Step = Callable[[], None]


def main() -> None:
    seconds, out = float(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    weight = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    methods = (optimizer.zero_grad, type(optimizer).zero_grad.__wrapped__.__get__(optimizer))
    backwards = (torch.Tensor.backward, torch.Tensor.backward.__wrapped__)

    def batch(number: int) -> float:
        """number: 0 with samples, 1 without them."""
        zero_grad, backward = methods[number], backwards[number]
        began = process_time()
        for _ in range(STEPS):
            zero_grad()
            backward(weight.sum())
            optimizer.step()
        return (process_time() - began) / STEPS

    found: dict[str, list[float]] = {"sampled": [], "bare": []}
    warm = monotonic() + 3  # in the first two seconds every step is watched
    while monotonic() < warm:
        batch(0), batch(1)
    end = monotonic() + seconds
    while monotonic() < end:
        first = len(found["bare"]) % 2  # who is first changes, so that a drift hits both alike
        for number in (first, 1 - first):
            found["bare" if number else "sampled"].append(batch(number))
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
