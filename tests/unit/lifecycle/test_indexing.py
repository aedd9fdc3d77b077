"""How the index follows the run directories, and which folders are no runs at all. No process is needed."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from backprop.errors import BusyError
from backprop.lifecycle import indexing, recovery
from backprop.records import Status
from backprop.store import experiments_json
from backprop.store.curves import points
from backprop.store.home import Home
from backprop.store.index import Index, open_index
from backprop.store.journal import file as journals
from backprop.store.journal.entries import Entry, SessionEnded, SessionStarted
from backprop.store.journal.file import Journal
from backprop.store.journal.fold import fold
from backprop.store.rundir import RunDir
from backprop.supervisor.process import tree
from tests.records import AT, SPEC

STARTED = SessionStarted(at=AT, session=1, timebox_s=600, grace_s=30, host="h", supervisor_pid=1, boot_id=None)
TIMEBOXED = SessionEnded(at=AT, session=1, status=Status.TIMEBOXED, reason="over", exit_code=0, elapsed_s=1.0)


@pytest.fixture
def index(home: Home) -> Iterator[Index]:
    with closing(open_index(home, 5.0, print)) as opened:
        yield opened


def refreshed(home: Home, index: Index, run_id: str) -> list[str]:
    """What is said of a folder that must not count as a run that somebody answers for."""
    said: list[str] = []
    assert not indexing.refresh(home, index, home.rundir(run_id), said.append)
    return said


def unreadable(index: Index, run_id: str) -> str | None:
    """Why a run that the index has cannot be read."""
    view = index.get(run_id)
    assert view is not None
    assert view.run.status is Status.UNREADABLE
    return view.run.reason


def test_a_copy_of_a_run_is_not_another_run(home: Home, index: Index, rundir: RunDir):
    """`cp -r` of a run directory: neither it nor the run itself is changed by it."""
    with closing(Journal(rundir.journal_path)) as journal:
        journal.append(STARTED)
    copy = Path(shutil.copytree(rundir.path, home.rundir("copy").path))
    assert refreshed(home, index, "copy") == []
    assert unreadable(index, "copy") == "it is a copy of run r"
    assert journals.read(copy / "journal.jsonl")[0] == journals.read(rundir.journal_path)[0] == [STARTED]


@pytest.mark.parametrize("spec", [b"", b"{", b"\0" * 100, b'{"id": "r"}', b"\xff"])
def test_a_run_that_cannot_be_read_is_shown_as_that(home: Home, index: Index, rundir: RunDir, spec: bytes):
    """Half a run.json, or none of ours: it is listed, and can be removed; once it is mended it is a run again."""
    rundir.spec_path.write_bytes(spec)
    assert refreshed(home, index, "r") == []
    assert (unreadable(index, "r") or "").startswith("run.json is damaged: ")
    rundir.spec_path.write_bytes(msgspec.json.encode(SPEC))
    with closing(Journal(rundir.journal_path)) as journal:
        journal.append(STARTED, TIMEBOXED)
    indexing.catch_up(home, index, print)
    view = index.get("r")
    assert view is not None
    assert (view.run.status, view.run.spec) == (Status.TIMEBOXED, SPEC)
    rundir.spec_path.write_bytes(spec)
    recovery.remove(home, view.run, print)
    assert not rundir.path.exists()


def test_a_run_without_its_record_is_shown_as_that(home: Home, index: Index, rundir: RunDir):
    """A folder with a journal was a run; one without is none of ours."""
    rundir.spec_path.unlink()
    refreshed(home, index, "r")
    assert unreadable(index, "r") == "run.json is missing"
    rundir.journal_path.unlink()
    (rundir.path / "notes.txt").touch()
    index.remove("r")
    refreshed(home, index, "r")
    assert index.run_ids() == set()


def test_a_run_that_goes_on_is_not_removed_for_its_record(home: Home, index: Index, rundir: RunDir):
    """Its run.json was destroyed under its supervisor: what the index knew of it counts, until it has ended."""
    with closing(Journal(rundir.journal_path)) as journal:
        assert journal.try_lock()
        journal.append(STARTED)
        indexing.catch_up(home, index, print)
        rundir.spec_path.write_bytes(b"")
        indexing.catch_up(home, index, print)
        view = index.get("r")
        assert view is not None
        assert view.run.status is Status.RUNNING
        with pytest.raises(BusyError):
            recovery.remove(home, msgspec.structs.replace(view.run, status=Status.UNREADABLE), print)
    assert refreshed(home, index, "r") == []
    assert (unreadable(index, "r") or "").startswith("run.json is damaged: ")


def test_a_run_that_was_removed_meanwhile_needs_no_further_look(home: Home, index: Index):
    """Its mark is taken away, and nothing is said."""
    home.mark_for_refresh("r")
    assert home.unsettled() == ["r"]
    assert refreshed(home, index, "r") == []
    assert home.unsettled() == []


def test_a_run_that_an_index_knows_and_nobody_has_read(home: Home, rundir: RunDir, index: Index):
    """Whoever put it there died, and its mark was taken away for another index: its output is read all the same."""
    with closing(Journal(rundir.journal_path)) as journal:
        journal.append(STARTED, TIMEBOXED)
    rundir.out_path(1).write_text('{"step": 1, "loss": 2.5}\n')
    run = fold(SPEC, (STARTED, TIMEBOXED))
    index.put_run(run, rundir.journal_path.stat().st_size)
    index.set_seen_folder_ns(home.runs_path.stat().st_mtime_ns)
    indexing.catch_up(home, index, print)
    assert [point.value for point in points(index, run, "loss")] == [2.5]
    assert index.behind() == set()


def test_a_run_that_experiments_json_lacks(home: Home, rundir: RunDir, index: Index):
    """It was written from an index that had not read this run yet; the next look at a changed folder makes up for it."""
    with closing(Journal(rundir.journal_path)) as journal:
        journal.append(STARTED, TIMEBOXED)
    indexing.catch_up(home, index, print)
    home.snapshot_path.write_text("{}")
    home.rundir("another").path.mkdir()
    indexing.catch_up(home, index, print)
    assert experiments_json.run_ids(home.snapshot_path) == {"r"}


def test_who_writes_experiments_json_for_long_holds_up_no_look(home: Home, index: Index):
    """The index is in step all the same, and the file stays due."""
    home.make()
    index.set_snapshot_due()
    with home.lock():
        indexing.catch_up(home, index, print)
    assert index.is_snapshot_due()
    indexing.catch_up(home, index, print)
    assert not index.is_snapshot_due()


@pytest.mark.parametrize(
    ("entries", "is_scanned"),
    [
        ((STARTED,), True),
        ((STARTED, TIMEBOXED), False),
        ((msgspec.structs.replace(STARTED, boot_id="of another machine"),), False),
    ],
)
def test_processes_are_searched_for_only_where_a_trainer_may_live(
    home: Home, index: Index, rundir: RunDir, monkeypatch: pytest.MonkeyPatch, entries: list[Entry], is_scanned: bool
):
    """To know in which folder a relative path lies: not if the session is over, or on another machine."""
    scanned: list[str] = []
    monkeypatch.setattr(tree, "marked", lambda run_dir: scanned.append(run_dir) or [])
    rundir.out_path(1).write_text('{"event": "checkpoint_saved", "path": "last.pt", "step": 1}\n')
    with closing(Journal(rundir.journal_path)) as journal:
        journal.append(*entries)
        assert journal.try_lock()  # as its supervisor has
        indexing.refresh(home, index, rundir, print)
    assert scanned == [str(rundir.path)] * is_scanned
    view = index.get("r")
    assert view is not None
    assert [checkpoint.path for checkpoint in view.checkpoints] == [str(Path(SPEC.cwd) / "last.pt")]
