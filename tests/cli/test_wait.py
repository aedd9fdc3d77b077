"""wait: until runs have ended."""

import fcntl
import json
import os
import signal
import subprocess

import psutil
import pytest

from tests.conftest import HANG_S, Runs, wait_for

UNTIL_TOLD = """
    print(json.dumps({"step": 1}), flush=True)
    while not os.path.exists("go"):
        time.sleep(0.02)
    sys.exit(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
"""


def start_held(runs: Runs, *ids: str, code: int = 0) -> None:
    """Detached runs that go on until there is a file `go`."""
    runs.script(UNTIL_TOLD)
    for run_id in ids:
        done = runs.call("run", "train.py", "-d", "--run-id", run_id, "--", code)
        assert done.returncode == 0, done.stderr


def let_go(runs: Runs) -> None:
    """What `start_held` started, or will start, comes to its end."""
    (runs.work / "go").touch()


def test_wait_blocks_until_all_have_ended(runs: Runs):
    """It is still there while one of them goes on, and exits with 0 when all went well."""
    start_held(runs, "a", "b")
    waiting = runs.start("wait", "a", "b", stderr=subprocess.PIPE)
    runs.call("stop", "a")
    assert waiting.stderr.readline().startswith(b"backprop: run a stopped")
    assert waiting.poll() is None
    let_go(runs)
    _, err = waiting.communicate(timeout=HANG_S)
    assert waiting.returncode == 0
    assert err.decode().strip() == "backprop: run b completed"


def test_the_exit_code_is_the_worst(runs: Runs):
    """A failure's own code comes before everything else, a refusal before a graceful stop."""
    let_go(runs)
    start_held(runs, "good")
    start_held(runs, "bad", code=7)
    runs.call("run", "train.py", "--run-id", "never", "--no-wait", "--min-free-ram", "900000")
    assert runs.call("wait", "good").returncode == 0
    assert runs.call("wait", "good", "never").returncode == 75
    done = runs.call("wait", "good", "bad", "never", "--json")
    assert done.returncode == 7
    assert [document["id"] for document in json.loads(done.stdout)] == ["good", "bad", "never"]


def test_a_queued_run_is_waited_for(runs: Runs):
    """Through the line and the session that follows."""
    runs.environment["BACKPROP_MAX_PARALLEL"] = "1"
    start_held(runs, "first", "second")
    waiting = runs.start("wait", "second")
    assert runs.document("second")["status"] == "queued"
    let_go(runs)
    assert waiting.wait(HANG_S) == 0
    assert runs.document("second")["status"] == "completed"


def test_sessions_that_follow_one_another_are_waited_for(runs: Runs):
    """A timebox that another session follows is no end."""
    runs.script("time.sleep(1000)")
    runs.call("run", "train.py", "-d", "--run-id", "a", "-m", "0.01", "--grace", "0.2", "--sessions", "3")
    runs.call("wait", "a")
    assert len(runs.document("a")["sessions"]) == 3


def test_a_run_that_somebody_answers_for_has_not_ended(runs: Runs):
    """Between two sessions nothing is going on, but the supervisor's lock says that more is to come."""
    let_go(runs)
    start_held(runs, "a")
    assert runs.call("wait", "a").returncode == 0
    with (runs.rundir("a") / "journal.jsonl").open("rb") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        assert runs.call("wait", "a", "--timeout", "0.001").returncode == 124
    assert runs.call("wait", "a", "--timeout", "3").returncode == 0


def test_a_run_whose_supervisor_is_killed_has_ended(runs: Runs):
    """It is filed as interrupted, what is left of it is ended, and wait exits as if it had been killed."""
    start_held(runs, "a")
    waiting = runs.start("wait", "a", stderr=subprocess.PIPE)
    os.kill(runs.document("a")["pid"], signal.SIGKILL)
    _, err = waiting.communicate(timeout=HANG_S)
    assert waiting.returncode == 137
    assert b"interrupted" in err
    assert runs.tree() == []


def test_ctrl_c_leaves_the_runs_alone(runs: Runs):
    """130, and the run goes on."""
    start_held(runs, "a")
    waiting = runs.start("wait", "a")
    wait_for(lambda: psutil.Process(waiting.pid).status() == psutil.STATUS_SLEEPING and runs.document("a"))
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(HANG_S) == 130
    assert runs.document("a")["status"] == "running"
    assert runs.tree()
    let_go(runs)


def test_a_stalled_run_is_told(runs: Runs):
    """One that shows no sign of life: exit 69, with what to do; it is left running."""
    start_held(runs, "a")
    done = runs.call("wait", "a", "--stalled", "0.02")
    assert done.returncode == 69
    assert "run a: no sign of life for" in done.stderr
    assert "(no step after 1, no output, no use of CPU or GPU). To stop it: backprop stop a" in done.stderr
    assert runs.document("a")["status"] == "running"
    let_go(runs)


def test_a_stall_is_counted_from_the_record(runs: Runs):
    """Not from the call: who asks again and again, each time for a moment, hears of it."""
    start_held(runs, "a")
    limit_s = 4.0  # each call waits for a thousandth of that
    asked = ("wait", "a", "--stalled", limit_s / 60, "--timeout", "0.0001")
    wait_for(lambda: runs.call(*asked).returncode == 69)
    document = runs.document("a")
    assert document["stalled_s"] >= limit_s
    assert document["silent_s"] >= document["stalled_s"]
    let_go(runs)


BUSY = """
    print(json.dumps({"step": 1}), flush=True)
    while not os.path.exists("go"):
        sum(range(10_000))
"""


def test_a_run_that_computes_in_silence_is_not_stalled(runs: Runs):
    """No step and no output, but it uses CPU: it is waited for."""
    runs.call("run", "-d", "--run-id", "a", runs.script(BUSY))
    wait_for(lambda: (runs.document("a")["silent_s"] or 0) > 8)
    done = runs.call("wait", "a", "--stalled", "0.08", "--timeout", "0.001")
    assert done.returncode == 124, done.stderr
    assert runs.document("a")["stalled_s"] < 4.8
    let_go(runs)


def test_silence_ends_a_wait_only_if_asked_for(runs: Runs):
    """--silent finds what waits in a loop that uses CPU, such as a collective operation without its other ranks."""
    runs.call("run", "-d", "--run-id", "a", runs.script(BUSY))
    done = runs.call("wait", "a", "--silent", "0.02")
    assert done.returncode == 69
    assert "run a: alive, but silent for" in done.stderr
    let_go(runs)


def test_output_is_a_sign_of_life(runs: Runs):
    """A script that reports no step, and sleeps, but prints."""
    runs.script("""
        for number in range(80):
            print("waiting for data", number, flush=True)
            time.sleep(0.1)
    """)
    runs.call("run", "train.py", "-d", "--run-id", "a")
    assert runs.call("wait", "a", "--stalled", "0.05", "--silent", "0.05").returncode == 0


def test_a_pause_is_no_silence(runs: Runs):
    """Time that a run is paused does not count."""
    start_held(runs, "a")
    wait_for(lambda: runs.document("a")["silent_s"] is not None)
    runs.call("pause", "a")
    assert runs.call("wait", "a", "--stalled", "0.0001", "--timeout", "0.05").returncode == 124
    let_go(runs)
    runs.call("resume", "a")


def test_a_run_that_makes_steps_is_not_stalled(runs: Runs):
    """However long it takes altogether."""
    runs.script("""
        for step in range(60):
            print(json.dumps({"step": step}), flush=True)
            time.sleep(0.1)
    """)
    runs.call("run", "train.py", "-d", "--run-id", "a")
    assert runs.call("wait", "a", "--stalled", "0.08").returncode == 0


def test_a_run_in_line_is_not_stalled(runs: Runs):
    """It makes no step, and is not expected to: only the timeout ends the wait."""
    runs.environment["BACKPROP_MAX_PARALLEL"] = "1"
    start_held(runs, "first", "second")
    done = runs.call("wait", "second", "--stalled", "0.02", "--timeout", "0.06")
    assert done.returncode == 124
    assert "still active: second" in done.stderr
    let_go(runs)


def test_an_unknown_run_is_an_error(runs: Runs):
    """3, before anything is waited for."""
    let_go(runs)
    start_held(runs, "a")
    assert runs.call("wait", "a", "nothing").returncode == 3


@pytest.mark.parametrize(
    "words", [["--timeout", "5m"], ["--stalled", "x"], ["--silent", "-1"], ["--timeout", "0"], ["--timeout", "nan"]]
)
def test_what_is_no_number_of_minutes_is_told_what_would_be(runs: Runs, words: list[str]):
    done = runs.call("wait", "a", *words)
    assert done.returncode == 2
    assert f"{words[1]!r}: expected minutes, such as 5 or 0.5." in done.stderr


def ended(done: subprocess.CompletedProcess[str]) -> tuple[list[str], str]:
    """What `wait --any --json` printed: ids, and the cursor."""
    document = json.loads(done.stdout)
    return [run["id"] for run in document["ended"]], document["cursor"]


def test_wait_for_any(runs: Runs):
    """It returns when the first has ended; with its cursor, when the next ones have. None is missed."""
    start_held(runs, "a", "b")
    waiting = runs.start("wait", "--any", "a", "b", stdout=subprocess.PIPE)
    assert runs.call("stop", "a").returncode == 0
    out, _ = waiting.communicate(timeout=HANG_S)
    first, cursor, *rest = out.decode().splitlines()
    assert (first, cursor.split()[0], rest) == ("a stopped", "cursor", [])
    word = cursor.split()[1]
    done = runs.call("wait", "--any", "a", "b", "--since", word, "--timeout", "0.001", "--json")
    assert done.returncode == 124
    assert ended(done) == ([], word)

    start_held(runs, "c", code=7)
    let_go(runs)
    for run_id in ("b", "c"):
        wait_for(lambda: runs.document(run_id)["status"] in {"completed", "failed"})  # noqa: B023  at once
    done = runs.call("wait", "--any", "--all", "--since", word, "--json")
    assert (set(ended(done)[0]), done.returncode) == ({"b", "c"}, 7)
    done = runs.call("wait", "--any", "--all", "--since", ended(done)[1], "--json")
    assert (ended(done)[0], done.returncode) == ([], 0)  # nothing is active any more


def test_whoever_asks_again_and_again_hears_of_every_end(runs: Runs):
    """Exactly once, however many runs end between two calls, and whatever the index has learnt meanwhile."""
    runs.script("print('trained')")
    told, cursor = ended(runs.call("wait", "--any", "--all", "--json"))
    assert told == []
    started = runs.start("run", "train.py", "-p", "9", "--vary", "seed=1,2,3,4,5,6,7,8,9", stdout=subprocess.PIPE)
    is_over = False
    while not is_over:
        are_started = started.poll() is not None
        done = runs.call("wait", "--any", "--all", "--since", cursor, "--timeout", "0.01", "--json")
        ids, cursor = ended(done)
        told += ids
        is_over = are_started and done.returncode == 0 and not ids  # nothing is active any more
    assert started.returncode == 0
    assert sorted(told) == sorted(started.stdout.read().decode().split())


def test_wait_for_any_of_those_that_have_ended(runs: Runs):
    """Without a cursor, they are told at once; a run that is resumed and ends again is told again."""
    let_go(runs)
    start_held(runs, "a")
    assert runs.call("wait", "a").returncode == 0
    ids, cursor = ended(runs.call("wait", "--any", "a", "--json"))
    assert ids == ["a"]
    assert runs.call("resume", "a", "--again").returncode == 0
    done = runs.call("wait", "--any", "a", "--json", "--since", cursor, "--fields", "ended.id,ended.status")
    assert json.loads(done.stdout) == {"ended.id": ["a"], "ended.status": ["completed"]}


def test_a_run_with_more_sessions_to_come_has_not_ended(runs: Runs):
    """--any, too, waits through them."""
    runs.script("""
        if not os.path.exists("go"):
            print(json.dumps({"step": 1}), flush=True)
            time.sleep(1000)
    """)
    runs.call("run", "train.py", "-d", "--run-id", "a", "--until-step", "1", "--sessions", "1000")
    wait_for(lambda: len(runs.document("a")["sessions"]) >= 3)
    done = runs.call("wait", "--any", "a", "--timeout", "0.02", "--json")
    assert (ended(done)[0], done.returncode) == ([], 124)
    let_go(runs)
    assert ended(runs.call("wait", "--any", "a", "--json"))[0] == ["a"]


def test_a_cursor_that_is_none(runs: Runs):
    """And one without --any."""
    done = runs.call("wait", "--any", "--all", "--since", "x")
    assert (done.returncode, "cursor" in done.stderr) == (2, True)
    assert runs.call("wait", "--all", "--since", "1.1").returncode == 2
