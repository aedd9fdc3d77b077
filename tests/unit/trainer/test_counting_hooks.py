"""Hooks that count steps of a training: what they hold of it, and how often they report."""

import gc
import json
import weakref
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backprop.trainer.hooks import stable_baselines3, ultralytics
from backprop.trainer.link import SupervisorLink
from tests.unit.trainer.links import link_in


class Training:
    """Stands for a model with a replay buffer, or a trainer with all that it put on the GPU."""

    num_timesteps = _total_timesteps = 30
    epoch, epochs = 4, 5


@pytest.fixture
def link(tmp_path: Path) -> SupervisorLink:
    return link_in(tmp_path)


def learn(link: SupervisorLink, monkeypatch: pytest.MonkeyPatch, training: Training) -> None:
    monkeypatch.setattr(stable_baselines3, "current", lambda: link)
    methods = {"on_step": lambda _: True, "on_training_end": lambda _: None}
    module = SimpleNamespace(BaseCallback=type("BaseCallback", (), methods))
    stable_baselines3.hook(module)
    callback = module.BaseCallback()
    callback.model = training
    callback.on_training_end()


def train(link: SupervisorLink, _: pytest.MonkeyPatch, training: Training) -> None:
    callbacks: dict[str, list[Any]] = defaultdict(list)
    ultralytics._report_epochs(link, callbacks)
    for event in ("on_train_start", "on_fit_epoch_end"):
        for callback in callbacks[event]:
            callback(training)


@pytest.mark.parametrize(("hook", "steps"), [(learn, 30), (train, 5)])
def test_a_training_that_is_over_is_let_go(
    link: SupervisorLink, monkeypatch: pytest.MonkeyPatch, hook: Any, steps: int
):
    """Its memory is the script's, for the next one; its last step is still known."""
    training = Training()
    hook(link, monkeypatch, training)
    assert link.steps.count_now is not None
    assert link.steps.count_now() == steps
    ended = weakref.ref(training)
    del training
    gc.collect()
    assert ended() is None
    assert link.steps.count_now() == steps


def test_an_epoch_is_reported_once_however_often_a_model_is_trained(link: SupervisorLink, tmp_path: Path):
    callbacks: dict[str, list[Any]] = defaultdict(list)
    for _ in range(3):
        ultralytics._report_epochs(link, callbacks)
    for callback in callbacks["on_fit_epoch_end"]:
        callback(Training())
    assert [json.loads(line)["step"] for line in (tmp_path / "session-1.events").read_text().splitlines()] == [5]
