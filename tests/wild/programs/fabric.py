"""Lightning Fabric, fabric.save and fabric.load."""
# requires lightning

import argparse
import hashlib

import torch
from lightning.fabric import Fabric, seed_everything
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--resume", help="a checkpoint to continue from")
args = parser.parse_args()

fabric = Fabric(accelerator="cpu", devices=1)
fabric.launch()
seed_everything(0)
x = torch.randn(640, 64)
data = torch.utils.data.TensorDataset(x, (x.sum(1) > 0).long())
loader = fabric.setup_dataloaders(torch.utils.data.DataLoader(data, batch_size=32))
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
model, optimizer = fabric.setup(model, optimizer)
state = {"model": model, "optimizer": optimizer, "epoch": 0}
if args.resume:
    fabric.load(args.resume, state)
while state["epoch"] < 40:
    for inputs, labels in loader:
        loss = nn.functional.cross_entropy(model(inputs), labels)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
    state["epoch"] += 1
    print("step", state["epoch"], flush=True)
    if state["epoch"] % 10 == 0:
        fabric.save("checkpoints/last.ckpt", state)
weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], state["epoch"])
