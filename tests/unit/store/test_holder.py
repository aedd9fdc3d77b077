"""Only the process that has a run's journal open is signalled in the run's name. Real processes."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backprop.store.holder import signal_holder
from tests.conftest import Runs


@contextmanager
def process(*opened: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """One that has these files open, and waits."""
    program = "import sys; files = [open(path) for path in sys.argv[1:]]; print(flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program, *map(str, opened)], **pipes) as started:  # type: ignore[call-overload]
        try:
            started.stdout.readline()
            yield started
        finally:
            started.kill()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "journal.jsonl"
    path.touch()
    return path


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_the_process_that_has_the_journal_open_gets_the_signal(
    journal: Path, has_pidfd: bool, monkeypatch: pytest.MonkeyPatch
):
    """Also where the system cannot hold on to a process while it is looked at."""
    if not has_pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    with process(journal) as holder:
        assert signal_holder(journal, holder.pid, signal.SIGKILL)
        assert holder.wait() == -signal.SIGKILL
    assert not signal_holder(journal, holder.pid, signal.SIGKILL)


def test_nobody_else_does(journal: Path, tmp_path: Path):
    """A pid that is another's by now; and what the system takes for a group of processes."""
    other = tmp_path / "other"
    other.write_text("of another run")
    with process(other) as stranger:
        for pid in (stranger.pid, 0, 1, -1, -stranger.pid):
            assert not signal_holder(journal, pid, signal.SIGKILL)
        assert stranger.poll() is None


def test_a_stop_kills_nobody_whose_pid_stands_in_the_journal_by_mistake(runs: Runs):
    """A run folder says that it is being run by a process of this host: of a container of the same name, say."""
    runs.script("pass")
    runs.call("run", "train.py", "--run-id", "r")
    journal = runs.rundir("r") / "journal.jsonl"
    with process() as stranger:
        entries = [entry for entry in runs.journal("r") if entry["event"] in {"session_started", "trainer_launched"}]
        entries[0]["supervisor_pid"] = stranger.pid
        journal.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        with journal.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # somebody answers for it, and never does
            runs.home.joinpath("index.db").unlink()
            done = runs.call("stop", "r", "--now")
        assert "has not stopped yet" in done.stderr
        assert done.returncode == 75
        assert stranger.poll() is None
