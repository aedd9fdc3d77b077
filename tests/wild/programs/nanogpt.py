"""PyTorch in nanoGPT's manner, --init_from=resume and ckpt.pt in its out_dir."""
# requires torch
# options --resume-arg --init_from=resume

import hashlib
import os
import sys

import torch
from torch import nn

out_dir = "out"
init_from = "scratch"  # 'scratch' or 'resume'
eval_interval = 100
max_iters = 800
learning_rate = 1e-3
for argument in sys.argv[1:]:  # configurator.py
    key, value = argument.removeprefix("--").split("=")
    globals()[key] = type(globals()[key])(value)

os.makedirs(out_dir, exist_ok=True)
torch.manual_seed(1337)
data = torch.randint(0, 50, (10000,), generator=torch.Generator().manual_seed(0))
model = nn.Sequential(nn.Embedding(50, 32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 50))
optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
iter_num = 0
if init_from == "resume":
    print(f"Resuming training from {out_dir}")
    checkpoint = torch.load(os.path.join(out_dir, "ckpt.pt"))
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    iter_num = checkpoint["iter_num"]

first = True
while True:
    if iter_num % eval_interval == 0 and iter_num > 0 and not first:
        checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iter_num": iter_num}
        torch.save(checkpoint, os.path.join(out_dir, "ckpt.pt"))
    first = False
    at = torch.randint(len(data) - 33, (8,))
    x = torch.stack([data[i : i + 32] for i in at])
    y = torch.stack([data[i + 1 : i + 33] for i in at])
    loss = nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    print(f"step {iter_num}: loss {loss.item():.4f}", flush=True)
    iter_num += 1
    if iter_num > max_iters:
        break
weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], iter_num)
