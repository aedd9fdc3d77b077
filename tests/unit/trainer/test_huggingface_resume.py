"""Which checkpoints a call of the Trainer's `train` leaves alone; without the library."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from backprop.trainer.hooks.huggingface.identity import TRIAL
from backprop.trainer.hooks.huggingface.resume import TrainerResume


@pytest.fixture
def offered(tmp_path: Path):
    """A session that is offered a checkpoint, of a training with these parts of an identity."""

    def make(*parts: str) -> SimpleNamespace:
        (tmp_path / "trainer_state.json").write_text("{}")
        stored = {"identity": {"parts": dict.fromkeys(parts, "1")}}
        (tmp_path / "backprop_state_0.json").write_text(json.dumps({"train_call": 1, "training": stored}))
        return SimpleNamespace(resume_from=str(tmp_path))

    return make


def test_no_trial_of_a_search_continues_from_another_and_that_is_said_once(offered, capsys):
    session = offered("framework", TRIAL)
    for _ in range(2):
        TrainerResume(SimpleNamespace(), 1).begins_trial(session)
    assert session.resume_from is None
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert told[0].startswith(
        "backprop: hyperparameter_search starts each trial from the beginning: none continues from /"
    )


def test_the_training_after_a_search_keeps_its_checkpoint(offered, capsys):
    session = offered("framework")
    TrainerResume(SimpleNamespace(), 1).begins_trial(session)
    assert session.resume_from is not None
    assert capsys.readouterr().err == ""
