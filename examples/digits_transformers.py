"""Recognise handwritten digits with a small network and the Hugging Face Trainer.

    python digits_transformers.py                       alone
    backprop run digits_transformers.py -m 0.2          under Backprop: stopped in time, with a checkpoint
    backprop resume last                                goes on as if it had never been stopped, dropout included

A script as anybody would write it: it knows nothing of Backprop. Data: digits.csv.gz, as for digits.py.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import EvalPrediction, Trainer, TrainingArguments, set_seed

TRAINING_IMAGES = 1437  # the rest is for evaluation


class Digits(Dataset[dict[str, Tensor]]):
    """Images as rows of 64 pixels between 0 and 1, and what they show."""

    def __init__(self, *, train: bool) -> None:
        digits = np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",", dtype=np.int64)
        order = np.random.default_rng(0).permutation(len(digits))
        chosen = order[:TRAINING_IMAGES] if train else order[TRAINING_IMAGES:]
        self.images = torch.tensor(digits[chosen, :-1] / 16, dtype=torch.float32)
        self.labels = torch.tensor(digits[chosen, -1])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"images": self.images[index], "labels": self.labels[index]}


class Network(nn.Module):
    """64 pixels -> 64 hidden units, half of them dropped while training -> 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 10))

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.layers(images)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="processes that load data")
    parser.add_argument("--out", type=Path, default=Path("digits-transformers"))
    args = parser.parse_args()

    torch.set_num_threads(1)
    set_seed(args.seed)
    trainer = Trainer(
        model=Network(),
        args=TrainingArguments(
            output_dir=str(args.out),
            num_train_epochs=args.epochs,
            per_device_train_batch_size=32,
            per_device_eval_batch_size=32,
            learning_rate=args.lr,
            seed=args.seed,
            logging_steps=5,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=2,
            dataloader_num_workers=args.workers,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Digits(train=True),
        eval_dataset=Digits(train=False),
        compute_metrics=accuracy,
    )
    trainer.train()
    trainer.save_model(str(args.out / "final"))
    print(trainer.evaluate())


if __name__ == "__main__":
    main()
