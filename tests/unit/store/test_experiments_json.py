"""experiments.json: the public snapshot that other tools read."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backprop.records import Checkpoint, Measure, Run, RunSpec, RunView, Status
from backprop.store import experiments_json
from backprop.store.files import replace_file
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.store.output.protocol import digest
from tests.records import LIMITS, session_record

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=timezone.utc)
AT_MS = 1_767_323_045_678


def nothing_to_say(text: str) -> None:
    raise AssertionError(text)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.make()
    return made


@pytest.fixture
def index(home: Home) -> Iterator[Index]:
    opened = Index(home.index_path, 5.0)
    yield opened
    opened.close()


def add(index: Index, run_id: str, output: bytes = b"", *, age_s: float = 0, **changes: Any) -> None:
    """Put a completed run into the index."""
    spec = RunSpec(
        id=run_id,
        command=("python", "t.py"),
        cwd="/tmp",
        created_at=AT - timedelta(seconds=age_s),
        host="here",
        user="me",
        limits=LIMITS,
        **changes,
    )
    session = session_record(Status.COMPLETED, started_at=AT, host="here")
    ended_at = AT + timedelta(seconds=1.5)
    index.put_run(Run(spec=spec, status=Status.COMPLETED, latest=(session,), ended_at=ended_at), 1)
    batch = digest(output)
    measure = Measure(size_bytes=1, saved_at=AT)
    saved = [
        (offset, Checkpoint(path=told.path, step=told.step, session=1, measure=measure))
        for offset, told in batch.checkpoints
    ]
    assert index.add_output(run_id, 1, 0, len(output), batch, saved)


def document(home: Home) -> dict[str, Any]:
    return json.loads(home.snapshot_path.read_text())


def test_an_entry_has_exactly_the_documented_keys(home: Home, index: Index):
    """The format that other tools read: these keys, times in milliseconds since 1970."""
    output = (
        b'{"step": 7, "loss": 0.25}\n'
        b'{"event": "checkpoint_saved", "path": "/c/1"}\n{"event": "checkpoint_saved", "path": "/c/2"}\n'
    )
    add(index, "run1", output, name="Größe", script="/home/me/t.py")
    experiments_json.put(home, index, "run1", nothing_to_say)
    assert document(home) == {
        "run1": {
            "id": "run1",
            "name": "Größe",
            "scriptPath": "/home/me/t.py",
            "status": "completed",
            "startTime": AT_MS,
            "endTime": AT_MS + 1500,
            "lastStep": 7,
            "lastLoss": 0.25,
            "lastCheckpoint": "/c/2",
            "checkpoints": ["/c/1", "/c/2"],
        }
    }


def test_what_is_unknown_is_null(home: Home, index: Index):
    """A run that said nothing has the same keys, and a command is named where a script would be."""
    add(index, "run1")
    experiments_json.put(home, index, "run1", nothing_to_say)
    entry = document(home)["run1"]
    assert entry["scriptPath"] == "python"
    assert [entry[key] for key in ("name", "lastStep", "lastLoss", "lastCheckpoint")] == [None] * 4
    assert entry["checkpoints"] == []


@pytest.mark.parametrize(("loss", "text"), [("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "-Infinity")])
def test_a_loss_that_is_not_finite_is_text(home: Home, index: Index, loss: str, text: str):
    """The file is JSON that every tool can read, whatever became of the loss."""
    add(index, "run1", b'{"step": 1, "loss": %s}\n' % loss.encode())
    experiments_json.put(home, index, "run1", nothing_to_say)
    assert msgspec.json.decode(home.snapshot_path.read_bytes())["run1"]["lastLoss"] == text


def test_other_entries_are_not_touched(home: Home, index: Index):
    """An entry that another tool wrote, with whatever is in it, stays byte for byte."""
    foreign = '{ "id":"old",  "odd": [1.0, null, 1e400], "endTime": 5 }'
    home.snapshot_path.write_text(f'{{"old": {foreign}}}')
    add(index, "run1")
    experiments_json.put(home, index, "run1", nothing_to_say)
    assert foreign in home.snapshot_path.read_text()
    assert list(document(home)) == ["run1", "old"]


def test_an_entry_is_brought_up_to_date_in_its_place(home: Home, index: Index):
    """A run that goes on keeps its place among the others."""
    for run_id in ("one", "two"):
        add(index, run_id)
        experiments_json.put(home, index, run_id, nothing_to_say)
    data = b'{"step": 9}\n'
    assert index.add_output("one", 1, 0, len(data), digest(data), [])
    experiments_json.put(home, index, "one", nothing_to_say)
    assert list(document(home)) == ["two", "one"]
    assert document(home)["one"]["lastStep"] == 9
    assert document(home)["two"]["lastStep"] is None


def test_a_removed_run_leaves_the_file(home: Home, index: Index):
    """A run that the index does not have any more is taken out; the others stay."""
    for run_id in ("one", "two"):
        add(index, run_id)
        experiments_json.put(home, index, run_id, nothing_to_say)
    index.remove("two")
    experiments_json.put(home, index, "two", nothing_to_say)
    assert list(document(home)) == ["one"]


def test_without_a_file_it_is_built_from_the_index(home: Home, index: Index):
    """A missing file is made whole with the first change, newest run first, and nothing is said about it."""
    for age_s, run_id in enumerate(("new", "mid", "old")):
        add(index, run_id, age_s=age_s)
    experiments_json.put(home, index, "mid", nothing_to_say)
    assert list(document(home)) == ["new", "mid", "old"]


DAMAGED = [b"", b"{", b"[]", b"null", b'{"a": nonsense}', b"\xff", b'{"\xff": 1}', b"\0" * 100, b'{"a":' * 5000]


@pytest.mark.parametrize("rebuild", [True, False], ids=["rebuild", "put"])
@pytest.mark.parametrize("content", DAMAGED, ids=lambda content: repr(content[:12]))
def test_a_damaged_file_is_set_aside_and_rebuilt(home: Home, index: Index, content: bytes, rebuild: bool):
    """A file that cannot be read is kept under a name with the date, which is said, and made anew."""
    home.snapshot_path.write_bytes(content)
    assert experiments_json.is_sound(home.snapshot_path) is False
    add(index, "run1")
    said: list[str] = []
    if rebuild:
        experiments_json.rebuild(home, index, said.append)
    else:
        experiments_json.put(home, index, "run1", said.append)
    assert list(document(home)) == ["run1"]
    (aside,) = home.path.glob("experiments.json.corrupt-*")
    assert aside.read_bytes() == content
    (sentence,) = said
    assert str(aside) in sentence
    assert experiments_json.is_sound(home.snapshot_path) is True


def test_a_missing_file_is_not_sound(home: Home):
    """Nothing there is nothing to read."""
    assert experiments_json.is_sound(home.snapshot_path) is False


def test_the_newest_thousand_are_kept(home: Home, index: Index):
    """The file does not grow for ever: a new run pushes out the oldest of a thousand."""
    older = {f"old-{number}": {"id": f"old-{number}"} for number in range(experiments_json.MAX_RUNS)}
    home.snapshot_path.write_text(json.dumps(older))
    add(index, "run1")
    experiments_json.put(home, index, "run1", nothing_to_say)
    assert list(document(home)) == ["run1", *list(older)[:-1]]


def test_no_more_than_a_thousand_are_rebuilt(home: Home, index: Index):
    """A rebuilt file has the newest thousand of the index."""
    for age_s in range(experiments_json.MAX_RUNS + 2):
        add(index, f"run-{age_s}", age_s=age_s)
    experiments_json.rebuild(home, index, nothing_to_say)
    assert list(document(home)) == [f"run-{age_s}" for age_s in range(experiments_json.MAX_RUNS)]


def test_what_ends_while_the_file_is_rebuilt_is_due_still(home: Home, index: Index, monkeypatch: pytest.MonkeyPatch):
    """Somebody else rebuilds the file from what the index had a moment ago."""
    assert not index.is_snapshot_due()
    index.set_snapshot_due()
    newest = index.newest

    def and_one_ends(limit: int) -> Iterator[RunView]:
        yield from newest(limit)
        index.set_snapshot_due()

    with monkeypatch.context() as patched:
        patched.setattr(index, "newest", and_one_ends)
        experiments_json.rebuild(home, index, nothing_to_say)
    assert index.is_snapshot_due()
    experiments_json.rebuild(home, index, nothing_to_say)
    assert not index.is_snapshot_due()


def test_the_file_is_replaced_whole(home: Home, index: Index):
    """Somebody who has the old file open reads the old file to its end; no draft stays behind."""
    add(index, "run1")
    experiments_json.put(home, index, "run1", nothing_to_say)
    before = home.snapshot_path.read_bytes()
    with home.snapshot_path.open("rb") as reader:
        index.remove("run1")
        experiments_json.put(home, index, "run1", nothing_to_say)
        assert reader.read() == before
    assert document(home) == {}
    assert [path.name for path in home.path.glob(".experiments*")] == []


def test_a_replacement_that_fails_leaves_the_old_file(tmp_path: Path):
    """When the new content cannot be put in place, the old stays and no draft is left behind."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "inside").touch()
    with pytest.raises(OSError):
        replace_file(target, b"new")
    assert list(tmp_path.iterdir()) == [target]


def test_the_file_is_its_owners_alone(tmp_path: Path):
    """A home that others may look into tells them nothing; where the file was open to them, it is no more."""
    path = tmp_path / "experiments.json"
    path.write_text("{}")
    path.chmod(0o644)
    replace_file(path, b"{}")
    assert path.stat().st_mode & 0o777 == 0o600
