"""Slots and the line before them, as users see them: --max-parallel, --wait, --no-wait, --retries, --sessions."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import subprocess

import pytest

from tests.conftest import BACKPROP, HANG_S, Runs, wait_for

UNTIL_TOLD = """
    print(json.dumps({"step": 1}), flush=True)
    while not os.path.exists("go"):
        time.sleep(0.02)
"""


@pytest.fixture
def held(runs: Runs) -> Runs:
    """A home whose only slot is held by run `first` until there is a file `go`."""
    runs.environment["BACKPROP_MAX_PARALLEL"] = "1"
    runs.script(UNTIL_TOLD)
    runs.start("run", "train.py", "--run-id", "first")
    wait_for(lambda: runs.output("first"))
    return runs


def let_go(runs: Runs) -> None:
    (runs.work / "go").touch()


def status_of(runs: Runs, run_id: str) -> str:
    listed = json.loads(runs.call("list", "--json").stdout)
    return next((run["status"] for run in listed if run["id"] == run_id), "")


def queue_of(runs: Runs) -> list[str]:
    return [ticket["run_id"] for ticket in json.loads(runs.call("status", "--json").stdout)["queue"]]


def test_a_run_waits_until_there_is_a_slot(held: Runs):
    """It says for what, is queued meanwhile, and starts by itself."""
    second = held.start("run", "train.py", "--run-id", "second", stderr=subprocess.PIPE)
    wait_for(lambda: queue_of(held) == ["second"])
    document = held.document("second")
    assert (document["status"], document["sessions"]) == ("queued", [])
    assert document["reason"].startswith("1 run active (limit 1): first.")
    let_go(held)
    _, err = second.communicate(timeout=HANG_S)
    assert second.returncode == 0
    assert err.decode().splitlines()[0].startswith("backprop: run second queued: 1 run active (limit 1): first.")
    assert held.document("second")["status"] == "completed"


def test_no_wait_refuses_at_once(held: Runs):
    """Without a slot, --no-wait exits with 75 and says who has it."""
    done = held.call("run", "train.py", "--no-wait", "--run-id", "second")
    assert done.returncode == 75
    assert "1 run active (limit 1): first" in done.stderr
    assert held.document("second")["status"] == "refused"
    let_go(held)


def test_waiting_can_be_limited(held: Runs):
    """--wait MINUTES gives up when there was no turn by then."""
    done = held.call("run", "train.py", "--wait", "0.01", "--run-id", "second")
    assert done.returncode == 75
    assert "not started within 0.01 min: 1 run active" in done.stderr
    assert held.document("second")["status"] == "refused"
    let_go(held)


def test_wait_may_stand_before_the_script(held: Runs):
    """--wait without a number is no riddle, wherever it stands."""
    waiting = held.start("run", "--wait", "train.py", "--run-id", "second")
    wait_for(lambda: queue_of(held) == ["second"])
    let_go(held)
    assert waiting.wait(HANG_S) == 0


def test_wait_and_no_wait_exclude_one_another(runs: Runs):
    """Nobody can want both."""
    runs.script(UNTIL_TOLD)
    done = runs.call("run", "train.py", "--wait", "--no-wait")
    assert done.returncode == 2
    assert "mutually exclusive" in done.stderr


def test_ctrl_c_leaves_the_line(held: Runs):
    """One Ctrl-C is enough: 130, refused, and the place is free."""
    waiting = held.start("run", "train.py", "--run-id", "second")
    wait_for(lambda: queue_of(held) == ["second"])
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(HANG_S) == 130
    assert queue_of(held) == []
    document = held.document("second")
    assert (document["status"], document["reason"]) == ("refused", "Ctrl-C while queued")
    let_go(held)


def test_a_lock_that_somebody_keeps_can_be_left_alone(held: Runs):
    """What holds the queue is said, and Ctrl-C ends the wait."""
    with next(held.home.glob("line/*/lock")).open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = held.start("run", "train.py", "--run-id", "second", stderr=subprocess.PIPE)
        assert f"run second queued: another process holds {lock.name}" in waiting.stderr.readline().decode()
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(HANG_S) == 130
    let_go(held)


def test_stop_takes_a_run_out_of_the_line(held: Runs):
    """`backprop stop` works on a queued run, too."""
    waiting = held.start("run", "train.py", "--run-id", "second")
    wait_for(lambda: queue_of(held) == ["second"])
    done = held.call("stop", "second")
    assert done.returncode == 0
    assert "run second refused: `backprop stop` by" in done.stderr
    assert waiting.wait(HANG_S) == 75
    let_go(held)


def test_a_killed_waiter_is_interrupted(held: Runs):
    """Whoever looks next files it, and nobody waits behind it."""
    waiting = held.start("run", "train.py", "--run-id", "second")
    wait_for(lambda: queue_of(held) == ["second"])
    waiting.kill()
    waiting.wait()
    assert status_of(held, "second") == "interrupted"
    assert queue_of(held) == []
    let_go(held)


def test_who_ended_it_in_the_queue_is_not_who_ends_the_session_that_gets_its_number(runs: Runs):
    """A session that never began has no part in the one that gets its number: it can be paused, and `wait` knows."""
    runs.environment["BACKPROP_MAX_PARALLEL"] = "1"
    runs.script(UNTIL_TOLD)
    runs.script(
        """
    try:
        print(json.dumps({"step": 1}), flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        while not os.path.exists("has-a-follower"):
            time.sleep(0.02)
    """,
        "patient.py",
    )
    words = ("--until-step", 1, "--grace", "200", "--sessions", "2", "--run-id", "r")
    first = runs.start("run", "patient.py", *words)
    wait_for(lambda: runs.output("r"))
    runs.start("run", "train.py", "--run-id", "other")
    wait_for(lambda: queue_of(runs) == ["other"])
    (runs.work / "has-a-follower").touch()
    wait_for(lambda: queue_of(runs) == ["r"])
    assert runs.call("stop", "r").returncode == 0
    assert first.wait(HANG_S) == runs.call("wait", "r").returncode == 0
    assert runs.document("r")["stopped_by"] == "user"

    waiting = runs.start("resume", "r", "-m", "10")
    wait_for(lambda: queue_of(runs) == ["r"])
    assert runs.document("r")["stopped_by"] is None
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(HANG_S) == runs.call("wait", "r").returncode == 130
    assert "removed by Ctrl-C before session 2" in runs.call("status", "r").stdout

    third = runs.start("resume", "r", "-m", "10", "-p", "2")
    wait_for(lambda: runs.output("r", 2))
    assert runs.call("pause", "r").returncode == 0
    assert runs.document("r")["sessions"][1]["paused_by"] == ["user"]
    assert runs.call("resume", "r").returncode == 0
    third.send_signal(signal.SIGINT)
    assert third.wait(HANG_S) == runs.call("wait", "r").returncode == 130
    sessions = runs.document("r")["sessions"]
    assert [(one["stopped_by"], one["paused_by"]) for one in sessions] == [("step", []), ("ctrl-c", [])]
    let_go(runs)


def test_a_suspended_waiter_lets_others_pass(held: Runs):
    """Ctrl-Z in the line must not hold everybody up."""
    second = held.start("run", "train.py", "--run-id", "second")
    wait_for(lambda: queue_of(held) == ["second"])
    second.send_signal(signal.SIGTSTP)
    third = held.start("run", "train.py", "--run-id", "third")
    wait_for(lambda: queue_of(held) == ["second", "third"])
    let_go(held)
    assert third.wait(HANG_S) == 0
    second.send_signal(signal.SIGCONT)
    assert second.wait(HANG_S) == 0


def test_a_detached_run_waits_in_the_background(held: Runs):
    """`run -d` returns at once, says what it waits for, and starts when its turn comes."""
    done = held.call("run", "-d", "train.py", "--run-id", "second")
    assert (done.returncode, done.stdout) == (0, "second\n")
    assert "queued: 1 run active (limit 1): first" in done.stderr
    assert status_of(held, "second") == "queued"
    follower = held.start("logs", "second", "-f", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    let_go(held)
    assert follower.communicate(timeout=HANG_S) == (b'{"step": 1}\n', b"")
    wait_for(lambda: status_of(held, "second") == "completed")


def test_a_detached_run_that_may_not_wait_is_refused(held: Runs):
    """With --no-wait the exit code says so, as in the foreground."""
    done = held.call("run", "-d", "train.py", "--no-wait", "--run-id", "second")
    assert (done.returncode, done.stdout) == (75, "")
    assert "run second was not started: 1 run active" in done.stderr
    let_go(held)


def test_a_dry_run_says_what_it_would_wait_for(held: Runs):
    """And changes nothing: no ticket, no run."""
    done = held.call("run", "train.py", "--dry-run")
    assert done.returncode == 75
    assert "start    1 run active (limit 1): first" in done.stdout
    assert queue_of(held) == []
    let_go(held)


def test_a_resume_waits_as_a_run_does(held: Runs):
    """It keeps its sessions while it is queued, and is what it was when it leaves the line."""
    held.script('print(json.dumps({"step": 1}), flush=True); time.sleep(60)', "slow.py")
    done = held.call("run", "slow.py", "-p", "2", "-m", "0.005", "--run-id", "second")
    assert done.returncode == 0
    waiting = held.start("resume", "second", "-p", "1")
    wait_for(lambda: queue_of(held) == ["second"])
    assert (status_of(held, "second"), len(held.document("second")["sessions"])) == ("queued", 1)
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(HANG_S) == 130
    document = held.document("second")
    assert (document["status"], len(document["sessions"])) == ("timeboxed", 1)
    assert document["reason"] == "timebox of 0.3 s ended"
    let_go(held)


def test_the_waiting_line_is_one_line_in_a_terminal(held: Runs):
    """It is rewritten in place, cut to the terminal's width, and left behind before the session's first line."""
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    waiting = held.start("run", "train.py", "--run-id", "second", stdout=slave, stderr=slave)
    os.close(slave)
    seen = b""

    def read() -> bytes:
        nonlocal seen
        with contextlib.suppress(BlockingIOError, OSError):
            seen += os.read(master, 65536)
        return seen

    wait_for(lambda: b"\r\x1b[2Kbackprop: run second queued: 1 run active" in read())
    let_go(held)
    assert waiting.wait(HANG_S) == 0
    wait_for(lambda: b"completed" in read())
    os.close(master)
    waited, _, rest = seen.partition(b"\r\n")
    assert waited.count(b"queued") == waited.count(b"\x1b[2K")
    assert rest.startswith(b"backprop: run second \xc2\xb7 timebox 10 min")


def test_a_run_inside_a_run_does_not_wait_for_it(runs: Runs):
    """Nor behind those that wait for it: all of them would wait for one another."""
    runs.environment["BACKPROP_MAX_PARALLEL"] = "1"
    runs.script("print('innermost', flush=True)", "innermost.py")
    nested = "sys.exit(subprocess.run([{backprop!r}, 'run', '{name}.py', '--run-id', '{name}']).returncode)"
    runs.script(nested.format(backprop=BACKPROP, name="innermost"), "inner.py")
    runs.script(
        "while not os.path.exists('has-a-follower'): time.sleep(0.02)\n"
        + nested.format(backprop=BACKPROP, name="inner"),
        "outer.py",
    )
    outer = runs.start("run", "outer.py", "--run-id", "outer")
    wait_for(lambda: status_of(runs, "outer") == "running")
    other = runs.start("run", "innermost.py", "--run-id", "other")
    wait_for(lambda: queue_of(runs) == ["other"])
    (runs.work / "has-a-follower").touch()
    assert outer.wait(HANG_S) == 0
    assert other.wait(HANG_S) == 0
    assert "innermost\n" in runs.output("outer")
    queued = {name: [e for e in runs.journal(name) if e["event"] == "queued"] for name in ("inner", "innermost")}
    assert queued == {"inner": [], "innermost": []}


# -- one after the other

SAVING = """
    step = 0
    if "BACKPROP_RESUME_FROM" in os.environ:
        step = json.load(open(os.environ["BACKPROP_RESUME_FROM"]))["step"]
    print(json.dumps({"event": "started", "at": step, "timebox": os.environ["BACKPROP_TIMEBOX_S"]}), flush=True)
    def save():
        json.dump({"step": step}, open(f"{step}.json", "w"))
        print(json.dumps({"event": "checkpoint_saved", "path": f"{step}.json", "step": step}), flush=True)
"""


def test_a_failure_is_tried_again_from_the_newest_checkpoint(runs: Runs):
    """--retries goes on where the last save was, inside what is left of the timebox."""
    runs.script(
        SAVING
        + """
    step += 10
    print(json.dumps({"step": step}), flush=True)
    save()
    if step < 30:
        raise RuntimeError(f"at {step}")
"""
    )
    done = runs.call("run", "train.py", "--retries", "5", "--run-id", "r")
    assert done.returncode == 0
    document = runs.document("r")
    assert (document["status"], document["last_step"]) == ("completed", 30)
    assert [session["status"] for session in document["sessions"]] == ["failed", "failed", "completed"]
    started = [json.loads(runs.output("r", number).splitlines()[0]) for number in (1, 2, 3)]
    assert [line["at"] for line in started] == [0, 10, 20]
    assert 600 == float(started[0]["timebox"]) > float(started[1]["timebox"]) > float(started[2]["timebox"])
    assert "retry 1 of 5 in 1 s" in done.stderr


def test_a_run_that_always_fails_at_the_same_step_is_given_up(runs: Runs):
    """Twice without a new checkpoint is enough, and both the terminal and the record say so."""
    runs.script('print(json.dumps({"step": 7}), flush=True); raise RuntimeError("no")')
    done = runs.call("run", "train.py", "--retries", "50", "--run-id", "r")
    assert done.returncode == 1
    document = runs.document("r")
    assert len(document["sessions"]) == 2
    assert document["reason"] == (
        "exit code 1: RuntimeError: no; not retried: it failed twice at step 7 with no new checkpoint in between"
    )
    assert "not retried" in done.stderr


def test_ctrl_c_while_it_backs_off_ends_it(runs: Runs):
    """The failure stays what the run came to, and nothing is tried again."""
    runs.script("raise RuntimeError")
    patch = (
        "from backprop.lifecycle import continuation as c; c._backoff_s = lambda tried: 0 if len(tried) < 3 else 1000"
    )
    process = runs.start_patched(patch, "run", "train.py", "--retries", "9", "--run-id", "r")
    runs.only_id()
    ends = lambda: [entry for entry in runs.journal("r") if entry["event"] == "session_ended"]  # noqa: E731
    wait_for(lambda: len(ends()) == 3)
    process.send_signal(signal.SIGINT)
    assert process.wait(HANG_S) == 130
    document = runs.document("r")
    assert (document["status"], len(document["sessions"])) == ("failed", 3)


def test_sessions_share_one_slot_in_turns(runs: Runs):
    """After a timebox the slot is given up, and whoever waits has it before the next turn."""
    runs.environment["BACKPROP_MAX_PARALLEL"] = "1"
    runs.script(
        SAVING
        + """
    turn = sum(name.startswith("turn-") for name in os.listdir())
    open(f"turn-{turn}", "w").close()
    while not os.path.exists(f"go-{turn}"):
        time.sleep(0.02)
    try:
        while True:
            step += 1
            print(json.dumps({"step": step}), flush=True)
            time.sleep(0.02)
    except KeyboardInterrupt:
        save()
"""
    )
    options = ("train.py", "--until-step", "1", "--grace", "200", "--sessions", "3")
    processes = [runs.start("run", *options, "--run-id", name) for name in ("a", "b")]
    for turn in range(6):
        wait_for((runs.work / f"turn-{turn}").exists)
        wait_for(lambda turn=turn: queue_of(runs) or turn == 5)  # the other one waits, unless this is the last
        (runs.work / f"go-{turn}").touch()
    for process in processes:
        assert process.wait(HANG_S) == 0
    sessions = sorted(
        (entry["at"], name, entry["event"])
        for name in ("a", "b")
        for entry in runs.journal(name)
        if entry["event"] in {"session_started", "session_ended"}
    )
    names = [name for _, name, event in sessions if event == "session_started"]
    assert names in (["a", "b"] * 3, ["b", "a"] * 3)
    events = [event for _, _, event in sessions]
    assert events == ["session_started", "session_ended"] * 6
    for name in ("a", "b"):
        document = runs.document(name)
        assert document["status"] == "timeboxed"
        assert [session["number"] for session in document["sessions"]] == [1, 2, 3]
        assert document["sessions"][2]["resumed_from"] is not None


def test_sessions_end_when_the_run_completes(runs: Runs):
    """Nothing is started again that has come to its end."""
    runs.script("")
    assert runs.call("run", "train.py", "--sessions", "5").returncode == 0
    assert len(runs.document()["sessions"]) == 1


def test_status_shows_slots_and_the_line(held: Runs):
    """Who holds a slot, who waits, and for what, for people and for programs."""
    held.start("run", "train.py", "--run-id", "second")
    wait_for(lambda: queue_of(held) == ["second"])
    told = json.loads(held.call("status", "--json").stdout)
    assert (told["slots"]["limit"], [ticket["run_id"] for ticket in told["slots"]["taken"]]) == (1, ["first"])
    assert told["queue"][0]["waits_for"].startswith("1 run active (limit 1): first")
    shown = held.call("status").stdout
    assert "1 of 1 taken" in shown
    assert "queue  1. second, " in shown
    let_go(held)


def test_the_line_is_there_before_the_home_is(runs: Runs):
    """Looking at a home that is not there yet shows nothing taken."""
    told = json.loads(runs.call("status", "--json").stdout)
    assert (told["slots"]["taken"], told["queue"]) == ([], [])


def wait_in_line(held: Runs, *ids: str, **options: str) -> None:
    """Queued runs, in this order. options: priorities, by id."""
    for place, run_id in enumerate(ids, start=1):
        more = ("--priority", options[run_id]) if run_id in options else ()
        assert held.call("run", "train.py", "-d", "--run-id", run_id, *more).returncode == 0
        wait_for(lambda: len(queue_of(held)) == place)  # noqa: B023  at once


def started(runs: Runs) -> list[str]:
    """The runs, in the order in which their sessions began."""
    documents = json.loads(runs.call("list", "--json").stdout)
    return [run["id"] for run in sorted(documents, key=lambda run: run["started_at"])]


def test_a_run_with_priority_is_queued_further_ahead(held: Runs):
    """By as many places as it says; below 0, behind those that come after it. The runs start in that order."""
    wait_in_line(held, "a", "b", "c", "d", a="-2", c="1", d="100")
    assert queue_of(held) == ["d", "b", "c", "a"]
    waiting = json.loads(held.call("status", "--json").stdout)["queue"]
    assert [ticket["priority"] for ticket in waiting] == [100, 0, 1, -2]
    assert "priority 100" in held.call("status").stdout
    let_go(held)
    assert held.call("wait", "--all").returncode == 0
    assert started(held) == ["first", "d", "b", "c", "a"]
    assert held.call("run", "train.py", "--priority", "101").returncode == 2


def test_queued_runs_are_moved_to_the_front(held: Runs):
    """In the order in which they are named, each with its outcome; one that is not queued has none of it."""
    wait_in_line(held, "a", "b", "c", "d", b="5")
    done = held.call("queue", "move", "d", "c", "--first")
    assert done.returncode == 0, done.stderr
    assert queue_of(held) == ["d", "c", "b", "a"]
    assert "run c is number 2 of 4 in the queue" in done.stderr
    done = held.call("queue", "move", "a", "first", "--first")
    assert (done.returncode, queue_of(held)) == (2, ["a", "d", "c", "b"])
    assert "run first is not queued (running)" in done.stderr
    assert "run a is number 1 of 4 in the queue" in done.stderr
    let_go(held)
    assert held.call("wait", "--all").returncode == 0
    assert started(held) == ["first", "a", "d", "c", "b"]
    assert held.call("queue", "move", "a").returncode == 2


def test_a_reservation_is_what_earlier_runs_of_the_script_used(runs: Runs):
    """With a margin; only of the same training, and only in the place of a default or less."""
    runs.environment["BACKPROP_MIN_FREE_RAM_GB"] = "1"
    runs.script(UNTIL_TOLD)

    def reserved(run_id: str, *words: str) -> int:
        running = runs.start("run", *words, "--run-id", run_id)
        taken = wait_for(lambda: json.loads(runs.call("status", "--json").stdout)["slots"]["taken"])
        let_go(runs)
        assert running.wait(HANG_S) == 0
        (runs.work / "go").unlink()
        return taken[0]["ram_promised_bytes"]

    assert reserved("first", "train.py") == 10**9
    measured = {"since": 0, "until": 100, "count": 2, "values": {"ram": [150, 200]}}
    (runs.rundir("first") / "session-1.usage").write_text(json.dumps(measured) + "\n")
    runs.call("reindex")
    assert reserved("second", "train.py") == 200e6 * 1.5 + 256e6
    assert reserved("other", "train.py", "--", "--size", "9") == 10**9
    (admitted,) = [entry for entry in runs.journal("second") if entry["event"] == "admitted"]
    assert admitted["figures"]["ram_reserved_bytes"] == 556_000_000
    assert reserved("declared", "train.py", "--min-free-ram", "2.1") == 2_100_000_000
    runs.script(UNTIL_TOLD + "    batch_size = 256\n")
    assert reserved("edited", "train.py") == 10**9
