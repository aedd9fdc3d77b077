"""Hydra app with a key resume."""
# requires hydra-core torch
# tried in CI: test_resume_flag_parsers

import hashlib
from dataclasses import dataclass

import hydra
import torch
from hydra.core.config_store import ConfigStore
from torch import nn


@dataclass
class Config:
    epochs: int = 40
    lr: float = 1e-3
    resume: str | None = None


ConfigStore.instance().store(name="config", node=Config)


@hydra.main(version_base=None, config_name="config")
def main(config):
    torch.manual_seed(0)
    x = torch.randn(1024, 64)
    y = (x.sum(1) > 0).long()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    start = 0
    if config.resume:
        checkpoint = torch.load(config.resume)
        start = checkpoint["epoch"]
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
    for epoch in range(start, config.epochs):
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
    print("final", hashlib.sha256(weights).hexdigest()[:12], config.epochs)


if __name__ == "__main__":
    main()
