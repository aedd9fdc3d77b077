"""Who is notified of what, and whose word about that counts. No process is started."""

import os
from pathlib import Path

import msgspec
import pytest

from backprop.lifecycle import notifier
from backprop.lifecycle.notifier import Notifier
from backprop.records import Notification, Run, Status
from backprop.store.home import Home
from backprop.store.rundir import RunDir
from tests.records import SPEC

WANTED = (Notification(on=(Status.QUEUED, Status.RUNNING, Status.COMPLETED), command=("true",)),)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's key lies."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "backprop" / "notify.key"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which workers were started, and whether they are waited for."""
    found: list[str] = []
    monkeypatch.setattr(notifier, "start_detached", lambda command: found.append(f"journal of {command[-2]} bytes"))
    monkeypatch.setattr(notifier, "start_and_wait", lambda command, limit_s: found.append(f"waits {limit_s}"))
    return found


def run(status: Status) -> Run:
    return Run(spec=SPEC, status=status)


def test_recipients_come_back(rundir: RunDir, state: Path):
    notifier.put(rundir, WANTED)
    assert notifier.read(rundir) == WANTED
    assert state.stat().st_mode & 0o777 == 0o600
    notifier.put(rundir, ())
    assert not rundir.notify_path.exists()


def test_a_command_in_a_folder_from_elsewhere_is_not_executed(rundir: RunDir, home: Home):
    """notify.json counts for the run that it was written for, with this user's key, and not for a copy."""
    notifier.put(rundir, WANTED)
    copy = home.rundir("copy")
    copy.path.mkdir()
    copy.notify_path.write_bytes(rundir.notify_path.read_bytes())
    assert notifier.read(copy) == ()
    rundir.notify_path.write_bytes(rundir.notify_path.read_bytes().replace(b'"true"', b'"evil"'))
    assert notifier.read(rundir) == ()


def test_an_empty_key_proves_nothing(rundir: RunDir, state: Path):
    """As a full disk may leave one: anybody could make the proof."""
    notifier.put(rundir, WANTED)
    state.write_bytes(b"")
    forged = notifier._Proven(notifications=WANTED, proof=notifier._proof(b"", rundir, WANTED))
    rundir.notify_path.write_bytes(msgspec.json.encode(forged))
    assert notifier.read(rundir) == ()


def test_a_status_is_notified_of_when_it_changes(rundir: RunDir, home: Home, sent: list[str]):
    """Once, and of an end only when nothing follows."""
    notifier.put(rundir, WANTED)
    mine = Notifier(rundir, home.index_path)
    for size, status in enumerate((Status.RUNNING, Status.RUNNING, Status.PAUSED, Status.RUNNING, Status.COMPLETED)):
        mine.changed(run(status), size)
    assert sent == ["journal of 0 bytes", "journal of 3 bytes"]
    mine.ended(run(Status.COMPLETED), 9)
    assert sent[2:] == ["journal of 9 bytes"]


def test_a_job_waits_for_what_it_sends(rundir: RunDir, home: Home, sent: list[str]):
    """Slurm kills its processes when it ends; that it was queued at the start is known already."""
    notifier.put(rundir, WANTED)
    mine = Notifier(rundir, home.index_path, is_in_job=True)
    for status in (Status.QUEUED, Status.RUNNING, Status.QUEUED):
        mine.changed(run(status), 1)
    mine.ended(run(Status.COMPLETED), 2)
    assert sent == ["journal of 1 bytes", f"waits {notifier._LINE_S}", "waits None"]


def test_a_worker_that_cannot_be_started_is_logged(rundir: RunDir, home: Home, monkeypatch: pytest.MonkeyPatch):
    """The run matters more."""

    def fail(_: object) -> None:
        raise OSError(11, os.strerror(11))

    monkeypatch.setattr(notifier, "start_detached", fail)
    notifier.put(rundir, WANTED)
    Notifier(rundir, home.index_path).changed(run(Status.RUNNING), 1)
    assert rundir.notify_log_path.read_text().endswith("running: all failed: cannot be started: BlockingIOError\n")
