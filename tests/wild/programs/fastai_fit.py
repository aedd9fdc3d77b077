"""fastai, fit_one_cycle with SaveModelCallback."""
# requires fastai torch==2.14.1 torchvision==0.29.1 scikit-learn
# ruff: noqa: F403, F405  the library is meant to be imported so

import argparse
import hashlib

import torch
from fastai.basics import *
from fastai.callback.all import *
from torch import nn


class PrintSteps(Callback):
    def after_train(self):  # of an epoch that was not skipped
        print("step", self.epoch + 1, flush=True)


parser = argparse.ArgumentParser()
parser.add_argument("--resume", action="store_true", help="go on after the last epoch that was saved")
args = parser.parse_args()

set_seed(0)
x = torch.randn(1024, 64)
data = list(zip(x, (x.sum(1) > 0).long(), strict=True))
loaders = DataLoaders(DataLoader(data, bs=32), DataLoader(data[:256], bs=32))
model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
learner = Learner(loaders, model, loss_func=nn.CrossEntropyLoss(), metrics=accuracy)
start = 0
if args.resume:
    newest = max((learner.path / learner.model_dir).glob("model_*.pth"), key=lambda path: int(path.stem[6:]))
    learner.load(newest.stem)
    start = int(newest.stem[6:]) + 1
saving = SaveModelCallback(every_epoch=True, with_opt=True)
with learner.no_bar():
    learner.fit_one_cycle(12, 1e-3, start_epoch=start, cbs=[saving, PrintSteps()])
weights = b"".join(value.numpy().tobytes() for value in model.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], 12)
