"""How the end of a session is recorded."""

from pathlib import Path

import pytest

from backprop.records import Status, StopReason
from backprop.store.journal.entries import SessionEnded, SessionStarted
from backprop.supervisor import filing
from backprop.supervisor.filing import SessionEnd
from tests.unit.supervisor.fake_session import EPOCH, FakeSession


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    made = FakeSession(tmp_path)
    made.context.entries.append(
        SessionStarted(at=EPOCH, session=1, timebox_s=600, grace_s=30, host="h", supervisor_pid=1, boot_id=None)
    )
    return made


@pytest.mark.parametrize(
    ("end", "status", "exit_code"),
    [
        (SessionEnd(code=0, reason=None, elapsed_s=1), Status.COMPLETED, 0),
        (SessionEnd(code=3, reason="exit code 3", elapsed_s=1), Status.FAILED, 3),
        (SessionEnd(code=-11, reason="SIGSEGV", elapsed_s=1), Status.FAILED, 139),
        (SessionEnd(code=0, reason="timebox", elapsed_s=1, stopped_by=StopReason.TIMEBOX), Status.TIMEBOXED, 0),
        (SessionEnd(code=-9, reason="Ctrl-C", elapsed_s=1, stopped_by=StopReason.CTRL_C), Status.STOPPED, 137),
    ],
)
def test_an_end_is_recorded(session: FakeSession, end: SessionEnd, status: Status, exit_code: int):
    """A stop that was asked for outweighs the exit code; a signal is 128 and its number, as in a shell."""
    outcome = filing.file(session.context, end)
    entry = session.events[-1]
    assert isinstance(entry, SessionEnded)
    assert (entry.status, entry.exit_code, entry.reason) == (status, exit_code, end.reason)
    assert (outcome.session.status, outcome.session.elapsed_s) == (status, 1)


def test_the_control_file_makes_room_for_the_end(session: FakeSession):
    """On a full disk: no trainer reads it any more."""
    control = session.context.rundir.control_path
    control.write_bytes(b"{}")
    session.journal.has_room = lambda: not control.exists()
    filing.file(session.context, SessionEnd(code=0, reason=None, elapsed_s=1))
    assert not control.exists()
    assert session.observer.messages == []


def test_the_last_line_of_stderr_is_the_reason(session: FakeSession):
    session.context.rundir.err_path(1).write_text("Traceback\nValueError: \033[31mbad\n\n")
    code, line = filing.code_and_last_line(session.context, 1, was_killed=False)
    assert (code, "bad" in line, "\033" in line) == (1, True, False)


def test_nothing_was_killed_for_memory_here():
    """As far as the kernel counts: no process of ours is named by it."""
    assert filing.OomCheck().has_killed({1}) is False
