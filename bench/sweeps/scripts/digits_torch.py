"""A network in PyTorch on scikit-learn's digits: the usual script, with its own loop, `--resume` and checkpoint.

700 images to train on, shifted at random, 397 to validate, 700 to test. Knows nothing of Backprop, Optuna or Ray.

The six lines of SGD are its own: whatever uses torch.optim imports torch._dynamo, which takes as long again as torch.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

STEPS = 135  # epochs of a whole training
EVALUATE_EVERY = 1  # epochs; saves as often
DATA = Path(__file__).parents[3] / "examples" / "digits.csv.gz"  # as in sklearn.datasets.load_digits

Parts = dict[str, tuple[torch.Tensor, torch.Tensor]]


def load_data() -> Parts:
    """Images of shape (n, 8, 8) in [0, 1], and labels."""
    digits = np.loadtxt(DATA, delimiter=",", dtype=np.int64)
    digits = digits[np.random.default_rng(0).permutation(len(digits))]
    images = torch.tensor(digits[:, :-1] / 16.0, dtype=torch.float32).reshape(-1, 8, 8)
    labels = torch.tensor(digits[:, -1])
    borders = {"train": slice(0, 700), "val": slice(700, 1097), "test": slice(1097, None)}
    return {name: (images[part], labels[part]) for name, part in borders.items()}


def make_model(config: Mapping[str, float]) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Flatten()]
    width = 64
    for _ in range(int(config["layers"])):
        layers += [nn.Linear(width, int(config["hidden"])), nn.ReLU(), nn.Dropout(config["dropout"])]
        width = int(config["hidden"])
    return nn.Sequential(*layers, nn.Linear(width, 10))


def evaluate(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Mean cross-entropy and accuracy."""
    model.eval()
    with torch.no_grad():
        logits = model(images)
    model.train()
    return cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()


def shifted(images: torch.Tensor) -> torch.Tensor:
    """The batch moved by up to one pixel."""
    down, right = torch.randint(-1, 2, (2,)).tolist()
    return torch.roll(images, (down, right), (1, 2))


def update(model: nn.Module, velocities: list[torch.Tensor], config: Mapping[str, float]) -> None:
    """A step of SGD with momentum, as in torch.optim.SGD."""
    with torch.no_grad():
        for weights, velocity in zip(model.parameters(), velocities, strict=True):
            assert weights.grad is not None
            velocity.mul_(config["momentum"]).add_(weights.grad).add_(weights, alpha=config["weight_decay"])
            weights.sub_(velocity, alpha=config["lr"])
            weights.grad = None


def train(
    config: Mapping[str, float],
    report: Callable[[int, float], object],
    *,
    steps: int = STEPS,
    seed: int = 0,
    step_s: float = 0.0,
    checkpoint: Path | None = None,
    resume: Path | None = None,
) -> dict[str, float]:
    """The best evaluation by its validation loss: step, val_loss, test_loss, test_accuracy.

    step_s: each epoch takes at least so long, as one on a GPU would that leaves the processor to others.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = load_data()
    images, labels = data["train"]
    model = make_model(config)
    velocities = [torch.zeros_like(weights) for weights in model.parameters()]
    start, best = 0, {"step": 0.0, "val_loss": float("inf"), "test_loss": float("inf"), "test_accuracy": 0.0}
    if resume is not None:
        saved = torch.load(resume)
        model.load_state_dict(saved["model"])
        velocities = saved["velocities"]
        torch.set_rng_state(saved["rng"])
        start, best = saved["step"], saved["best"]
    began = time.monotonic()
    for step in range(start + 1, steps + 1):
        for batch in torch.randperm(len(labels)).split(int(config["batch"])):
            cross_entropy(model(shifted(images[batch])), labels[batch]).backward()
            update(model, velocities, config)
        time.sleep(max(0.0, began + (step - start) * step_s - time.monotonic()))
        if step % EVALUATE_EVERY == 0:
            val_loss, _ = evaluate(model, *data["val"])
            if val_loss < best["val_loss"]:
                test_loss, accuracy = evaluate(model, *data["test"])
                best = {"step": step, "val_loss": val_loss, "test_loss": test_loss, "test_accuracy": accuracy}
            if checkpoint is not None:
                state: dict[str, Any] = {"model": model.state_dict(), "velocities": velocities}
                torch.save({**state, "rng": torch.get_rng_state(), "step": step, "best": best}, checkpoint)
            report(step, val_loss)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--weight_decay", type=float, default=1e-4)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--step-s", type=float, default=0.0, help="seconds that an epoch takes at least")
    parser.add_argument("--resume", type=Path, help="checkpoint to continue from")
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    parser.add_argument("--test", action="store_true", help="print the test results of the best evaluation at the end")
    args = parser.parse_args()
    names = "lr momentum batch weight_decay layers hidden dropout"
    config = {name: getattr(args, name) for name in names.split()}
    args.out.mkdir(exist_ok=True, parents=True)
    name = "-".join(f"{key}={value:g}" for key, value in config.items())
    best = train(
        config,
        lambda step, val_loss: print(json.dumps({"step": step, "val_loss": val_loss}), flush=True),
        steps=args.steps,
        seed=args.seed,
        step_s=args.step_s,
        checkpoint=args.out / f"{name}-seed={args.seed}.pt",
        resume=args.resume,
    )
    if args.test:
        print(json.dumps({"best": best}))


if __name__ == "__main__":
    main()
