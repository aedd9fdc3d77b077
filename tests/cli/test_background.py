"""`run -d` and `run --vary` here: each supervisor is on its own, and Ctrl-C takes back what is being started."""

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from backprop.supervisor.signals import DOUBLE_PRESS_S
from tests.conftest import HANG_S, Runs, wait_for

UNTIL_TOLD = """
    try:
        print(json.dumps({"step": 1}), flush=True)
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
    ids = done.stdout.split()
    newest_first = [run["id"] for run in json.loads(runs.call("list", "--json").stdout)]
    assert newest_first == ids[::-1]  # though all were asked for at once
    return ids


def test_a_log_on_a_full_disk_changes_nothing(runs: Runs):
    """The supervisor cannot write down what it says, and does all that it does."""
    (runs.work / "backprop.config.json").write_text(json.dumps({"notify": [{"command": ["touch", "notified"]}]}))
    runs.script("sys.exit(0 if 'BACKPROP_SESSION' in os.environ and os.environ['BACKPROP_SESSION'] == '2' else 1)")
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 1
    wait_for((runs.work / "notified").exists)
    (runs.work / "notified").unlink()
    (runs.rundir("r") / "supervisor.log").symlink_to("/dev/full")
    runs.own("r")
    assert runs.call("resume", "r", "--detach").returncode == 0
    wait_for((runs.work / "notified").exists)
    assert status_of(runs, "r") == "completed"


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
    resumed = runs.call("resume", second, "--again")
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


@pytest.fixture
def line(runs: Runs) -> "Line":
    """The line of a home in which something has run already."""
    (runs.work / "go").touch()
    assert runs.call("run", "train.py").returncode == 0
    (runs.work / "go").unlink()
    (lock,) = (runs.home / "line").glob("*/lock")
    return Line(lock)


class Line:
    """Before the governor: while it is closed a supervisor that asks for its turn gets no answer, and gives none."""

    def __init__(self, lock: Path) -> None:
        self._lock = lock
        self.close()

    def close(self) -> None:
        self._fd = os.open(self._lock, os.O_RDONLY)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def open(self) -> None:
        os.close(self._fd)


def start(runs: Runs, *words: object, patch: str = "") -> "subprocess.Popen[bytes]":
    """A run whose supervisor asks for its turn until the line is open, however long a busy machine takes to open it."""
    patient = f"from backprop.governor import run_queue\nrun_queue.LOCK_PATIENCE_S = {HANG_S}\n"
    return runs.start_patched(
        patient + patch, "run", *words, "train.py", stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def supervisors(front: "subprocess.Popen[bytes]") -> list[psutil.Process]:
    """What it has forked, and not executed as another program."""
    process, found = psutil.Process(front.pid), []
    for child in process.children():
        with suppress(psutil.Error):  # it has ended just now
            found += [child] if child.cmdline() == process.cmdline() else []
    return found


def start_r(runs: Runs, patch: str = "") -> "subprocess.Popen[bytes]":
    """Start run r in the background; it has a supervisor, which has not answered."""
    front = start(runs, "-d", "--run-id", "r", patch=patch)
    wait_for(lambda: runs.rundir("r").exists() and supervisors(front))
    return front


def press(front: "subprocess.Popen[bytes]", number: signal.Signals = signal.SIGINT) -> None:
    """Ctrl-C, of which it says that it has heard it."""
    assert front.stderr is not None
    front.send_signal(number)
    assert b"press Ctrl-C again" in front.stderr.readline()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_before_it_is_started(runs: Runs, line: Line, number: signal.Signals):
    """The run that `-d` has just made is stopped as soon as its supervisor answers: 130."""
    front = start_r(runs)
    press(front, number)
    line.open()
    out, err = front.communicate(timeout=HANG_S)
    assert (front.returncode, out) == (130, b""), err.decode()
    assert "run r was asked to stop" in err.decode()
    wait_for(lambda: status_of(runs, "r") == "stopped")
    assert "Ctrl-C" in runs.document("r")["reason"]


def test_one_press_that_is_heard_twice(runs: Runs, line: Line):
    """As some wrappers pass it on: it is one, and the run is stopped."""
    # however long a busy machine takes to pass it on
    front = start_r(runs, "from backprop.cli import background\nbackground.DOUBLE_PRESS_S = 100")
    press(front)
    front.send_signal(signal.SIGINT)
    line.open()
    _, err = front.communicate(timeout=HANG_S)
    assert (front.returncode, b"was asked to stop" in err) == (130, True), err.decode()
    wait_for(lambda: status_of(runs, "r") == "stopped")


def test_ctrl_c_twice_before_it_is_started(runs: Runs, line: Line):
    """Nobody waits for a supervisor that does not answer; the user is told how to stop the run."""
    front = start_r(runs)
    press(front)
    time.sleep(DOUBLE_PRESS_S)
    front.send_signal(signal.SIGINT)
    _, err = front.communicate(timeout=HANG_S)
    assert front.returncode == 130
    assert "stop it then: backprop stop r" in err.decode()
    line.open()
    wait_for(lambda: status_of(runs, "r") == "running")
    assert runs.call("stop", "r").returncode == 0


def test_ctrl_c_and_a_supervisor_that_dies(runs: Runs, line: Line):
    """It never begins, and nobody is told that it may."""
    front = start_r(runs)
    press(front)
    (supervisor,) = supervisors(front)
    supervisor.kill()
    _, err = front.communicate(timeout=HANG_S)
    assert front.returncode == 130
    assert err.decode() == "backprop: run r was not started\n"
    line.open()


def test_a_terminal_that_is_killed_before_it_is_started(runs: Runs, line: Line):
    """The supervisor has nobody to answer, and trains."""
    front = start_r(runs)
    front.kill()
    front.wait()
    line.open()
    wait_for(lambda: status_of(runs, "r") == "running")
    (runs.work / "go").touch()
    wait_for(lambda: status_of(runs, "r") == "completed")


def test_ctrl_z_before_it_is_started(runs: Runs, line: Line):
    """Only the command that started it stands still: `fg` goes on with it."""
    front = start_r(runs)
    front.send_signal(signal.SIGTSTP)
    wait_for(lambda: psutil.Process(front.pid).status() == psutil.STATUS_STOPPED)
    line.open()
    wait_for(lambda: status_of(runs, "r") == "running")
    front.send_signal(signal.SIGCONT)
    out, _ = front.communicate(timeout=HANG_S)
    assert (front.returncode, out) == (0, b"r\n")
    (runs.work / "go").touch()
    wait_for(lambda: status_of(runs, "r") == "completed")


def test_ctrl_c_takes_back_all(runs: Runs, line: Line):
    """Those before the one that is being started are stopped, those behind it never begin, and whoever wants is told."""
    notice = {
        "command": [sys.executable, "-c", f"open({str(runs.work)!r} + '/told', 'a').write('x')"],
        "on": ["refused"],
    }
    (runs.work / "backprop.config.json").write_text(json.dumps({"notify": [notice]}))
    earlier = runs.only_id()
    front = start(runs, "-p", 9, "--vary", "n=1,2,3")
    wait_for(lambda: len(list(runs.home.glob("runs/*"))) == 4 and len(supervisors(front)) == 1)
    front.send_signal(signal.SIGSTOP)  # it starts no other meanwhile
    line.open()
    wait_for(lambda: {path.parent.name for path in runs.home.glob("runs/*/session-1.out")} - {earlier})
    line.close()
    front.send_signal(signal.SIGCONT)
    wait_for(lambda: len(supervisors(front)) == 2)
    front.send_signal(signal.SIGINT)
    line.open()
    out, err = front.communicate(timeout=HANG_S)
    assert front.returncode == 130, err.decode()
    first, second, third = out.decode().split()
    for run_id in (first, second):
        wait_for(lambda run_id=run_id: status_of(runs, run_id) == "stopped")
        assert "Ctrl-C" in runs.document(run_id)["reason"]
    assert status_of(runs, third) == "refused"
    assert f"run {third} was not started: Ctrl-C before it was started" in err.decode()
    wait_for((runs.work / "told").exists)


@pytest.mark.parametrize(("words", "count"), [(["-d"], 1), (["--vary", "seed=1,2"], 2)], ids=["one", "several"])
def test_json_tells_of_a_run_that_the_index_does_not_have_yet(runs: Runs, words: list[str], count: int):
    """Somebody else writes into the index meanwhile: the journal knows the run."""
    runs.script("time.sleep(1000)")
    runs.call("list")
    index = sqlite3.connect(runs.home / "index.db", isolation_level=None)
    index.execute("BEGIN EXCLUSIVE")
    try:
        done = runs.call("run", "--json", *words, "train.py")
    finally:
        index.close()
    documents = json.loads(done.stdout)
    documents = documents if isinstance(documents, list) else [documents]
    assert len(documents) == count
    assert {document["status"] for document in documents} == {"running"}
    for document in documents:
        runs.own(document["id"])


@pytest.mark.parametrize("command", [["list"], ["status", "last"], ["status"]], ids=" ".join)
def test_json_is_json_whatever_the_locale(runs: Runs, command: list[str]):
    """What it cannot show is escaped as JSON has it."""
    runs.script("pass")
    runs.call("run", "train.py", "-n", "läuft 走 🚀")
    done = runs.call(*command, "--json", PYTHONIOENCODING="ascii")
    assert done.stdout.isascii()
    assert json.loads(done.stdout) is not None
    assert command == ["status"] or "läuft 走 🚀" in json.dumps(json.loads(done.stdout), ensure_ascii=False)
