"""Recognise handwritten digits with Lightning; an ordinary script, which knows nothing of Backprop.

`backprop run examples/digits_lightning.py` stops it in time and `backprop resume` goes on in the middle of the epoch,
with the batches, the dropout and the learning rates that an uninterrupted run would have had. Data:
digits.csv.gz, as for digits.py.
"""

import argparse
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


def make_classifier(lightning: Any) -> Any:
    """A network of 64 pixels -> 128 hidden units (dropout) -> 10 classes."""

    class Classifier(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = torch.nn.Sequential(
                torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(128, 10)
            )

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            images, labels = batch
            loss = functional.cross_entropy(self.network(images), labels)
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, _: int) -> None:
            images, labels = batch
            scores = self.network(images)
            self.log("val_loss", functional.cross_entropy(scores, labels))
            self.log("val_accuracy", (scores.argmax(1) == labels).float().mean())

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}

    return Classifier()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--accumulate", type=int, default=1, help="batches per optimizer step")
    parser.add_argument("--workers", type=int, default=0, help="processes that load data")
    parser.add_argument("--devices", type=int, default=1, help="processes that train")
    parser.add_argument("--package", choices=["lightning", "pytorch_lightning"], default="lightning")
    parser.add_argument("--out", type=Path, default=Path("digits-lightning"))
    args = parser.parse_args()

    torch.set_num_threads(1)
    lightning = importlib.import_module(args.package)
    lightning.seed_everything(args.seed)
    digits = np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",", dtype=np.int64)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits[:, :-1] / 16.0, dtype=torch.float32)[order]
    labels = torch.tensor(digits[:, -1])[order]
    train = DataLoader(TensorDataset(images[:1437], labels[:1437]), 32, shuffle=True, num_workers=args.workers)
    val = DataLoader(TensorDataset(images[1437:], labels[1437:]), 32)

    loggers = importlib.import_module(f"{args.package}{'.pytorch' * (args.package == 'lightning')}.loggers")
    model = make_classifier(lightning)
    trainer = lightning.Trainer(
        max_epochs=args.epochs,
        accelerator="cpu",
        devices=args.devices,
        strategy="ddp" if args.devices > 1 else "auto",
        accumulate_grad_batches=args.accumulate,
        logger=loggers.CSVLogger(args.out),  # whether TensorBoard is installed or not
        log_every_n_steps=5,
        enable_progress_bar=False,
        default_root_dir=args.out,
    )
    trainer.fit(model, train, val)
    if trainer.is_global_zero:
        torch.save(model.state_dict(), args.out / "weights.pt")
        print(f"accuracy {float(trainer.callback_metrics['val_accuracy']):.4f} after {trainer.global_step} steps")


if __name__ == "__main__":
    main()
