"""Composer, Trainer with autoresume."""
# requires mosaicml

import hashlib

import torch
from composer import Trainer
from composer.core import Callback
from composer.models import ComposerClassifier
from torch import nn


class PrintSteps(Callback):
    def batch_end(self, state, logger):
        print("step", int(state.timestamp.batch), flush=True)


torch.manual_seed(0)
x = torch.randn(640, 64)
data = torch.utils.data.TensorDataset(x, (x.sum(1) > 0).long())
model = ComposerClassifier(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)), num_classes=2)
trainer = Trainer(
    model=model,
    train_dataloader=torch.utils.data.DataLoader(data, batch_size=32),
    optimizers=torch.optim.Adam(model.parameters(), lr=1e-3),
    max_duration="4ep",
    device="cpu",
    run_name="wild",
    save_folder="checkpoints",
    save_interval="20ba",
    autoresume=True,
    callbacks=[PrintSteps()],
    seed=0,
)
trainer.fit()
weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], int(trainer.state.timestamp.batch))
