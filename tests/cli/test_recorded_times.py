"""Lines of output carry no time; the record knows it all the same."""

import pytest

from backprop import query
from backprop.store.index import Index
from tests.conftest import Runs

SILENCE_S = 4.0
SLACK_S = 1.5  # of a supervisor that looks four times a second, on a busy machine


def times(runs: Runs) -> dict[int, tuple[float, float]]:
    """Step -> when it was written by the record, and by the trainer's own clock; seconds since step 0."""
    index = Index(runs.home / "index.db", 10.0)
    view = index.get("r")
    assert view is not None
    points = {point.step: point for point in query.points(index, view, "clock")}
    index.close()
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
        for recorded, real in told.values():
            assert recorded == pytest.approx(real, abs=SLACK_S)
        assert told[10][0] - told[9][0] > SILENCE_S / 2
        assert told[30][0] - told[29][0] > SILENCE_S / 2
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
