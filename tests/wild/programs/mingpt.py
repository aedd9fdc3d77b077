"""PyTorch in minGPT's manner, a Trainer class with callbacks and no resume."""
# requires torch

import hashlib
from collections import defaultdict

import torch
from torch import nn


class Trainer:
    def __init__(self, model, train_dataset, max_iters):
        self.model, self.train_dataset, self.max_iters = model, train_dataset, max_iters
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        self.callbacks = defaultdict(list)
        self.iter_num = 0

    def add_callback(self, onevent, callback):
        self.callbacks[onevent].append(callback)

    def trigger_callbacks(self, onevent):
        for callback in self.callbacks[onevent]:
            callback(self)

    def run(self):
        sampler = torch.utils.data.RandomSampler(self.train_dataset, replacement=True, num_samples=int(1e10))
        loader = torch.utils.data.DataLoader(self.train_dataset, sampler=sampler, batch_size=16)
        for x, y in loader:
            self.loss = nn.functional.cross_entropy(self.model(x), y)
            self.model.zero_grad(set_to_none=True)
            self.loss.backward()
            self.optimizer.step()
            self.trigger_callbacks("on_batch_end")
            self.iter_num += 1
            if self.iter_num >= self.max_iters:
                break


def batch_end_callback(trainer):
    print(f"step {trainer.iter_num} loss {trainer.loss.item():.4f}", flush=True)
    if trainer.iter_num % 100 == 0:
        torch.save(trainer.model.state_dict(), "model.pt")


torch.manual_seed(0)
x = torch.randn(1024, 64)
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
trainer = Trainer(model, torch.utils.data.TensorDataset(x, (x.sum(1) > 0).long()), max_iters=600)
trainer.add_callback("on_batch_end", batch_end_callback)
trainer.run()
weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], trainer.iter_num)
