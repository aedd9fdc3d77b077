"""Lines of output carry no time; the record knows it all the same."""

import time
from datetime import datetime

import pytest

from backprop.store import query
from backprop.store.curves import Point
from backprop.store.index import Index
from tests.conftest import HANG_S, Runs, wait_for

SILENCE_S = 4.0
SLACK_S = 1.5  # of a supervisor that looks four times a second


def read(runs: Runs, metric: str) -> list[Point]:
    """The points as they lie in the index, without looking at anything else."""
    index = Index(runs.home / "index.db", 10.0)
    view = index.get("r")
    assert view is not None
    points = list(query.points(index, view, metric))
    index.close()
    return points


def times(runs: Runs) -> dict[int, tuple[float, float]]:
    """Step -> when it was written by the record, and by the trainer's own clock; seconds since step 0."""
    points = {point.step: point for point in read(runs, "clock")}
    first = points[0]
    return {step: (point.time_s - first.time_s, point.value - first.value) for step, point in points.items()}


def test_the_record_knows_when_a_line_was_written(runs: Runs):
    """Silence between two bursts is seen as such: while it happens, and in an index that was rebuilt."""
    runs.script(
        f"""
        for step in range(40):
            if step in (10, 30):
                time.sleep({SILENCE_S})
            print(json.dumps({{"step": step, "clock": time.monotonic()}}), flush=True)
            time.sleep(0.05)
        """
    )
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 0
    for _ in range(2):
        told = times(runs)
        assert sorted(told) == list(range(40))
        waited = {step: told[step][1] - told[step - 1][1] for step in range(1, 40)}  # 0.05 s, if it was woken in time
        slack = SLACK_S + 10 * max(waited[step] for step in waited if step not in (10, 30))
        for recorded, real in told.values():
            assert recorded == pytest.approx(real, abs=slack)
        for step in (10, 30):
            assert told[step][0] - told[step - 1][0] > waited[step] - slack
        assert runs.call("reindex").returncode == 0


def test_a_journal_stays_small(runs: Runs):
    """Notes of how far the output had got come once a second at the most, however often a trainer writes."""
    runs.script(
        """
        end = time.monotonic() + 3
        while time.monotonic() < end:
            print(json.dumps({"step": 1, "a": 1}), flush=True)
            time.sleep(0.001)
        """
    )
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 0
    notes = [entry for entry in runs.journal("r") if entry["event"] == "output_seen"]
    (session,) = runs.document("r")["sessions"]
    assert 1 <= len(notes) <= session["elapsed_s"] + 1


STEPS = """
    step = 0
    while not os.path.exists("go"):
        print(json.dumps({"step": step, "a": step}), flush=True)
        step += 1
        time.sleep(0.01)
"""


def test_a_pause_is_not_training_whoever_reads(runs: Runs):
    """A point's time never goes back nor beyond what the session took, with readers while and after it is paused."""
    runs.script(STEPS)
    process = runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: runs.output("r"))
    began = time.monotonic()
    assert runs.call("pause", "r").returncode == 0
    wait_for(lambda: runs.document("r")["status"] == "paused")
    wait_for(lambda: time.monotonic() - began > SILENCE_S)
    assert runs.call("resume", "r").returncode == 0
    for _ in range(8):
        runs.document("r")
    (runs.work / "go").touch()
    process.wait(HANG_S)
    (session,) = runs.document("r")["sessions"]
    for _ in range(2):
        told = read(runs, "a")
        assert [point.step for point in told] == list(range(len(told)))
        seconds = [point.time_s for point in told]
        assert seconds == sorted(seconds)
        assert seconds[-1] <= session["elapsed_s"] + 0.001  # kept as float32
        assert runs.call("reindex").returncode == 0


def test_a_pause_is_not_training_of_a_session_whose_supervisor_died(runs: Runs):
    """Its length is guessed from its last sign of life, without the pause."""
    runs.script(STEPS)
    process = runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: runs.output("r"))
    began = time.monotonic()
    assert runs.call("pause", "r").returncode == 0
    paused_after_s = time.monotonic() - began
    wait_for(lambda: time.monotonic() - began > paused_after_s + SILENCE_S)
    assert runs.call("resume", "r").returncode == 0
    wait_for(lambda: runs.document("r")["status"] == "running")
    process.kill()
    process.wait()
    (session,) = runs.document("r")["sessions"]
    took_s = datetime.fromisoformat(session["ended_at"]) - datetime.fromisoformat(session["started_at"])
    assert session["status"] == "interrupted"
    assert session["elapsed_s"] < took_s.total_seconds() - SILENCE_S


def test_an_index_that_is_deleted_gets_the_sessions_in_their_order(runs: Runs):
    """A supervisor that must begin a new one stores the sessions before its own first."""
    runs.script(
        """
        session = int(os.environ["BACKPROP_SESSION"])
        for step in range(20):
            print(json.dumps({"step": 20 * session + step, "a": step}), flush=True)
        open("train.ckpt", "w").close()
        print(json.dumps({"event": "checkpoint_saved", "path": "train.ckpt"}), flush=True)
        open(f"reached-{session}", "w").close()
        while session == 2 and not os.path.exists("go"):
            time.sleep(0.01)
        print(json.dumps({"step": 20 * session + 20, "a": 20}), flush=True)
        sys.exit(session < 3)
        """
    )
    process = runs.start("run", "train.py", "--run-id", "r", "--retries", "2")
    wait_for((runs.work / "reached-2").exists)
    for path in runs.home.glob("index.db*"):
        path.unlink()
    (runs.work / "go").touch()
    process.wait(HANG_S)
    told = [(point.session, point.step) for point in read(runs, "a")]
    assert told == [(session, 20 * session + step) for session in (1, 2, 3) for step in range(21)]
