"""The runs that an older tool left in its experiments.json, as an import understands them."""

import json
import math
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.records import Status
from backprop.store import legacy_import
from backprop.store.home import Home
from tests.conftest import scaled

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=timezone.utc)
AT_MS = 1_767_323_045_678
DAMAGED = [b"", b"{", b"[]", b"null", b'{"a": nonsense}', b"\xff", b'{"\xff": 1}', b"\0" * 100, b'{"a":' * 5000]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.make()
    return made


def old(home: Home, entries: object) -> list[legacy_import.OldRun]:
    home.snapshot_path.write_text(json.dumps(entries))
    return legacy_import.read_old(home.snapshot_path)


def test_a_run_of_an_older_tool_is_understood(home: Home):
    """Every documented key of an old entry is read."""
    entry = {
        "id": "x",
        "name": "n",
        "scriptPath": "/t.py",
        "status": "completed",
        "startTime": AT_MS,
        "endTime": AT_MS + 1500,
        "lastStep": 7,
        "lastLoss": 0.5,
        "lastCheckpoint": "/b",
        "checkpoints": ["/a", "/b"],
    }
    (run,) = old(home, {"run1": entry})
    assert (run.id, run.name, run.script, run.status) == ("run1", "n", "/t.py", Status.COMPLETED)
    assert (run.started_at, run.ended_at) == (AT, AT + timedelta(seconds=1.5))
    assert (run.last_step, run.last_loss, run.checkpoints) == (7, 0.5, ("/a", "/b"))


@pytest.mark.parametrize("status", ["running", "paused", "queued", "unheard of", "", None, 3, ["completed"]])
def test_what_was_going_on_then_was_interrupted(home: Home, status: object):
    """A run that was not over when the older tool wrote it is not going on now."""
    assert old(home, {"run1": {"status": status}})[0].status is Status.INTERRUPTED


def test_the_last_checkpoint_is_one_of_them(home: Home):
    """A last checkpoint that is not in the list comes at its end."""
    assert old(home, {"run1": {"lastCheckpoint": "/c", "checkpoints": ["/a", 3, None]}})[0].checkpoints == ("/a", "/c")


def test_what_is_no_entry_is_passed_over(home: Home):
    """Values that are no objects are not runs; nothing else is lost by them."""
    assert [run.id for run in old(home, {"a": 1, "b": {}, "c": [], "d": None})] == ["b"]


@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[:12]))
def test_a_damaged_old_file_is_an_error(home: Home, content: bytes):
    """What is no object keyed by run id is said to be damaged."""
    home.snapshot_path.write_bytes(content)
    with pytest.raises(ValueError):
        legacy_import.read_old(home.snapshot_path)


def test_an_old_loss_that_is_not_a_number_does_not_lose_the_run(home: Home):
    """An older tool in Python wrote NaN where training diverged; its runs are imported all the same."""
    (run,) = old(home, {"run1": {"lastStep": 3, "lastLoss": math.nan}})
    assert run.last_step == 3


def test_what_no_record_could_hold_does_not_lose_an_old_run(home: Home):
    """Lone surrogates, NUL and years that no calendar shows: the run is taken over without them."""
    entry = {"name": "\ud800n\0", "scriptPath": "/\udfff.py", "checkpoints": ["/\0"], "startTime": 253402300799000}
    home.old_snapshot_path.write_text(json.dumps({"run1": entry}))
    home.runs_path.rmdir()
    legacy_import.take_over(home, print)
    spec = home.rundir("run1").read_spec()
    assert (spec.name, spec.script) == ("?n?", "/?.py")


keys = ["name", "scriptPath", "status", "startTime", "endTime", "lastStep", "lastLoss", "lastCheckpoint", "checkpoints"]
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.text(max_size=3) | st.integers(), max_size=3),
    st.sampled_from([10**15, 10**18, -(10**18), 10**400]),
)


@given(st.dictionaries(st.text(max_size=5), values | st.dictionaries(st.sampled_from(keys), values), max_size=3))
@settings(max_examples=scaled(200), deadline=None)
def test_no_old_entry_makes_it_fail(tmp_path_factory: pytest.TempPathFactory, entries: dict[str, Any]):
    """Whatever values an older tool wrote, every object is a run that has ended."""
    path = tmp_path_factory.getbasetemp() / "experiments.json"
    path.write_text(json.dumps(entries))
    runs = legacy_import.read_old(path)
    assert [run.id for run in runs] == [run_id for run_id, entry in entries.items() if isinstance(entry, dict)]
    assert all(run.status.is_final for run in runs)
