"""A network in PyTorch on scikit-learn's digits: the usual script, with its own loop, `--resume` and checkpoint.

500 images to train on, each shifted at random, 497 to validate, 800 to test. Knows nothing of Backprop, Optuna or Ray.
"""

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

STEPS = 18_000  # of a whole training
EVALUATE_EVERY = 200  # steps; saves as often
DATA = Path(__file__).parents[3] / "examples" / "digits.csv.gz"  # as in sklearn.datasets.load_digits

Parts = dict[str, tuple[torch.Tensor, torch.Tensor]]


def load_data() -> Parts:
    """Images of shape (n, 8, 8) in [0, 1], and labels."""
    digits = np.loadtxt(DATA, delimiter=",", dtype=np.int64)
    digits = digits[np.random.default_rng(0).permutation(len(digits))]
    images = torch.tensor(digits[:, :-1] / 16.0, dtype=torch.float32).reshape(-1, 8, 8)
    labels = torch.tensor(digits[:, -1])
    borders = {"train": slice(0, 500), "val": slice(500, 997), "test": slice(997, None)}
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


def train(
    config: Mapping[str, float],
    report: Callable[[int, float], object],
    *,
    steps: int = STEPS,
    seed: int = 0,
    checkpoint: Path | None = None,
    resume: Path | None = None,
) -> dict[str, float]:
    """The best evaluation by its validation loss: step, val_loss, test_loss, test_accuracy."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    data = load_data()
    images, labels = data["train"]
    model = make_model(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=config["lr"], momentum=0.9, weight_decay=config["weight_decay"])
    start, best = 0, {"step": 0.0, "val_loss": float("inf"), "test_loss": float("inf"), "test_accuracy": 0.0}
    if resume is not None:
        saved = torch.load(resume, weights_only=False)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["rng"])
        start, best = saved["step"], saved["best"]
    for step in range(start + 1, steps + 1):
        batch = torch.randint(len(labels), (int(config["batch"]),))
        loss = cross_entropy(model(shifted(images[batch])), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % EVALUATE_EVERY == 0:
            val_loss, _ = evaluate(model, *data["val"])
            if val_loss < best["val_loss"]:
                test_loss, accuracy = evaluate(model, *data["test"])
                best = {"step": step, "val_loss": val_loss, "test_loss": test_loss, "test_accuracy": accuracy}
            if checkpoint is not None:
                state: dict[str, Any] = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
                torch.save({**state, "rng": torch.get_rng_state(), "step": step, "best": best}, checkpoint)
            report(step, val_loss)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lr", type=float, default=0.05)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--weight_decay", type=float, default=1e-4)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", type=Path, help="checkpoint to continue from")
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    parser.add_argument("--test", action="store_true", help="print the test results of the best evaluation at the end")
    args = parser.parse_args()
    config = {name: getattr(args, name) for name in ("lr", "hidden", "layers", "dropout", "batch", "weight_decay")}
    args.out.mkdir(exist_ok=True, parents=True)
    name = "-".join(f"{key}={value:g}" for key, value in config.items())
    best = train(
        config,
        lambda step, val_loss: print(json.dumps({"step": step, "val_loss": val_loss}), flush=True),
        steps=args.steps,
        seed=args.seed,
        checkpoint=args.out / f"{name}-seed={args.seed}.pt",
        resume=args.resume,
    )
    if args.test:
        print(json.dumps({"best": best}))


if __name__ == "__main__":
    main()
