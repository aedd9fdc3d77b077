"""Which steps the supervisor hears of."""

import json
from pathlib import Path
from typing import Any

import pytest

from backprop.trainer import step_reports as module
from backprop.trainer.channel import EventsFile
from backprop.trainer.step_reports import STEP_EVERY_S, StepReports


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StepReports:
    """Of a process at second 1000 of the monotonic clock."""
    monkeypatch.setattr(module, "monotonic", lambda: 1000.0)
    return StepReports(EventsFile(str(tmp_path / "events")))


def sent(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events").read_text().splitlines()]


def test_a_total_is_reported_once_a_loop(steps: StepReports, tmp_path: Path):
    """It is a metric, whose curve would have a point for each step."""
    for _ in range(2):
        steps.begin_loop()
        for step in (1, 2, 3):
            steps.end_step(1000.0 + step * STEP_EVERY_S, step, 3, is_counted=False)
    assert sent(tmp_path) == [{"step": 1, "total_steps": 3}, {"step": 2}, {"step": 3}] * 2


def test_a_step_after_a_metric_is_not_reported_at_once(steps: StepReports, tmp_path: Path):
    """Only if nothing was for a second: the metric has told its step already."""
    steps.begin_loop()
    steps.log(1, {"loss": 0.5})
    steps.end_step(1000.5, 2, None, is_counted=False)
    assert (steps.in_loop, sent(tmp_path)) == (2, [{"step": 1, "loss": 0.5}])
    steps.end_loop()
    assert (steps.in_loop, steps.ended_at, sent(tmp_path)[1:]) == (None, 2, [{"step": 2}])


@pytest.mark.parametrize(
    ("is_counted", "last", "reported"),
    [(False, 3, 3), (False, 3, 5), (True, 3, 3)],
    ids=["the same", "a later one", "counted"],
)
def test_the_last_step_of_a_loop_is_not_reported_again(
    steps: StepReports, tmp_path: Path, is_counted: bool, last: int, reported: int
):
    steps.begin_loop()
    steps.log(reported, {})
    steps.end_step(1000.0, last, None, is_counted=is_counted)
    steps.end_loop()
    assert sent(tmp_path) == [{"step": reported}]


def test_a_unit_is_reported_once_for_each_kind_of_steps(steps: StepReports, tmp_path: Path):
    for _ in range(2):
        steps.set_unit("epoch")
        steps.set_unit("batch", is_counted=True)
    assert sent(tmp_path) == [
        {"event": "unit", "unit": "epoch"},
        {"event": "unit", "unit": "batch", "counted": True},
    ]
