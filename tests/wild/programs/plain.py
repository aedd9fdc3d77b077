"""PyTorch with a plain loop, --resume as in the ImageNet example of pytorch/examples."""
# requires torch
# tried in CI: test_pytorch

import argparse
import hashlib
import os

import torch
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=40)
parser.add_argument("--resume", default="", metavar="PATH", help="path to latest checkpoint")
args = parser.parse_args()

torch.manual_seed(0)
x = torch.randn(1024, 64)
y = (x[:, :8].sum(1) > 0).long()
model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
start_epoch = 0
if args.resume:
    if os.path.isfile(args.resume):
        checkpoint = torch.load(args.resume)
        start_epoch = checkpoint["epoch"]
        model.load_state_dict(checkpoint["state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer"])
    else:
        print(f"no checkpoint found at {args.resume}")

for epoch in range(start_epoch, args.epochs):
    for first in range(0, len(x), 64):
        loss = nn.functional.cross_entropy(model(x[first : first + 64]), y[first : first + 64])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"step {epoch + 1} loss {loss.item():.4f}", flush=True)
    if (epoch + 1) % 10 == 0:
        state = {"epoch": epoch + 1, "state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, "checkpoint.pth.tar")
weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], args.epochs)
