"""What is filed of a run whose supervisor is dead, and which folders are no runs at all. No process is needed."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from backprop.errors import BusyError
from backprop.lifecycle import recovery
from backprop.records import Run, Status
from backprop.store import experiments_json
from backprop.store.curves import points
from backprop.store.home import Home
from backprop.store.index import Index, open_index
from backprop.store.journal import file as journals
from backprop.store.journal.entries import Entry, Queued, SessionEnded, SessionStarted
from backprop.store.journal.file import Journal
from backprop.store.journal.fold import fold
from backprop.store.rundir import RunDir
from tests.records import AT, SPEC

STARTED = SessionStarted(at=AT, session=1, timebox_s=600, grace_s=30, host="h", supervisor_pid=1, boot_id=None)
TIMEBOXED = SessionEnded(at=AT, session=1, status=Status.TIMEBOXED, reason="over", exit_code=0, elapsed_s=1.0)


def queued(session: int) -> Queued:
    return Queued(at=AT, session=session, reason="no slot", figures={}, host="h", supervisor_pid=1)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.make()
    return made


@pytest.fixture
def rundir(home: Home) -> RunDir:
    made = home.rundir("r")
    made.path.mkdir()
    made.spec_path.write_bytes(msgspec.json.encode(SPEC))
    made.journal_path.touch()
    return made


@pytest.fixture
def index(home: Home) -> Iterator[Index]:
    with closing(open_index(home, 5.0, print)) as opened:
        yield opened


def settled(rundir: RunDir, *entries: Entry) -> tuple[bool, Run]:
    """What `settle` says of a run with these entries, and what it is afterwards."""
    with closing(Journal(rundir.journal_path)) as journal:
        assert journal.try_lock()
        journal.append(*entries)
        is_filed = recovery.settle(rundir, SPEC, journal, 0.0, print)
    return is_filed, fold(SPEC, journals.read(rundir.journal_path)[0])


@pytest.mark.parametrize("entries", [(), (queued(1),)], ids=["nothing", "in line"])
def test_a_run_whose_supervisor_died_before_its_first_session(rundir: RunDir, entries: tuple[Entry, ...]):
    """It is interrupted, not queued for ever, and says when that was."""
    is_filed, run = settled(rundir, *entries)
    assert is_filed
    assert (run.status, run.sessions, run.waiter) == (Status.INTERRUPTED, (), None)
    assert run.reason == "its supervisor died before the trainer was started"


def test_a_run_whose_supervisor_died_between_two_sessions(rundir: RunDir):
    """It is what its last session came to; it waits no more."""
    is_filed, run = settled(rundir, STARTED, TIMEBOXED, queued(2))
    assert is_filed
    assert (run.status, run.waiter, len(run.sessions)) == (Status.TIMEBOXED, None, 1)


def test_a_run_that_has_ended_is_left_as_it_is(rundir: RunDir):
    """Nothing is written about it again."""
    is_filed, _ = settled(rundir, STARTED, TIMEBOXED)
    assert not is_filed
    assert journals.read(rundir.journal_path)[0] == [STARTED, TIMEBOXED]


def refreshed(home: Home, index: Index, run_id: str) -> list[str]:
    """What is said of a folder that must not count as a run that somebody answers for."""
    said: list[str] = []
    assert not recovery.refresh(home, index, home.rundir(run_id), said.append)
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
    recovery.catch_up(home, index, print)
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
        recovery.catch_up(home, index, print)
        rundir.spec_path.write_bytes(b"")
        recovery.catch_up(home, index, print)
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
    recovery.catch_up(home, index, print)
    assert [point.value for point in points(index, run, "loss")] == [2.5]
    assert index.behind() == set()


def test_a_run_that_experiments_json_lacks(home: Home, rundir: RunDir, index: Index):
    """It was written from an index that had not read this run yet; the next look at a changed folder makes up for it."""
    settled(rundir, STARTED, TIMEBOXED)
    recovery.catch_up(home, index, print)
    home.snapshot_path.write_text("{}")
    home.rundir("another").path.mkdir()
    recovery.catch_up(home, index, print)
    assert experiments_json.run_ids(home.snapshot_path) == {"r"}
