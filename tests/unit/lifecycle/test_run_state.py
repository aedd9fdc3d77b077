"""The present state of a run."""

from typing import Any

import msgspec
import pytest

from backprop.errors import ExitCode, NoSuchRunError
from backprop.lifecycle import run_state
from backprop.lifecycle.run_state import RunState, SupervisorInfo, current_supervisor
from backprop.records import Pauser, Run, Session, Status, StopReason, Waiter
from backprop.store.home import Home
from backprop.store.rundir import RunDir
from tests.records import AT, SPEC


def run(status: Status = Status.RUNNING, waiter: Waiter | None = None, **session: Any) -> Run:
    last = Session(
        number=1, status=status, started_at=AT, timebox_s=60, grace_s=30, host="h", supervisor_pid=7, **session
    )
    return Run(spec=SPEC, status=status, latest=(last,), waiter=waiter)


def test_who_supervises_a_run():
    """The one that waits for its next session, else that of the session that is active."""
    waiter = Waiter(session=2, host="other", supervisor_pid=8, since=AT)
    assert current_supervisor(run()) == SupervisorInfo(1, 7, "h", 30.0)
    assert current_supervisor(run(Status.QUEUED, waiter)) == SupervisorInfo(2, 8, "other", 0.0, is_queued=True)
    assert current_supervisor(run(Status.COMPLETED)) is None
    assert current_supervisor(Run(spec=SPEC, status=Status.QUEUED)) is None


@pytest.mark.parametrize("status", [Status.RUNNING, Status.STOPPED])
def test_only_a_session_that_has_not_ended_is_paused_or_being_stopped(status: Status):
    now = RunState(run(status, stopped_by=StopReason.USER, paused_by=(Pauser.USER,), is_pause_asked=True))
    is_active = status is Status.RUNNING
    assert (now.has_ended, now.is_being_stopped, now.is_paused_by_user) == (not is_active, is_active, is_active)
    assert now.is_asked_to_pause == is_active


def test_a_run_exits_as_its_last_session_did():
    assert run_state.exit_code_of(run(Status.COMPLETED, exit_code=0)) == ExitCode.OK
    assert run_state.exit_code_of(run(Status.FAILED, exit_code=3)) == 3
    assert run_state.exit_code_of(run(Status.STOPPED, stopped_by=StopReason.CTRL_C)) == ExitCode.INTERRUPTED


def test_the_reason_is_part_of_the_summary():
    assert RunState(run()).summary == "run r running"
    assert RunState(msgspec.structs.replace(run(), reason="too hot")).summary == "run r running: too hot"


def test_a_run_that_was_removed(home: Home):
    with pytest.raises(NoSuchRunError, match="was removed"):
        run_state.look(home, SPEC)


def test_waiting_ends_as_soon_as_the_state_is_there_or_after_the_timeout(home: Home, rundir: RunDir):
    present = Run(spec=SPEC, status=Status.QUEUED)
    found = run_state.wait_for(home, present, lambda now: not now.has_ended, 60.0)
    assert found is not None
    assert found.run.spec == SPEC
    assert run_state.wait_for(home, present, lambda _: False, 0.0) is None
