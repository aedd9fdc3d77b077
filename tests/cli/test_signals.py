"""Signals that whoever started the supervisor had blocked or ignored, on real processes."""

import json
import signal
import subprocess
from collections.abc import Callable

import psutil
import pytest

from tests.conftest import BACKPROP, HANG_S, Runs, wait_for

WAITS = """
    try:
        print(json.dumps({"step": 1}), flush=True)
        while not os.path.exists("go"):
            time.sleep(0.02)
    except KeyboardInterrupt:
        print(json.dumps({"step": 2}), flush=True)
"""


def block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD])


def ignore_much() -> None:
    block()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1, signal.SIGWINCH, signal.SIGRTMIN):
        signal.signal(number, signal.SIG_IGN)


def start(runs: Runs, prepare: Callable[[], None], *words: str) -> "subprocess.Popen[bytes]":
    """A run whose trainer has printed its first line."""
    process = runs.start("run", "train.py", "--run-id", "r", "--grace", "600", *words, preexec_fn=prepare)
    wait_for(lambda: runs.output("r"))
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_supervisor_hears_signals_that_its_starter_had_blocked(runs: Runs, number: signal.Signals):
    """It stops its trainer, which saves: the mask is reset for both."""
    runs.script(WAITS)
    process = start(runs, block)
    process.send_signal(number)
    process.wait(HANG_S)
    document = runs.document("r")
    assert (document["status"], document["last_step"]) == ("stopped", 2)
    assert [e["signal"] for e in runs.journal("r") if e["event"] == "signalled"] == ["SIGINT"]


def test_a_trainer_starts_with_every_signal_at_its_default(runs: Runs):
    """As a Python that a terminal starts: nothing is blocked, and ignored is only what Python itself ignores."""
    runs.script(
        """
        ignored = [n for n in signal.valid_signals() if signal.getsignal(n) is signal.SIG_IGN]
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        print(json.dumps({"event": "mask", "ignored": sorted(ignored), "blocked": sorted(blocked)}), flush=True)
        """
    )
    process = runs.start("run", "train.py", "--run-id", "r", preexec_fn=ignore_much)
    assert process.wait(HANG_S) == 0
    seen = json.loads(runs.output("r"))
    assert (seen["ignored"], seen["blocked"]) == (sorted({signal.SIGPIPE, signal.SIGXFSZ}), [])


@pytest.mark.parametrize("command", [["nohup", BACKPROP], ["sh", "-c", "trap '' HUP; exec \"$@\"", "sh", BACKPROP]])
def test_a_hangup_that_was_ignored_stays_ignored(runs: Runs, command: list[str]):
    """Under `nohup` or `trap '' HUP` neither supervisor nor trainer ends when the terminal closes."""
    runs.script(WAITS)
    process = runs.start_program([*command, "run", "train.py", "--run-id", "r"])
    wait_for(lambda: runs.output("r"))
    (trainer,) = runs.tree()
    process.send_signal(signal.SIGHUP)
    trainer.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTSTP)  # once this has been handled, so would the first one have been
    supervisor = psutil.Process(process.pid)
    wait_for(lambda: supervisor.status() == psutil.STATUS_STOPPED or process.poll() is not None)
    process.send_signal(signal.SIGCONT)
    (runs.work / "go").touch()
    assert process.wait(HANG_S) == 0
    document = runs.document("r")
    assert (document["status"], document["last_step"]) == ("completed", 1)


def test_a_hangup_stops_a_run_that_did_not_ignore_it(runs: Runs):
    """A closed terminal ends a session gracefully."""
    runs.script(WAITS)
    process = start(runs, lambda: None)
    process.send_signal(signal.SIGHUP)
    assert process.wait(HANG_S) == 0
    document = runs.document("r")
    assert (document["status"], document["last_step"]) == ("stopped", 2)
    assert "SIGHUP" in document["reason"]


def test_the_trainer_of_a_detached_run_does_not_ignore_hangups(runs: Runs):
    """Only its supervisor does, which has no terminal."""
    runs.script("print(json.dumps({'event': 'seen', 'is_default': signal.getsignal(signal.SIGHUP) is signal.SIG_DFL}))")
    assert runs.call("run", "-d", "train.py", "--run-id", "r").returncode == 0
    runs.own("r")
    assert runs.call("wait", "r").returncode == 0
    assert json.loads(runs.output("r"))["is_default"]
