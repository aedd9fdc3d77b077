"""LightningCLI, fit."""
# requires lightning jsonargparse[signatures]
# tried nightly: test_resume_flag_parsers
# arguments fit --trainer.max_epochs=8 --trainer.accelerator=cpu --trainer.enable_progress_bar=false

import hashlib

import lightning
import torch
from lightning.pytorch.cli import LightningCLI
from torch import nn


class Classifier(lightning.LightningModule):
    def __init__(self, width: int = 64):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 2))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def on_train_batch_end(self, *args):
        print("step", self.trainer.global_step, flush=True)

    def on_train_end(self):
        weights = b"".join(value.numpy().tobytes() for value in self.state_dict().values())
        print("final", hashlib.sha256(weights).hexdigest()[:12], self.trainer.global_step)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class Data(lightning.LightningDataModule):
    def train_dataloader(self):
        x = torch.randn(640, 64, generator=torch.Generator().manual_seed(0))
        data = torch.utils.data.TensorDataset(x, (x.sum(1) > 0).long())
        return torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)


LightningCLI(Classifier, Data, seed_everything_default=0)
