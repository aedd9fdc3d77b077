"""Optuna, a study with SQLite storage around a training."""
# requires optuna torch

import hashlib

import optuna
import torch
from torch import nn

TRIALS, EPOCHS = 4, 10


def objective(trial):
    torch.manual_seed(0)
    x = torch.randn(1024, 64)
    y = (x.sum(1) > 0).long()
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=trial.suggest_float("lr", 1e-4, 1e-2, log=True))
    for epoch in range(EPOCHS):
        for first in range(0, len(x), 32):
            loss = nn.functional.cross_entropy(model(x[first : first + 32]), y[first : first + 32])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print("step", trial.number * EPOCHS + epoch + 1, flush=True)
    return loss.item()


study = optuna.create_study(
    storage="sqlite:///study.db",
    study_name="digits",
    sampler=optuna.samplers.RandomSampler(seed=0),
    load_if_exists=True,
)
COMPLETE = (optuna.trial.TrialState.COMPLETE,)
study.optimize(objective, callbacks=[optuna.study.MaxTrialsCallback(TRIALS, states=COMPLETE)])
values = [trial.value for trial in study.get_trials(states=COMPLETE)]
print("final", hashlib.sha256(repr(values).encode()).hexdigest()[:12], len(values))
