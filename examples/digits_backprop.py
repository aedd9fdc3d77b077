"""Recognise handwritten digits in PyTorch; stops, saves and resumes exactly, with `backprop.loop`.

Runs alone (`python digits_backprop.py`) and under Backprop (`backprop run digits_backprop.py`). Dropout, noise that
DataLoader workers add to the images and the order of the batches are random: cut anywhere and resumed, it gives the
weights of the run that was never cut, bit for bit. Data: digits.csv.gz, as for digits.py.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

import backprop


class NoisyDigits:
    """The training images, a little different each time."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.images[index] + 0.05 * torch.randn(64), self.labels[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, help="where to write the weights")
    args = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    digits = np.loadtxt(Path(__file__).with_name("digits.csv.gz"), delimiter=",", dtype=np.int64)
    images = torch.tensor(digits[:, :-1] / 16.0, dtype=torch.float32)
    labels = torch.tensor(digits[:, -1])
    train = NoisyDigits(images[:1437], labels[:1437])
    loader = DataLoader(train, batch_size=32, shuffle=True, num_workers=args.workers)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.2), nn.Linear(64, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs * len(loader))
    backprop.params(seed=args.seed, lr=args.lr, batch=32)

    state = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    for _, (inputs, targets) in backprop.loop(loader, epochs=args.epochs, state=state):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        backprop.log(loss=loss.item(), lr=scheduler.get_last_lr()[0])

    if backprop.should_stop():
        return  # the next session goes on
    model.eval()
    with torch.no_grad():
        accuracy = (model(images[1437:]).argmax(1) == labels[1437:]).float().mean().item()
    backprop.log(test_accuracy=accuracy)
    print(f"accuracy on the test images: {accuracy:.4f}")
    if args.out is not None:
        torch.save(model.state_dict(), args.out)


if __name__ == "__main__":
    main()
