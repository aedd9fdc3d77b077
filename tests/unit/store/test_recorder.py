"""What a recorder does when the index is damaged while it works with it."""

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backprop.records import Checkpoint, Measure, Status
from backprop.store.curves import points
from backprop.store.home import Home
from backprop.store.index import open_index
from backprop.store.journal.entries import CheckpointMeasured, SessionEnded, SessionStarted
from backprop.store.journal.file import Journal
from backprop.store.journal.fold import RunReader
from backprop.store.recorder import Recorder
from backprop.store.rundir import RunDir
from backprop.supervisor.process.launch import RUN_DIR_VARIABLE
from backprop.supervisor.process.tree import folders, marked
from tests.conftest import wait_for
from tests.records import AT, SPEC

SAVED = Checkpoint(path="/c", step=1, session=1, measure=Measure(size_bytes=1, saved_at=AT))


@pytest.fixture
def recorder(home: Home, rundir: RunDir) -> Iterator[Recorder]:
    """That of a session whose trainer has written a line, which the index has."""
    with closing(Journal(rundir.journal_path)) as journal:
        journal.append(
            SessionStarted(at=AT, session=1, timebox_s=600, grace_s=30, host="h", supervisor_pid=1, boot_id=None)
        )
        write(home, 1)
        with closing(Recorder(home, rundir, SPEC, journal, lambda _: None)) as made:
            assert made.record_state(publish=False)
            assert made.output.ingest(1, 1.0).is_stored
            yield made


def write(home: Home, step: int) -> None:
    with home.rundir("r").out_path(1).open("a") as file:
        file.write(f'{{"step": {step}, "loss": {step}}}\n')


def end(home: Home) -> None:
    with closing(Journal(home.rundir("r").journal_path)) as journal:
        journal.append(SessionEnded(at=AT, session=1, status=Status.COMPLETED, reason=None, exit_code=0, elapsed_s=1.0))


def replace(home: Home, recorder: Recorder) -> None:
    """Delete the index; somebody who looks begins another, and has put the run into it, but no output yet."""
    for path in home.path.glob("index.db*"):
        path.unlink()
    with closing(open_index(home, 5.0, lambda _: None)) as index:
        index.put_run(*recorder.read_run())


def damage(home: Home) -> None:
    """Overwrite the index where it lies: whoever has it open has the damaged file open."""
    for path in home.path.glob("index.db*"):
        with path.open("r+b") as file:
            file.write(b"\xff" * path.stat().st_size)


@pytest.mark.parametrize("first", ["state", "output"])
def test_an_index_that_is_damaged_under_our_feet_is_made_anew(home: Home, recorder: Recorder, first: str):
    """What cannot be stored is no error, and is brought again: the new index has every line once."""
    damage(home)
    write(home, 2)
    for _ in range(4):  # to notice it, to set it aside, and twice to read
        if first == "state":
            recorder.record_state(publish=False)
            recorder.output.ingest(1, 2.0)
        else:
            recorder.output.ingest(1, 2.0)
            recorder.record_state(publish=False)
    assert recorder.output.ingest_all()
    with closing(open_index(home, 5.0, lambda _: None)) as index:
        steps = [point.step for point in points(index, recorder.read_run()[0], "loss")]
    assert steps == [1, 2]
    assert len(list(home.path.glob("index.db.corrupt-*"))) == 1


def test_an_index_that_is_replaced_while_a_run_is_finished(
    home: Home, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
):
    """Somebody who looks has put the run into the new one, without its output: it is not finished, nor seen whole."""
    end(home)
    store = recorder.output.ingest_all

    def stored_in_the_old_one(sizes: object) -> bool:
        is_stored = store(sizes)
        monkeypatch.undo()
        replace(home, recorder)
        return is_stored

    monkeypatch.setattr(recorder.output, "ingest_all", stored_in_the_old_one)
    assert recorder.whole_view(patience_s=0) is None
    view = recorder.whole_view()
    assert view is not None
    assert view.last_step == 1
    recorder.begin()
    monkeypatch.setattr(recorder.output, "ingest_all", stored_in_the_old_one)
    assert not recorder.finish(publish=False)
    assert home.unsettled() == ["r"]
    assert recorder.finish(publish=False)
    assert home.unsettled() == []
    with closing(open_index(home, 5.0, lambda _: None)) as index:
        assert [point.step for point in points(index, recorder.read_run()[0], "loss")] == [1]


def test_an_index_that_is_replaced_between_two_sessions(
    home: Home, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
):
    """A new one gets the sessions in their order, though it takes the old one's place in the midst of a look."""
    end(home)
    with closing(Journal(home.rundir("r").journal_path)) as journal:
        journal.append(
            SessionStarted(at=AT, session=2, timebox_s=600, grace_s=30, host="h", supervisor_pid=1, boot_id=None)
        )
    home.rundir("r").out_path(2).write_text('{"step": 2, "loss": 2}\n')
    ingest_before = recorder.output._ingest_before

    def replaced(session: int) -> object:
        found = ingest_before(session)
        monkeypatch.undo()
        replace(home, recorder)
        return found

    while recorder.output.ingest(2, 1.0).is_behind:
        pass
    assert recorder.record_state(publish=False)
    monkeypatch.setattr(recorder.output, "_ingest_before", replaced)
    assert not recorder.output.ingest(2, 1.0).is_stored
    assert recorder.output.ingest_all()
    with closing(open_index(home, 5.0, lambda _: None)) as index:
        assert [point.step for point in points(index, recorder.read_run()[0], "loss")] == [1, 2]


def test_a_run_whose_end_found_no_room_stays_marked(home: Home, recorder: Recorder):
    """Whoever looks next files it; it would go on for ever otherwise."""
    recorder.begin()
    assert not recorder.finish(publish=False)
    assert home.unsettled() == ["r"]
    end(home)
    assert recorder.finish(publish=False)
    assert home.unsettled() == []


def test_whether_a_checkpoint_was_saved_over_is_not_known_of_a_damaged_index(home: Home, recorder: Recorder):
    """A resume must not fail for it: what the checkpoint itself says counts."""
    damage(home)
    assert recorder.saved_over_by(SAVED) is None


def test_whoever_looks_first_finds_a_relative_checkpoint(home: Home, recorder: Recorder, tmp_path: Path):
    """In the folder that a process of the run is in, though the supervisor has not told it."""
    (tmp_path / "last.bin").write_text("x")
    with home.rundir("r").out_path(1).open("a") as file:
        file.write('{"event": "checkpoint_saved", "path": "last.bin", "step": 1}\n')
    environment = {RUN_DIR_VARIABLE: str(home.rundir("r").path)}
    with subprocess.Popen(["/bin/cat"], cwd=tmp_path, env=environment, stdin=subprocess.PIPE) as trainer:
        wait_for(lambda: trainer.pid in {process.pid for process in marked(str(home.rundir("r").path))})
        recorder.output.look_for_checkpoints_in(lambda: folders(marked(str(home.rundir("r").path))))
        look = recorder.output.ingest(1, 2.0)
    assert [checkpoint.path for checkpoint in look.checkpoints] == [str(tmp_path / "last.bin")]


def test_an_end_that_is_stored_without_its_entry_in_experiments_json_is_due_there(home: Home, recorder: Recorder):
    """Whoever stored it may be killed before the file is rebuilt, and nobody looks at the run again."""
    end(home)
    assert recorder.finish(publish=False)
    assert not home.unsettled()
    with closing(open_index(home, 5.0, lambda _: None)) as index:
        assert index.is_snapshot_due()


def test_a_supervisor_sees_what_somebody_else_was_faster_to_store(home: Home, recorder: Recorder):
    """All of it, from the session's beginning; and it is stored once."""
    with (
        closing(Journal(home.rundir("r").journal_path)) as journal,
        closing(Recorder(home, home.rundir("r"), SPEC, journal, lambda _: None)) as supervisor,
    ):
        assert [batch.last_step for batch in supervisor.output.ingest(1, 2.0, is_supervisor=True).batches] == [1]
        write(home, 2)
        assert [batch.last_step for batch in supervisor.output.ingest(1, 2.0, is_supervisor=True).batches] == [2]
    with closing(open_index(home, 5.0, lambda _: None)) as index:
        steps = [point.step for point in points(index, recorder.read_run()[0], "loss")]
    assert steps == [1, 2]


def test_a_supervisor_misses_nothing_though_others_are_faster_again_and_again(home: Home, recorder: Recorder):
    """As with a program that polls `status`: what was stored between two looks of the supervisor is news to it."""
    seen: list[float] = []
    with (
        closing(Journal(home.rundir("r").journal_path)) as journal,
        closing(Recorder(home, home.rundir("r"), SPEC, journal, lambda _: None)) as supervisor,
    ):
        for step in range(2, 8):
            write(home, step)
            recorder.output.ingest(1, 2.0)
            if step % 2:
                batches = supervisor.output.ingest(1, 2.0, is_supervisor=True).batches
                seen += [each for batch in batches for each in batch.series["loss"].steps]
    assert seen == [*range(1, 8)]
    with closing(open_index(home, 5.0, lambda _: None)) as index:
        assert [point.step for point in points(index, recorder.read_run()[0], "loss")] == [*range(1, 8)]


SESSIONS = 30


@pytest.fixture
def long_run(home: Home, rundir: RunDir) -> Iterator[Journal]:
    """A run of thirty ended sessions, each with a line of output and a checkpoint that is gone; its journal."""
    saved = '{"event": "checkpoint_saved", "path": "/gone/%d.pt", "step": %d}\n'
    with closing(Journal(rundir.journal_path)) as journal:
        for number in range(1, SESSIONS + 1):
            journal.append(
                SessionStarted(at=AT, session=number, timebox_s=9, grace_s=3, host="h", supervisor_pid=1, boot_id=None)
            )
            line = f'{{"step": {number}, "loss": {number}}}\n'
            rundir.out_path(number).write_text(saved % (number, number) + line)
            journal.append(
                CheckpointMeasured(
                    at=AT, session=number, offset=0, path=f"/gone/{number}.pt", size_bytes=number, saved_at=AT
                ),
                SessionEnded(at=AT, session=number, status=Status.TIMEBOXED, reason=None, exit_code=0, elapsed_s=1.0),
            )
        with closing(Recorder(home, rundir, SPEC, journal, lambda _: None)) as first:
            assert first.finish(publish=False)
        yield journal


def continued(home: Home, journal: Journal) -> Recorder:
    """The recorder of a command that continues from what the index has."""
    rundir = home.rundir("r")
    with closing(open_index(home, 5.0, lambda _: None)) as index:
        reader = RunReader(rundir.journal_path, SPEC, index.folded("r"))
    return Recorder(home, rundir, SPEC, journal, lambda _: None, reader=reader)


def steps_of(home: Home, recorder: Recorder) -> list[int]:
    with closing(open_index(home, 5.0, lambda _: None)) as index:
        return [point.step for point in points(index, recorder.read_run()[0], "loss")]


def test_another_session_of_a_long_run_looks_at_few_of_the_sessions_before_it(home: Home, long_run: Journal):
    """Their output is in the index: to look at the files of thousands would cost each session more than the last."""
    rundir = home.rundir("r")
    for number in range(1, SESSIONS // 2):
        rundir.out_path(number).unlink()
    with closing(continued(home, long_run)) as recorder:
        looked_at = {number for number, _ in recorder.output.source_sizes().bytes}
        view = recorder.whole_view(patience_s=0)
        assert view is not None
        assert {checkpoint.measure.size_bytes for checkpoint in view.checkpoints} == {*range(1, SESSIONS + 1)}
        long_run.append(
            SessionStarted(at=AT, session=SESSIONS + 1, timebox_s=9, grace_s=3, host="h", supervisor_pid=1, boot_id="b")
        )
        rundir.out_path(SESSIONS + 1).write_text('{"step": 99, "loss": 1}\n')
        assert recorder.output.ingest(SESSIONS + 1, 1.0).is_stored
        assert steps_of(home, recorder) == [*range(1, SESSIONS + 1), 99]
    assert 0 < len(looked_at) <= 10


def test_output_of_the_last_sessions_that_came_late_is_read_at_the_next(home: Home, long_run: Journal):
    """A shared file system may show it only then."""
    with home.rundir("r").out_path(SESSIONS - 3).open("a") as file:
        file.write('{"step": 77, "loss": 1}\n')
    with closing(continued(home, long_run)) as recorder:
        assert recorder.whole_view(patience_s=0) is not None
        assert 77 in steps_of(home, recorder)


def test_a_new_index_gets_all_of_a_long_run(home: Home, long_run: Journal):
    """Also what the journal says of each checkpoint, though the recorder had not read it: the files are gone."""
    with closing(continued(home, long_run)) as recorder:
        replace(home, recorder)
        view = recorder.whole_view(patience_s=0)
        assert view is not None
        assert [checkpoint.measure.size_bytes for checkpoint in view.checkpoints] == [*range(1, SESSIONS + 1)]
        assert steps_of(home, recorder) == [*range(1, SESSIONS + 1)]


def test_a_new_index_that_takes_the_place_of_the_old_one_in_the_midst_gets_all_too(
    home: Home, long_run: Journal, monkeypatch: pytest.MonkeyPatch
):
    """What was to be compared was decided by the old one: sessions that have nothing to read now."""
    for number in range(SESSIONS - 9, SESSIONS + 1):
        home.rundir("r").out_path(number).unlink()
    with closing(continued(home, long_run)) as recorder:
        look = recorder.output.source_sizes

        def replaced() -> object:
            sizes = look()
            monkeypatch.undo()
            replace(home, recorder)
            return sizes

        monkeypatch.setattr(recorder.output, "source_sizes", replaced)
        assert not recorder.finish(publish=False)
        assert recorder.finish(publish=False)
        assert steps_of(home, recorder) == [*range(1, SESSIONS - 9)]


@pytest.mark.parametrize("why", ["reason", "no room"])
def test_a_state_that_the_journal_does_not_have_is_not_continued_from(
    home: Home, long_run: Journal, monkeypatch: pytest.MonkeyPatch, why: str
):
    """It would be counted twice once the journal has it."""
    with closing(continued(home, long_run)) as recorder:
        if why == "no room":
            monkeypatch.setattr(long_run, "_write_line", lambda _: raise_no_room())
            long_run.append(
                SessionStarted(at=AT, session=99, timebox_s=9, grace_s=3, host="h", supervisor_pid=1, boot_id="b")
            )
        assert recorder.record_state(publish=False, reason="Slurm: it waits" if why == "reason" else None)
        with closing(open_index(home, 5.0, lambda _: None)) as index:
            assert index.folded("r") is None
        monkeypatch.undo()
        long_run.append()
        assert recorder.record_state(publish=False)
        with closing(open_index(home, 5.0, lambda _: None)) as index:
            assert index.folded("r") is not None


def raise_no_room() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
