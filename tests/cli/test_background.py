"""`run -d` and `run --vary` here: each supervisor is on its own, and Ctrl-C takes back what is being started."""

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.conftest import Runs, wait_for

UNTIL_TOLD = """
    print(json.dumps({"step": 1}), flush=True)
    try:
        while not os.path.exists("go" + "".join(sys.argv[1:])):
            time.sleep(0.02)
    except KeyboardInterrupt:
        sys.exit(130)
"""


@pytest.fixture(autouse=True)
def waiting(runs: Runs) -> None:
    """The trainer of each run waits for a file of its own."""
    runs.script(UNTIL_TOLD)


def vary(runs: Runs) -> list[str]:
    """Three runs side by side: their ids."""
    done = runs.call("run", "-p", 9, "--vary", "n=1,2,3", "train.py")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def status_of(runs: Runs, run_id: str) -> str:
    return runs.document(run_id)["status"]


def end(runs: Runs, *numbers: int) -> None:
    for number in numbers:
        (runs.work / f"go--n{number}").touch()


def test_one_that_has_ended_is_resumed(runs: Runs):
    """Those that were started with it have nothing of it in their hands."""
    first, second, third = vary(runs)
    end(runs, 2)
    wait_for(lambda: status_of(runs, second) == "completed")
    assert status_of(runs, first) == status_of(runs, third) == "running"
    resumed = runs.call("resume", second)
    assert resumed.returncode == 0, resumed.stderr
    end(runs, 1, 3)
    for run_id in (first, third):
        wait_for(lambda run_id=run_id: status_of(runs, run_id) == "completed")


def test_one_that_is_lost_is_noticed(runs: Runs):
    """Its lock is free as soon as its supervisor is killed, whoever was started with it."""
    first, second, third = vary(runs)
    os.kill(runs.document(third)["pid"], signal.SIGKILL)
    wait_for(lambda: status_of(runs, third) == "interrupted")
    assert status_of(runs, first) == status_of(runs, second) == "running"
    end(runs, 1, 2)
    for run_id in (first, second):
        wait_for(lambda run_id=run_id: status_of(runs, run_id) == "completed")


@contextmanager
def nobody_is_admitted(runs: Runs) -> Iterator[None]:
    """Whoever asks for a turn gets no answer meanwhile."""
    (runs.work / "go").touch()
    assert runs.call("run", "train.py").returncode == 0  # makes the lock
    (runs.work / "go").unlink()
    (lock,) = (runs.home / "line").glob("*/lock")
    fd = os.open(lock, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(fd)


def start(runs: Runs, *words: object) -> "subprocess.Popen[bytes]":
    return runs.start("run", *words, "train.py", stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def supervisors(front: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """What it has forked, and not executed as another program."""
    process, found = psutil.Process(front.pid), []
    for child in process.children():
        with suppress(psutil.Error):  # it has ended just now
            found += [child] if child.cmdline() == process.cmdline() else []
    return found


def start_r(runs: Runs) -> "subprocess.Popen[bytes]":
    """Start run r in the background; it has a supervisor, which has not answered."""
    front = start(runs, "-d", "--run-id", "r")
    wait_for(lambda: runs.rundir("r").exists() and supervisors(front))
    return front


def test_ctrl_c_before_it_is_started(runs: Runs):
    """The run that `-d` has just made is stopped as soon as its supervisor answers, or never begins: 130."""
    with nobody_is_admitted(runs):
        front = start_r(runs)
        front.send_signal(signal.SIGINT)
    out, err = front.communicate(timeout=30)
    assert (front.returncode, out) == (130, b""), err.decode()
    assert "run r is asked to stop" in err.decode()
    wait_for(lambda: status_of(runs, "r") == "stopped")
    assert "Ctrl-C" in runs.document("r")["reason"]


def test_ctrl_c_twice_before_it_is_started(runs: Runs):
    """Nobody waits for a supervisor that does not answer; the user is told how to stop the run."""
    with nobody_is_admitted(runs):
        front = start_r(runs)
        assert front.stderr is not None
        front.send_signal(signal.SIGINT)
        assert b"press Ctrl-C again" in front.stderr.readline()
        front.send_signal(signal.SIGINT)
        _, err = front.communicate(timeout=30)
        assert front.returncode == 130
        assert "stop it then: backprop stop r" in err.decode()
    wait_for(lambda: status_of(runs, "r") == "running")
    assert runs.call("stop", "r").returncode == 0


def test_a_terminal_that_is_killed_before_it_is_started(runs: Runs):
    """The supervisor has nobody to answer, and trains."""
    with nobody_is_admitted(runs):
        front = start_r(runs)
        front.kill()
        front.wait()
    wait_for(lambda: status_of(runs, "r") == "running")
    (runs.work / "go").touch()
    wait_for(lambda: status_of(runs, "r") == "completed")


def test_ctrl_c_takes_back_all(runs: Runs, tmp_path: Path):
    """Those before the one that is being started are stopped, and those behind it never begin."""
    cards = tmp_path / "cards"
    cards.mkdir()
    # asked for its cards by the second supervisor, the driver does not answer until there is a file
    (cards / "nvidia-smi").write_text(
        f"#!/bin/sh\nif test $(ls {runs.home}/runs/*/session-1.out 2>/dev/null | wc -l) = 1; then\n"
        f": > {cards}/asks; until test -e {cards}/answer; do sleep 0.05; done; fi\nexit 9\n"
    )
    (cards / "nvidia-smi").chmod(0o755)
    runs.environment["PATH"] = f"{cards}:{runs.environment['PATH']}"
    front = start(runs, "--gpu-probe", "nvidia-smi", "-p", 9, "--vary", "n=1,2,3")
    wait_for(lambda: (cards / "asks").exists() and len(supervisors(front)) == 2)
    front.send_signal(signal.SIGINT)
    (cards / "answer").touch()
    out, err = front.communicate(timeout=30)
    assert front.returncode == 130, err.decode()
    first, second, third = out.decode().split()
    for run_id in (first, second):
        wait_for(lambda run_id=run_id: status_of(runs, run_id) in {"stopped", "refused"})
        assert "Ctrl-C" in runs.document(run_id)["reason"]
    assert status_of(runs, third) == "refused"
    assert runs.document(third)["reason"] == "Ctrl-C before it was started"
