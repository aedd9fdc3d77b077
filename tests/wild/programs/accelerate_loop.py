"""accelerate, a loop with save_state and load_state."""
# requires accelerate torch
# tried nightly: test_pytorch

import argparse
import hashlib
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--resume_from_checkpoint", help="If the training should continue from a checkpoint folder.")
args = parser.parse_args()

accelerator = Accelerator(cpu=True)
set_seed(0)
x = torch.randn(1024, 64)
data = torch.utils.data.TensorDataset(x, (x.sum(1) > 0).long())
loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
starting_epoch = 0
if args.resume_from_checkpoint:
    accelerator.load_state(args.resume_from_checkpoint)
    starting_epoch = int(Path(args.resume_from_checkpoint).name.removeprefix("epoch_")) + 1
for epoch in range(starting_epoch, 30):
    for inputs, labels in loader:
        loss = nn.functional.cross_entropy(model(inputs), labels)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    print("step", epoch + 1, flush=True)
    if (epoch + 1) % 5 == 0:
        accelerator.save_state(f"out/epoch_{epoch}")
weights = b"".join(value.numpy().tobytes() for value in accelerator.unwrap_model(model).state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], 30)
