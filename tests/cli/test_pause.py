"""`backprop pause`, and `backprop resume` of what it paused, on real processes."""

import json
import os
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path

import pytest

from backprop.errors import BusyError
from backprop.lifecycle import requests
from backprop.store.home import Home
from backprop.store.journal import file as journals
from backprop.store.journal.fold import fold
from tests.cli.test_governor import HAS_CHILDREN, Machine, counts
from tests.conftest import HANG_S, Runs, held_at, wait_for

TICKS = """
    step = 0
    try:
        while not os.path.exists("go"):
            step += 1
            print(json.dumps({"step": step}), flush=True)
            time.sleep(0.02)
    except KeyboardInterrupt:
        print(json.dumps({"step": step, "was_asked": 1}), flush=True)
"""


@pytest.fixture
def machine(runs: Runs, tmp_path: Path) -> Machine:
    made = Machine(runs, tmp_path)
    made.card(0)
    return made


def started(runs: Runs, *options: str, script: str = TICKS, **popen: object) -> "subprocess.Popen[bytes]":
    """A run `r` whose trainer has begun to write."""
    runs.script(script)
    process = runs.start("run", "train.py", "--run-id", "r", *options, **popen)
    wait_for(lambda: runs.output("r"))
    return process


def ok(runs: Runs, *words: str) -> str:
    """What a command says that is to succeed."""
    done = runs.call(*words)
    assert done.returncode == 0, done.stderr
    return done.stderr


def entries(runs: Runs, event: str) -> list[dict]:
    return [entry for entry in runs.journal("r") if entry["event"] == event]


def grows(runs: Runs) -> None:
    before = len(runs.output("r"))
    wait_for(lambda: len(runs.output("r")) > before)


def test_a_pause_holds_the_whole_tree_and_resume_lets_it_go_on(runs: Runs):
    """Children and those started at the last moment stand still; the session that goes on is the same one."""
    process = started(runs, script=HAS_CHILDREN, stderr=subprocess.PIPE)
    wait_for(lambda: len(counts(runs)) > 3)
    assert "run r paused · resume with: backprop resume r" in ok(runs, "pause", "r")
    document = runs.document("r")
    assert document["status"] == "paused"
    assert document["reason"].startswith("`backprop pause` by ")
    wait_for(runs.stands_still)  # one that is just writing to a disk, a moment later
    before = counts(runs)
    assert "run r resumed" in ok(runs, "resume", "r")
    wait_for(lambda: all(int(counts(runs)[name] or 0) > int(value or 0) for name, value in before.items()))
    assert runs.document("r")["status"] == "running"
    (runs.work / "go").touch()
    _, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 0
    assert b"backprop: paused: `backprop pause` by " in err
    assert b"`backprop resume` by " in err
    assert [session["number"] for session in runs.document("r")["sessions"]] == [1]
    assert [entry["by"] for entry in entries(runs, "paused")] == [["user"]]


def test_a_pause_does_not_count_towards_the_timebox(runs: Runs):
    """The time shown stands still, and the timebox ends as much later as the run was paused."""
    process = started(runs)
    deadline_s = runs.deadline_s("r")
    ok(runs, "pause", "r")
    shown, began = runs.document("r")["elapsed_s"], time.monotonic()
    wait_for(lambda: time.monotonic() - began > 1)
    assert runs.document("r")["elapsed_s"] == shown
    assert runs.document("r")["status"] == "paused"
    ok(runs, "resume", "r")
    (runs.work / "go").touch()
    assert process.wait(HANG_S) == 0
    (continued,) = entries(runs, "continued")
    assert continued["paused_s"] > 1
    assert runs.deadline_s("r") - deadline_s > continued["paused_s"] / 2
    launched, ended = entries(runs, "trainer_launched")[0], entries(runs, "session_ended")[0]
    lasted_s = _unix_s(ended) - _unix_s(launched)
    # about its length without the pause: it is measured by another clock
    assert runs.document("r")["elapsed_s"] < lasted_s - continued["paused_s"] / 2


def _unix_s(entry: dict) -> float:
    return datetime.fromisoformat(entry["at"].replace("Z", "+00:00")).timestamp()


def test_two_pauses_are_one(runs: Runs):
    """The second says that it is paused already; one `resume` is enough."""
    started(runs)
    ok(runs, "pause", "r")
    assert "run r is already paused: `backprop pause` by " in ok(runs, "pause", "r")
    ok(runs, "resume", "r")
    grows(runs)
    assert len(entries(runs, "paused")) == len(entries(runs, "continued")) == 1
    ok(runs, "pause", "r")
    assert runs.document("r")["status"] == "paused"


def test_a_paused_run_can_be_stopped(runs: Runs):
    """It goes on for as long as it needs to hear of it, and saves."""
    process = started(runs)
    ok(runs, "pause", "r")
    ok(runs, "stop", "r")
    assert process.wait(HANG_S) == 0
    document = runs.document("r")
    assert (document["status"], document["metrics"]) == ("stopped", {"was_asked": 1})
    assert "backprop stop" in document["reason"]


def test_ctrl_c_ends_a_paused_run(runs: Runs):
    process = started(runs)
    ok(runs, "pause", "r")
    process.send_signal(signal.SIGINT)
    assert process.wait(HANG_S) == 130
    assert runs.document("r")["metrics"] == {"was_asked": 1}
    assert runs.tree() == []


def test_nothing_is_left_of_a_paused_run_whose_supervisor_is_killed(runs: Runs):
    """Whoever looks next lets the tree save and end."""
    process = started(runs)
    ok(runs, "pause", "r")
    process.kill()
    process.wait()
    looking = runs.start_patched(
        f"from backprop.lifecycle import indexing; indexing.VIEW_PATIENCE_S = {HANG_S}",
        "list",
        stdout=subprocess.DEVNULL,
    )
    assert looking.wait(HANG_S) == 0
    document = runs.document("r")
    assert (document["status"], document["metrics"]) == ("interrupted", {"was_asked": 1})
    assert runs.tree() == []


def test_a_pause_is_bounded(runs: Runs):
    """After --max-pause-minutes the session is stopped gracefully, and the reason says why."""
    process = started(runs, "--max-pause-minutes", "0.02")
    runs.call("pause", "r")  # it may see only the end
    assert process.wait(HANG_S) == 0
    assert entries(runs, "paused")
    document = runs.document("r")
    assert (document["status"], document["metrics"]) == ("stopped", {"was_asked": 1})
    assert "min in all (--max-pause-minutes 0.02)" in document["reason"]
    assert [entry["action"] for entry in entries(runs, "governed")] == ["stop"]


def test_a_queued_run_cannot_be_paused(runs: Runs):
    """It says why, and what can be done instead."""
    process = started(runs)
    runs.start("run", "train.py", "--run-id", "second", "-p", "1")
    wait_for(lambda: (runs.rundir("second") / "journal.jsonl").exists() and runs.journal("second"))
    done = runs.call("pause", "second")
    assert done.returncode == 75
    assert "run second is queued: there is nothing to pause yet. To stop it: backprop stop second" in done.stderr
    (runs.work / "go").touch()
    assert process.wait(HANG_S) == 0


def test_a_run_that_has_ended_cannot_be_paused(runs: Runs):
    runs.script("")
    runs.call("run", "train.py", "--run-id", "r")
    done = runs.call("pause", "r")
    assert done.returncode == 2
    assert "run r is not running (completed)" in done.stderr
    assert runs.call("pause", "nobody").returncode == 3


def test_resume_of_a_running_run_is_refused_as_ever(runs: Runs):
    started(runs)
    done = runs.call("resume", "r")
    assert done.returncode == 75
    assert "is running, supervised by process" in done.stderr


def test_a_paused_run_goes_on_with_the_limits_it_has(runs: Runs):
    """Options are for a new session: they are refused, and the run stays paused."""
    started(runs)
    ok(runs, "pause", "r")
    done = runs.call("resume", "r", "-m", "30")
    assert done.returncode == 2
    assert "keeps its own settings: backprop resume r, without options" in done.stderr
    assert runs.document("r")["status"] == "paused"


def test_a_user_cannot_end_the_governors_pause(machine: Machine):
    """`resume` says who holds the run; a user's pause ends, the heat's does not."""
    runs = machine.runs
    started(runs)
    machine.card(0, temp_c=91)
    wait_for(lambda: runs.document("r")["status"] == "paused")
    done = runs.call("resume", "r")
    assert done.returncode == 75
    assert "paused by the governor (GPU 0 is at 91 °C (limit 85)) and resumes by itself" in done.stderr
    ok(runs, "pause", "r")
    assert runs.document("r")["reason"].startswith("GPU 0 is at 91 °C (limit 85); `backprop pause` by ")
    assert "no longer by you: GPU 0 is at 91 °C" in ok(runs, "resume", "r")
    wait_for(runs.stands_still)  # one that is just writing to a disk, a moment later
    machine.card(0, temp_c=40)
    grows(runs)
    assert runs.document("r")["status"] == "running"


def test_a_card_that_has_cooled_does_not_end_a_users_pause(machine: Machine):
    """The governor lets go, and the run stays where the user wants it."""
    runs = machine.runs
    started(runs)
    machine.card(0, temp_c=91)
    wait_for(lambda: runs.document("r")["status"] == "paused")
    ok(runs, "pause", "r")
    machine.card(0, temp_c=40)
    wait_for(lambda: [entry["action"] for entry in entries(runs, "governed")] == ["pause", "continue"])
    wait_for(lambda: json.dumps(entries(runs, "paused")[-1]["by"]) == '["user"]')
    wait_for(runs.stands_still)  # one that is just writing to a disk, a moment later
    assert runs.document("r")["reason"].startswith("`backprop pause` by ")
    ok(runs, "resume", "r")
    grows(runs)


def test_what_is_being_stopped_cannot_be_paused(runs: Runs):
    """Nothing gets in the way of a stop."""
    runs.script("signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('ready', flush=True)\ntime.sleep(60)")
    process = runs.start("run", "train.py", "--run-id", "r", "--grace", "600")
    wait_for(lambda: runs.output("r"))
    process.send_signal(signal.SIGINT)
    wait_for(lambda: entries(runs, "signalled"))
    done = runs.call("pause", "r")
    assert done.returncode == 2
    assert "run r is being stopped" in done.stderr
    ok(runs, "stop", "r", "--now")
    process.wait(HANG_S)


def test_a_pause_that_nobody_has_heard_yet_can_be_taken_back(runs: Runs):
    """Two clicks on the page, one after the other: the run goes on, and the second is no mistake."""
    process = started(runs)
    os.kill(process.pid, signal.SIGSTOP)  # it hears nothing
    home = Home(runs.home)
    run = fold(home.rundir("r").read_spec(), journals.read(home.rundir("r").journal_path)[0])
    requests.request_pause(home, run)
    requests.request_resume(home, run)
    assert [entry["event"] for entry in runs.journal("r")][-2:] == ["pause_asked", "go_on_asked"]
    with pytest.raises(BusyError, match="is running, supervised by process"):
        requests.request_resume(home, run)
    os.kill(process.pid, signal.SIGCONT)
    wait_for(lambda: entries(runs, "continued"))
    grows(runs)
    ok(runs, "stop", "r", "--now")


def test_between_two_sessions_a_pause_is_for_the_next(runs: Runs):
    """The run is not said to have ended: the next session begins all the same."""
    runs.script("time.sleep(600 if os.environ['BACKPROP_SESSION'] == '2' else sys.exit(1))")
    held = held_at("backprop.lifecycle.driver", "choose_checkpoint")
    running = runs.start_patched(held, "run", "train.py", "--retries", "1", "--run-id", "r")
    wait_for((runs.work / "held").exists)
    pausing = runs.start("pause", "r", stderr=subprocess.PIPE)
    with pytest.raises(subprocess.TimeoutExpired):
        pausing.wait(1)
    (runs.work / "go-on").touch()
    _, told = pausing.communicate(timeout=HANG_S)
    if pausing.returncode == 0:
        assert runs.document("r")["status"] == "paused"
    else:  # it was seen waiting for its turn
        assert (pausing.returncode, b"run r is queued" in told) == (75, True), told
    assert runs.call("stop", "r", "--now").returncode == 0
    running.wait(HANG_S)
