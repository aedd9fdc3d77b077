"""The two files between a training process and the supervisor."""

import json
from pathlib import Path

import pytest

from backprop.trainer.channel import ControlFileReader, EventsFile, as_number

CONTROL = {"stop_wanted": False, "checkpoint_wanted": 0, "deadline_monotonic_s": 5.0, "grace_s": 1.0}


class Scalar:
    """As a tensor of one."""

    def item(self) -> float:
        return 0.5


def test_metrics_are_a_line_of_json_with_numbers_only(tmp_path: Path):
    metrics = {"loss": Scalar(), "name": "adam", "on": True, "best": None, "nan": float("nan"), "step": 7, "é": 2}
    EventsFile(str(tmp_path / "events")).send_metrics(3, metrics, 10)
    (line,) = (tmp_path / "events").read_text().splitlines()
    assert str(json.loads(line)) == str({"step": 3, "loss": 0.5, "nan": float("nan"), "é": 2, "total_steps": 10})


def test_an_event_may_hold_anything(tmp_path: Path):
    EventsFile(str(tmp_path / "events")).send({"event": "params", "params": {"lr": Scalar(), "path": tmp_path}})
    assert json.loads((tmp_path / "events").read_text())["params"] == {"lr": 0.5, "path": str(tmp_path)}


@pytest.mark.parametrize("value", [True, None, "1", b"1", object(), [1]])
def test_what_is_not_a_number(value: object):
    assert as_number(value) is None


def test_the_control_file_is_read_when_it_has_changed(tmp_path: Path):
    path = tmp_path / "control.json"
    control = ControlFileReader(str(path))
    control.read()
    assert (control.stop_requested, control.deadline) == (False, None)
    path.write_text(json.dumps({**CONTROL, "checkpoint_wanted": 2}))
    control.read()
    assert (control.checkpoint_requests, control.deadline) == (2, 5.0)
    path.unlink()
    control.read()
    assert control.checkpoint_requests == 2


def test_polls_are_few_unless_the_last_answer_has_expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backprop.trainer.channel.monotonic", lambda: 1000.0)
    path = tmp_path / "control.json"
    path.write_text(json.dumps(CONTROL))
    control = ControlFileReader(str(path))
    control.poll()
    path.unlink()
    path.write_text(json.dumps({**CONTROL, "stop_wanted": True, "checkpoint_was_read": True}))
    control.poll()
    assert not control.stop_requested
    control.expire()
    control.poll()
    assert control.stop_requested
    assert control.is_checkpoint_read
