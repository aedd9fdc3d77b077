"""skorch, NeuralNetClassifier with Checkpoint and LoadInitState."""
# requires skorch scikit-learn

import hashlib

import torch
from sklearn.datasets import load_digits
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, Checkpoint, LoadInitState
from torch import nn


class PrintSteps(Callback):
    def on_epoch_end(self, net, **kwargs):
        print("step", len(net.history), flush=True)


torch.manual_seed(0)
x, y = load_digits(return_X_y=True)
module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
checkpoint = Checkpoint(monitor=None, dirname="checkpoints")
net = NeuralNetClassifier(
    module,
    criterion=nn.CrossEntropyLoss,
    max_epochs=30,
    optimizer=torch.optim.Adam,
    train_split=None,
    verbose=0,
    callbacks=[checkpoint, LoadInitState(checkpoint), PrintSteps()],
)
net.fit((x / 16).astype("float32"), y)
weights = b"".join(value.numpy().tobytes() for value in net.module_.state_dict().values())
print("final", hashlib.sha256(weights).hexdigest()[:12], len(net.history))
