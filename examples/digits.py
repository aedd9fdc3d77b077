"""Recognise handwritten digits with a small neural network in NumPy; stops, saves and resumes exactly.

Runs alone (`python digits.py`) and under Backprop (`backprop run digits.py`), which it talks to in the plainest
way: JSON lines on stdout, three environment variables and a file. Data: digits.csv.gz beside it, as in scikit-learn:
1,797 images of 8x8 pixels (0 to 16) and their labels, the test set of E. Alpaydin and C. Kaynak's "Optical Recognition
of Handwritten Digits" (UCI Machine Learning Repository, 1998; CC BY 4.0).
"""

import argparse
import json
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BATCH = 32


def tell(**fields: object) -> None:
    """Print one JSON line, which Backprop understands."""
    print(json.dumps(fields), flush=True)


class Control:
    """What Backprop wants of us, from control.json; nothing when we run alone."""

    def __init__(self) -> None:
        self.path = os.environ.get("BACKPROP_CONTROL")
        self.answered = 0
        if self.path is not None:
            tell(event="listening")

    def read(self) -> tuple[bool, bool]:
        """(stop wanted, checkpoint wanted)."""
        if self.path is None:
            return False, False
        wish = json.loads(Path(self.path).read_text())
        wants_checkpoint = wish["checkpoint_wanted"] > self.answered
        self.answered = wish["checkpoint_wanted"]
        return wish["stop_wanted"], wants_checkpoint


class Network:
    """64 pixels -> 64 hidden units (ReLU) -> 10 classes, trained by SGD with momentum."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.weights: dict[str, Array] = {
            "w1": rng.normal(0, np.sqrt(2 / 64), (64, 64)),
            "b1": np.zeros(64),
            "w2": rng.normal(0, np.sqrt(2 / 64), (64, 10)),
            "b2": np.zeros(10),
        }
        self.momentum = {name: np.zeros_like(value) for name, value in self.weights.items()}

    def forward(self, images: Array) -> tuple[Array, Array]:
        """Hidden activations, shape (n, 64), and class probabilities, shape (n, 10)."""
        hidden = np.maximum(0, images @ self.weights["w1"] + self.weights["b1"])
        logits = hidden @ self.weights["w2"] + self.weights["b2"]
        exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
        return hidden, exponent / exponent.sum(axis=1, keepdims=True)

    def step(self, images: Array, labels: NDArray[np.int64], lr: float) -> float:
        """One update; gives the mean cross-entropy before it."""
        hidden, probabilities = self.forward(images)
        loss = -np.log(probabilities[np.arange(len(labels)), labels] + 1e-12).mean()
        slope = probabilities.copy()
        slope[np.arange(len(labels)), labels] -= 1
        slope /= len(labels)
        below = (slope @ self.weights["w2"].T) * (hidden > 0)
        gradients = {
            "w1": images.T @ below,
            "b1": below.sum(axis=0),
            "w2": hidden.T @ slope,
            "b2": slope.sum(axis=0),
        }
        for name, gradient in gradients.items():
            self.momentum[name] = 0.9 * self.momentum[name] - lr * gradient
            self.weights[name] += self.momentum[name]
        return float(loss)

    def accuracy(self, images: Array, labels: NDArray[np.int64]) -> float:
        _, probabilities = self.forward(images)
        return float((probabilities.argmax(axis=1) == labels).mean())


def save(folder: Path, network: Network, step: int) -> None:
    """Write a checkpoint in one step (temporary file, then rename), then report it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:06}.npz"
    draft = path.with_suffix(".new.npz")
    momentum = {f"momentum.{name}": value for name, value in network.momentum.items()}
    with draft.open("wb") as file:
        np.savez(file, step=step, **network.weights, **momentum)  # type: ignore[arg-type]
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    tell(event="checkpoint_saved", path=str(path), step=step)


def load(path: str, network: Network) -> int:
    """Restore a checkpoint; gives the step it was saved after."""
    with np.load(path) as saved:
        for name in network.weights:
            network.weights[name] = saved[name]
            network.momentum[name] = saved[f"momentum.{name}"]
        return int(saved["step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--lr", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=500, help="steps between checkpoints")
    # a folder for each run, or the next one would save over this one's checkpoints
    out = Path("digits-checkpoints", os.environ.get("BACKPROP_RUN_ID", ""))
    parser.add_argument("--out", type=Path, default=out)
    args = parser.parse_args()

    digits = np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",", dtype=np.int64)
    order = np.random.default_rng(0).permutation(len(digits))
    images, labels = digits[order, :-1] / 16.0, digits[order, -1]
    train, test = slice(0, 1437), slice(1437, None)

    network = Network(np.random.default_rng(args.seed))
    start = 0
    if checkpoint := os.environ.get("BACKPROP_RESUME_FROM"):
        start = load(checkpoint, network)
    control = Control()
    steps_per_epoch = 1437 // BATCH
    total = args.epochs * steps_per_epoch
    tell(event="params", params={"batch": BATCH, "hidden": 64, "seed": args.seed})
    step, is_stopping = start, False
    while step < total and not is_stopping:
        epoch, position = divmod(step, steps_per_epoch)
        # the order of an epoch follows from seed and epoch alone, so that a resumed run sees the same batches
        shuffled = np.random.default_rng([args.seed, epoch]).permutation(1437)
        batch = shuffled[position * BATCH : (position + 1) * BATCH]
        loss = network.step(images[train][batch], labels[train][batch], args.lr)
        step += 1
        if step % 10 == 0 or step == total:
            tell(step=step, loss=round(loss, 5), epoch=epoch, total_steps=total)
        if step % steps_per_epoch == 0:
            tell(step=step, test_accuracy=round(network.accuracy(images[test], labels[test]), 4))
        is_stopping, wants_checkpoint = control.read()
        if step % args.save_every == 0 or step == total or is_stopping or wants_checkpoint:
            save(args.out, network, step)


if __name__ == "__main__":
    main()
