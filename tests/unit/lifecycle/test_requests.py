"""Orders to a run that cannot be written, or that nobody answers; killing one whose supervisor hangs."""

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from backprop import host
from backprop.engines.local import LocalEngine
from backprop.errors import BackpropError, BusyError, UsageError
from backprop.lifecycle import requests
from backprop.records import Run, Status
from backprop.store.home import Home
from backprop.store.journal import file as journal
from backprop.store.journal.file import Journal
from backprop.store.journal.fold import fold
from tests.conftest import HANG_S, Runs, wait_for

STUBBORN = """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    print("ready", flush=True)
    time.sleep(600)
"""


def started(runs: Runs) -> "tuple[subprocess.Popen[bytes], Run]":
    """The supervisor of a run `r` that goes on, and the run."""
    process = runs.start("run", runs.script(STUBBORN), "--run-id", "r", "--grace", "60")
    wait_for(lambda: runs.output("r"))
    rundir = Home(runs.home).rundir("r")
    return process, fold(rundir.read_spec(), journal.read(rundir.journal_path)[0])


@contextmanager
def hanging(process: psutil.Process) -> Iterator[None]:
    """A supervisor that never gets to do anything: whoever wakes it, it is suspended again."""
    is_over = threading.Event()

    def hold() -> None:
        while not is_over.wait(0.001):
            try:
                process.suspend()
            except psutil.NoSuchProcess:
                return

    process.suspend()
    thread = threading.Thread(target=hold)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_an_order_that_cannot_be_written_is_said_in_one_line(runs: Runs, monkeypatch: pytest.MonkeyPatch):
    """The home became read-only between the look and the order."""
    _, run = started(runs)

    def refuse(path: Path) -> Journal:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(requests, "Journal", refuse)
    with pytest.raises(BackpropError, match="the request cannot be written to .*: Read-only file system"):
        requests.request_pause(Home(runs.home), run)


@pytest.mark.parametrize("now", [False, True])
def test_stop_reaches_a_run_whose_journal_has_no_room(runs: Runs, monkeypatch: pytest.MonkeyPatch, now: bool):
    """By SIGTERM to its supervisor, which ends it as at every other request."""
    process = runs.start("run", runs.script("print(1, flush=True); time.sleep(600)"), "--run-id", "r", "--grace", "60")
    wait_for(lambda: runs.output("r"))
    rundir, home = Home(runs.home).rundir("r"), Home(runs.home)
    run = fold(rundir.read_spec(), journal.read(rundir.journal_path)[0])
    monkeypatch.setattr(Journal, "append", lambda *_: False)
    requests.request_stop(home, run, now=now)
    assert process.wait(HANG_S) == 0
    document = runs.document("r")
    assert (document["status"], "SIGTERM" in document["reason"]) == ("stopped", True)


def test_options_do_not_let_a_paused_run_go_on(runs: Runs):
    """It was paused a moment after the command had looked: they would be lost."""
    _, run = started(runs)
    assert runs.call("pause", "r").returncode == 0
    with pytest.raises(UsageError, match="run r is paused, .*backprop resume r, without options"):
        requests.request_resume(Home(runs.home), run, has_options=True)
    assert runs.document("r")["status"] == "paused"


def test_a_run_that_has_not_heard_of_its_pause_is_not_said_to_be_paused(runs: Runs):
    """Its supervisor stands still: whether it pauses, nobody has seen."""
    process, run = started(runs)
    psutil.Process(process.pid).suspend()
    requests.request_pause(Home(runs.home), run)
    with pytest.raises(UsageError, match="run r is asked to pause, .*backprop resume r, without options"):
        requests.request_resume(Home(runs.home), run, has_options=True)


def test_a_supervisor_on_another_machine_is_not_said_to_be_killed(runs: Runs, monkeypatch: pytest.MonkeyPatch):
    """What has that number here is somebody else; the message says where to go."""
    process, run = started(runs)
    psutil.Process(process.pid).suspend()
    monkeypatch.setattr(host, "name", lambda: "another-machine")
    with pytest.raises(BusyError, match="On that machine: backprop stop r --now"):
        requests.stop_now(Home(runs.home), run, print)
    assert process.poll() is None


def test_the_number_of_a_dead_supervisor_is_not_signalled(runs: Runs, monkeypatch: pytest.MonkeyPatch):
    """Another process may have it by now; what is left of the run is ended all the same."""
    process, run = started(runs)
    process.kill()
    process.wait()
    monkeypatch.setattr(LocalEngine, "cancel", lambda *_: pytest.fail("a number was signalled"))
    ended = requests.stop_now(Home(runs.home), run, print)
    assert (ended.run.status, "its supervisor (pid " in (ended.run.reason or "")) == (Status.STOPPED, True)
    assert runs.tree() == []


def test_a_supervisor_that_hangs_is_ended_and_how_is_told(runs: Runs):
    """With its trainer; the journal has the words of whoever asked, and no others."""
    process, run = started(runs)
    with hanging(psutil.Process(process.pid)):
        ended = requests.stop_now(Home(runs.home), run, print, by="kill button of the page")
    assert ended.has_ended
    assert ended.summary.startswith(f"run r {ended.run.status.value}")
    assert runs.tree() == []
    (asked,) = [entry for entry in runs.journal("r") if entry["event"] == "stop_asked"]
    assert asked["detail"] == f"`kill button of the page` by {host.user()}"
