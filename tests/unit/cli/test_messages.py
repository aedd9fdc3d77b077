"""What the user is told while a run is queued, when a session starts, and when it has ended."""

from datetime import datetime, timedelta, timezone
from types import SimpleNamespace

import msgspec
import pytest

from backprop.cli.messages import QueueStatusLine, say_end, start_line
from backprop.records import Checkpoint, Measure, Run, RunView, Status
from tests.records import AT, SPEC, session_record

SAVED = Checkpoint(path="/c.pt", step=5, session=1, measure=Measure(size_bytes=1, saved_at=AT))


def end(capsys: pytest.CaptureFixture[str], status: Status, *saves: Checkpoint, **changes: object) -> str:
    session = session_record(status, elapsed_s=10.0, **changes)
    view = RunView(
        run=Run(spec=SPEC, status=status, latest=(session,)), run_dir="/r", checkpoints=saves, last_step=1234
    )
    say_end(SimpleNamespace(spec=SPEC, recorder=SimpleNamespace(view=lambda: view)), session)  # type: ignore[arg-type]
    return capsys.readouterr().err


def test_how_to_continue(capsys: pytest.CaptureFixture[str]):
    """The next command, and what it will do without a checkpoint; nothing for a run that is complete."""
    assert "at step 1,234" in end(capsys, Status.TIMEBOXED, SAVED)
    assert "· resume with: backprop resume r" in end(capsys, Status.FAILED, SAVED)
    assert "no checkpoint was found; resume with: backprop resume r (starts over" in end(capsys, Status.TIMEBOXED)
    assert "resume" not in end(capsys, Status.FAILED)  # it would fail again
    assert "resume" not in end(capsys, Status.COMPLETED, SAVED)


def test_an_emergency_checkpoint_is_none_to_resume_from(capsys: pytest.CaptureFixture[str]):
    """The script may not know how to load it."""
    emergency = msgspec.structs.replace(SAVED, is_emergency=True)
    assert "no checkpoint was found" in end(capsys, Status.TIMEBOXED, emergency)


def test_an_option_that_the_script_has_is_named(capsys: pytest.CaptureFixture[str]):
    message = end(capsys, Status.TIMEBOXED, SAVED, resume_option="--ckpt={path}")
    assert "this script has --ckpt; resume with --resume-arg --ckpt={path}" in message


def test_when_a_session_ends_is_said_with_its_day():
    """Unless that is today."""
    now = datetime.now(timezone.utc)
    assert f"ends {now.astimezone():%Y-}" not in start_line(SPEC, 1, now - timedelta(seconds=1))
    tomorrow = (now + timedelta(days=2)).astimezone()
    assert f"timebox 2,880 min, ends {tomorrow:%Y-%m-%d %H:%M:%S}" in start_line(SPEC, 2 * 86_400, now)


def test_in_a_pipe_a_reason_is_said_once(capsys: pytest.CaptureFixture[str]):
    """Not again for each figure in it that changes."""
    line = QueueStatusLine()
    for text in ("queued: 3 runs ahead", "queued: 2 runs ahead", "queued: GPU 0 is at 90 °C", "queued: 1 runs ahead"):
        line.show(text)
    line.end()
    assert len(capsys.readouterr().err.splitlines()) == 3
