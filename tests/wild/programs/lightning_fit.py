"""Lightning, Trainer.fit."""
# requires lightning
# tried in CI: test_lightning

import hashlib

import lightning
import torch
from torch import nn


class PrintSteps(lightning.Callback):
    def on_train_batch_end(self, trainer, *args):
        print("step", trainer.global_step, flush=True)


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 2))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


lightning.seed_everything(0)
x = torch.randn(640, 64)
data = torch.utils.data.TensorDataset(x, (x.sum(1) > 0).long())
loader = torch.utils.data.DataLoader(data, batch_size=32, shuffle=True)
model = Classifier()
trainer = lightning.Trainer(max_epochs=8, callbacks=[PrintSteps()], accelerator="cpu", enable_progress_bar=False)
trainer.fit(model, loader)
weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], trainer.global_step)
