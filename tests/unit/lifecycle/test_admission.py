"""What admission makes of earlier runs and of those ahead in the queue."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from backprop.errors import ExitCode
from backprop.governor.reservations import PastUse
from backprop.lifecycle import admission
from backprop.lifecycle.admission import NotAdmitted
from backprop.records import CodeState, GitState, Run, Status, StopReason, Usage
from backprop.store.home import Home
from backprop.supervisor.process.launch import RUN_DIR_VARIABLE
from tests.records import SPEC, session_record

USAGE = Usage(measured_s=60.0, peak={"ram": 5e9}, mean={}, energy_wh=None, last={}, counts={})


def run(status: Status = Status.COMPLETED, commit: str = "c", sha256: str = "s", **spec: Any) -> Run:
    session = session_record(
        status,
        timebox_s=60,
        supervisor_pid=7,
        script_sha256=sha256,
        code=CodeState(git=GitState(commit=commit, branch="b", dirty=False)),
    )
    return Run(spec=msgspec.structs.replace(SPEC, **spec), status=status, latest=(session,))


def past(earlier: Run, usage: Usage = USAGE) -> list[PastUse]:
    training = admission._training(SPEC, run(), "s")
    return admission._past([(earlier, usage)], "ram", training)


def test_the_use_of_the_same_training_is_alike():
    assert past(run()) == [PastUse(peak_bytes=5e9, measured_s=60.0, has_ended_well=True, is_alike=True)]


@pytest.mark.parametrize(
    "changes",
    [{"commit": "d"}, {"sha256": "t"}, {"command": ("python", "train.py", "--batch", "256")}, {"cwd": "/elsewhere"}],
    ids=lambda changes: next(iter(changes)),
)
def test_another_training_of_the_script_is_not(changes: dict[str, Any]):
    """A run with another batch size says nothing about what this one needs."""
    assert not past(run(**changes))[0].is_alike


def test_what_failed_may_not_have_got_far():
    assert not past(run(Status.FAILED))[0].has_ended_well


def test_what_was_not_measured_tells_nothing():
    assert past(run(), msgspec.structs.replace(USAGE, peak={})) == []
    assert past(Run(spec=SPEC, status=Status.QUEUED)) == []


@pytest.mark.parametrize(
    ("by", "code"),
    [(None, ExitCode.REFUSED), (StopReason.CTRL_C, ExitCode.INTERRUPTED), (StopReason.USER, ExitCode.REFUSED)],
)
def test_the_exit_code_of_a_session_that_was_not_admitted(by: StopReason | None, code: ExitCode):
    assert NotAdmitted(reason="x", by=by).exit_code == code


def test_a_run_is_within_another_only_in_the_same_home(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(RUN_DIR_VARIABLE, raising=False)
    assert admission.surrounding_run(home) is None
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(home.runs_path / "outer"))
    assert admission.surrounding_run(home) == "outer"
    monkeypatch.setenv(RUN_DIR_VARIABLE, str(tmp_path / "other" / "runs" / "outer"))
    assert admission.surrounding_run(home) is None
