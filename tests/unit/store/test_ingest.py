"""Output that is read while it grows, by whoever looks, comes to the same as output that is read at the end.

Each source has what it has in real runs: a metric that is reported both by the script and by our hooks is the last one
that was read, and so is not written here.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.records import Source, Status
from backprop.store import curves, recorder
from backprop.store.home import Home
from backprop.store.index import open_index
from backprop.store.journal import file as journals
from backprop.store.journal.entries import CheckpointMeasured, SessionEnded, SessionStarted
from backprop.store.journal.file import Journal
from backprop.store.recorder import Recorder
from backprop.store.rundir import RunDir
from tests.conftest import scaled
from tests.records import AT, SPEC

_MARKS = {Source.PRINTED: {"printed": True}, Source.TRACKED: {"tracked": True}}
_STEPS = st.integers(0, 9)
_NAMES = st.sampled_from(["loss", "train/loss", "val_loss", "acc"])
_METRICS = st.builds(lambda step, name, value: {"step": step, name: value}, _STEPS, _NAMES, st.integers(0, 3))
_SAVES = st.builds(lambda step: {"event": "checkpoint_saved", "path": f"{step}.pt", "step": step}, _STEPS)
_PARAMS = st.builds(lambda value: {"event": "params", "params": {"lr": value}}, st.integers(0, 3))
_LINES = {
    Source.OUT: st.one_of(_METRICS, _SAVES, _PARAMS, st.just("no metric")),
    Source.EVENTS: _SAVES,
    Source.PRINTED: _METRICS,
    Source.TRACKED: _METRICS,
    Source.USAGE: st.builds(
        lambda ram: {"since": 0.0, "until": 1.0, "count": 1, "values": {"ram": ram}}, st.integers(0, 9)
    ),
}
_DEEDS = st.one_of(
    *(
        st.tuples(st.just("write"), st.just(source), st.lists(lines, min_size=1, max_size=4), st.booleans())
        for source, lines in _LINES.items()
    ),
    st.tuples(st.sampled_from(["poll", "look", "new supervisor", "next session", "new index", "reindex", "finish"])),
)


def _text(source: Source, line: Any) -> str:
    if isinstance(line, str):
        return line
    return json.dumps(line | _MARKS.get(source, {}))


class _Scene:
    """A run that is going on, its supervisor, and others who look."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "home")
        self.home.make()
        self.rundir = self.home.rundir("r")
        self.rundir.path.mkdir()
        self.rundir.spec_path.write_bytes(msgspec.json.encode(SPEC))
        self.journal = Journal(self.rundir.journal_path)
        assert self.journal.try_lock()
        self.session = 0
        self.trained_s = 0.0
        self.begin_session()
        self.supervisor = self.recorder()

    def recorder(self) -> Recorder:
        made = Recorder(self.home, self.rundir, SPEC, self.journal, lambda _: None)
        assert made.record_state(publish=False)
        return made

    def begin_session(self) -> None:
        self.session += 1
        self.journal.append(
            SessionStarted(
                at=AT, session=self.session, timebox_s=600, grace_s=30, host="h", supervisor_pid=1, boot_id=None
            )
        )

    def end_session(self) -> None:
        self.journal.append(
            SessionEnded(at=AT, session=self.session, status=Status.TIMEBOXED, reason="r", exit_code=0, elapsed_s=100.0)
        )

    def write(self, source: Source, lines: list[Any], is_whole: bool) -> None:
        text = "\n".join(_text(source, line) for line in lines) + ("\n" if is_whole else "")
        with self.rundir.source_path(self.session, source).open("a") as file:
            file.write(text)

    def poll(self) -> None:
        self.trained_s += 1.0
        self.supervisor.output.ingest(self.session, self.trained_s, is_supervisor=True)

    def look(self) -> None:
        with closing(self.recorder()) as other:
            other.output.ingest(self.session, self.trained_s)

    def new_supervisor(self) -> None:
        self.supervisor.close()
        self.supervisor = self.recorder()

    def next_session(self) -> None:
        self.end_session()
        self.begin_session()
        self.new_supervisor()

    def new_index(self) -> None:
        for path in self.home.path.glob("index.db*"):
            path.unlink()
        with closing(open_index(self.home, 5.0, lambda _: None)) as index:
            index.put_run(*self.supervisor.read_run())

    def reindex(self) -> None:
        """By another process, which has come as far as the run's state."""
        with closing(open_index(self.home, 5.0, lambda _: None)) as index:
            index.remove("r")
            index.put_run(*self.supervisor.read_run())

    def finish(self) -> None:
        """Somebody finds the run at its end, and says so in the index; it goes on."""
        self.end_session()
        with closing(self.recorder()) as other:
            other.finish(publish=False)
        self.begin_session()
        self.new_supervisor()

    def record(self) -> tuple[Any, ...]:
        """What the index says of the run, once it has all."""
        with closing(self.recorder()) as last:
            while not last.finish(publish=False):
                pass
        with closing(open_index(self.home, 5.0, lambda _: None)) as index:
            view = index.get("r")
            assert view is not None
            points = {}
            for name in view.summaries:
                found = [(p.session, p.step, p.value) for p in curves.points(index, view.run, name)]
                sessions = [session for session, _, _ in found]
                assert sessions == sorted(sessions)
                points[name] = sorted(found)
        return view, points

    def last_step(self) -> int | None:
        with closing(open_index(self.home, 5.0, lambda _: None)) as index:
            view = index.get("r")
        assert view is not None
        return view.last_step

    def close(self) -> None:
        self.supervisor.close()
        self.journal.close()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[_Scene]:
    with closing(_Scene(tmp_path)) as made:
        yield made


def test_a_checkpoint_that_somebody_else_measured_first(scene: _Scene):
    """Who looked before the supervisor did has measured it; what it measured counts, also in an index that lacks it."""
    scene.write(Source.OUT, [{"event": "checkpoint_saved", "path": "1.pt", "step": 1}], is_whole=True)
    scene.look()
    scene.new_index()
    scene.poll()
    scene.end_session()
    view, _ = scene.record()
    entries, _ = journals.read(scene.rundir.journal_path)
    first, *_ = (entry for entry in entries if isinstance(entry, CheckpointMeasured))
    assert [checkpoint.measure for checkpoint in view.checkpoints] == [first.measure]


def _used(ram: int) -> dict[str, Any]:
    return {"since": 0.0, "until": 1.0, "count": 1, "values": {"ram": ram}}


def _assert_rebuilt_index_says_the_same(scene: _Scene) -> None:
    scene.end_session()
    grown = scene.record()
    scene.new_index()
    assert scene.record() == grown


def test_a_source_is_not_stored_before_earlier_sessions_when_another_was_refused(scene: _Scene):
    """A reindex has forgotten the run since the last look: what is seen at the first source holds for all of them."""
    for session in range(2):
        if session:
            scene.next_session()
        scene.write(Source.OUT, [{"step": session, "loss": 1}], is_whole=True)
        scene.write(Source.USAGE, [_used(session)], is_whole=True)
        scene.poll()
        scene.poll()
    scene.reindex()
    scene.write(Source.OUT, [{"step": 9, "loss": 1}], is_whole=True)
    scene.poll()
    _assert_rebuilt_index_says_the_same(scene)


def test_a_supervisor_hears_of_each_source_however_often_others_look(scene: _Scene):
    """Whoever stores a block of one source first does not keep the others from it."""
    for step in range(3):
        scene.write(Source.OUT, ["no metric"], is_whole=True)
        scene.write(Source.PRINTED, [{"step": step, "loss": 1}], is_whole=True)
        scene.look()
        assert len(scene.supervisor.output.ingest(1, 1.0, is_supervisor=True).batches) == 2


def test_a_reindex_between_two_looks_at_the_index(scene: _Scene, monkeypatch: pytest.MonkeyPatch):
    """What a first look said of earlier sessions does not hold for what the second look finds."""
    monkeypatch.setattr(recorder, "_LATE", 1)
    scene.write(Source.OUT, [{"step": 1, "loss": 1}], is_whole=True)
    scene.next_session()
    scene.write(Source.OUT, [{"step": 2, "loss": 2}], is_whole=True)
    scene.finish()
    scene.write(Source.OUT, [{"step": 3, "loss": 3}], is_whole=True)
    sizes_of = RunDir.source_sizes

    def while_it_looks_at_the_files(*args: Any) -> Any:
        monkeypatch.setattr(RunDir, "source_sizes", sizes_of)
        scene.reindex()
        return sizes_of(*args)

    monkeypatch.setattr(RunDir, "source_sizes", while_it_looks_at_the_files)
    scene.look()
    _assert_rebuilt_index_says_the_same(scene)


@pytest.mark.parametrize("is_tracked_first", [True, False])
def test_steps_that_are_logged_to_a_tracker_count_before_printed_ones(scene: _Scene, is_tracked_first: bool):
    """In whichever order they are read; a session that logs none is as far as it prints."""
    sources = [(Source.TRACKED, {"step": 900, "a": 1}), (Source.PRINTED, {"step": 3, "a": 1})]
    for source, line in sources if is_tracked_first else reversed(sources):
        scene.write(source, [line], is_whole=True)
        scene.poll()
    assert scene.last_step() == 900
    scene.next_session()
    scene.write(Source.PRINTED, [{"step": 4, "a": 1}], is_whole=True)
    scene.poll()
    assert scene.last_step() == 4


@settings(max_examples=scaled(300))
@given(st.lists(_DEEDS, max_size=15))
def test_a_rebuilt_index_says_the_same(deeds: list[tuple[Any, ...]]):
    with tempfile.TemporaryDirectory() as folder, closing(_Scene(Path(folder))) as scene:
        for deed, *how in deeds:
            getattr(scene, deed.replace(" ", "_"))(*how)
        _assert_rebuilt_index_says_the_same(scene)
