"""How the start of a session is recorded."""

import errno
from pathlib import Path

import msgspec
import pytest

from backprop.records import Run, Status
from backprop.store.journal.entries import SessionStarted
from backprop.supervisor import start
from backprop.supervisor.plan import SessionPlan
from tests.unit.supervisor.fake_session import FakeSession


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    script = tmp_path / "train.py"
    script.write_text("print(1)\n")
    made = FakeSession(tmp_path)
    made.context.spec = msgspec.structs.replace(made.context.spec, script=str(script))
    return made


def record(session: FakeSession) -> SessionStarted:
    context = session.context
    run = Run(spec=context.spec, status=Status.QUEUED)
    start.record_start(context, SessionPlan(limits=context.limits, checkpoint="/ckpt"), run)
    entry = session.events[-1]
    assert isinstance(entry, SessionStarted)
    return entry


def test_a_start_is_recorded_with_its_code(session: FakeSession):
    """What it is offered, its limits, and the checksum of the script as it is now."""
    entry = record(session)
    assert (entry.session, entry.timebox_s, entry.offered) == (1, 600, "/ckpt")
    assert entry.script_sha256 is not None
    assert session.observer.messages == []


def test_a_script_that_was_edited_since_it_was_submitted(session: FakeSession):
    context = session.context
    submitted = record(session).script_sha256
    context.spec = msgspec.structs.replace(context.spec, script_sha256=submitted)
    Path(context.spec.script or "").write_text("print(2)\n")
    entry = record(session)
    assert entry.code is not None
    assert entry.code.changed == ("train.py",)
    assert session.observer.messages == ["note: the code has changed since it was submitted: train.py"]


def test_nothing_starts_without_room_for_its_record(session: FakeSession):
    """Or the session would seem to have started once there is room."""
    session.journal.has_room = lambda: False
    with pytest.raises(OSError) as caught:
        record(session)
    assert caught.value.errno == errno.ENOSPC
    assert session.journal.is_dropped
