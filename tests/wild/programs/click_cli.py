"""click, a command with --resume."""
# requires click torch
# tried in CI: test_resume_flag_parsers

import hashlib

import click
import torch
from torch import nn


@click.command()
@click.option("--epochs", default=40)
@click.option("--lr", default=1e-3)
@click.option("--resume", type=click.Path(exists=True), help="A checkpoint to continue from.")
def main(epochs, lr, resume):
    torch.manual_seed(0)
    x = torch.randn(1024, 64)
    y = (x.sum(1) > 0).long()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    start = 0
    if resume:
        checkpoint = torch.load(resume)
        start = checkpoint["epoch"]
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
    for epoch in range(start, epochs):
        for first in range(0, len(x), 32):
            loss = nn.functional.cross_entropy(model(x[first : first + 32]), y[first : first + 32])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print("step", epoch + 1, flush=True)
        if (epoch + 1) % 10 == 0:
            state = {"epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, "checkpoint.pt")
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    print("final", hashlib.sha256(weights).hexdigest()[:12], epochs)


if __name__ == "__main__":
    main()
