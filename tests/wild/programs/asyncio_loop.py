"""PyTorch in an asyncio program, a training loop that awaits between its steps."""
# requires torch

import argparse
import asyncio
import hashlib

import torch
from torch import nn


async def train(resume):
    torch.manual_seed(0)
    x = torch.randn(1024, 64)
    y = (x.sum(1) > 0).long()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    start = 0
    if resume:
        checkpoint = torch.load(resume)
        start = checkpoint["epoch"]
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
    for epoch in range(start, 40):
        for first in range(0, len(x), 32):
            loss = nn.functional.cross_entropy(model(x[first : first + 32]), y[first : first + 32])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            await asyncio.sleep(0)
        print("step", epoch + 1, flush=True)
        if (epoch + 1) % 10 == 0:
            state = {"epoch": epoch + 1, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            await asyncio.to_thread(torch.save, state, "checkpoint.pt")
    weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
    print("final", hashlib.sha256(weights).hexdigest()[:12], 40)


parser = argparse.ArgumentParser()
parser.add_argument("--resume", help="a checkpoint to continue from")
asyncio.run(train(parser.parse_args().resume))
