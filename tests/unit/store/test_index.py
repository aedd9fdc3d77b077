"""index.db: each line counts once, whoever reads it; and everything comes back as it was stored."""

import json
import math
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.records import Checkpoint, Measure, Origin, Run, RunSpec, Source, Status
from backprop.store import curves
from backprop.store.curve_writer import CHUNK_POINTS, MAX_METRICS
from backprop.store.home import Home
from backprop.store.index import SCHEMA_VERSION, Index, IndexBrokenError, open_index
from backprop.store.output.protocol import Batch, digest
from backprop.store.usage import blocks as usage_blocks
from tests.conftest import HANG_S, scaled
from tests.records import LIMITS, session_record

AT = datetime(2026, 1, 2, tzinfo=timezone.utc)


def made(run_id: str = "run1", *, age_s: float = 0, status: Status = Status.RUNNING, **changes: Any) -> Run:
    elapsed_s = changes.pop("elapsed_s", None)
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
    session = session_record(status, started_at=AT, host="here", elapsed_s=elapsed_s)
    return Run(spec=spec, status=status, latest=(session,))


def output(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def stored(
    index: Index, data: bytes, start: int = 0, *, session: int = 1, checkpoints: Sequence[tuple[int, Checkpoint]] = ()
) -> bool:
    return index.add_output("run1", session, start, start + len(data), digest(data, start), checkpoints)


def curve(index: Index, name: str) -> list[tuple[float, str]]:
    """A curve, comparable although NaN is not equal to itself."""
    return [(float(point.step), repr(point.value)) for point in curves.points(index, made(), name)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.db"


@pytest.fixture
def index(path: Path) -> Iterator[Index]:
    opened = Index(path, 5.0)
    yield opened
    opened.close()


@pytest.fixture
def run1(index: Index) -> Index:
    index.put_run(made(), 10)
    return index


# -- sources


def test_each_source_is_read_to_its_own_offset(run1: Index):
    """What our code inside the trainer tells stands beside what the script prints, and counts once as well."""
    printed, told = output({"step": 1, "a": 1.0}), output({"step": 2, "a": 2.0}, {"event": "x"})
    for _ in range(2):
        run1.add_output("run1", 1, 0, len(printed), digest(printed), [])
        run1.add_output("run1", 1, 0, len(told), digest(told), [], Source.EVENTS)
    assert (run1.offset("run1", 1), run1.offset("run1", 1, Source.EVENTS)) == (len(printed), len(told))
    assert curve(run1, "a") == [(1.0, "1.0"), (2.0, "2.0")]
    view = run1.get("run1")
    assert view is not None
    assert view.note_count == 1


def test_counted_steps_show_where_none_are_reported(run1: Index):
    for line, last_step in (({"step": 7, "counted": True}, 7), ({"step": 3}, 3), ({"step": 8, "counted": True}, 3)):
        assert stored(run1, output(line), run1.offset("run1", 1))
        view = run1.get("run1")
        assert view is not None
        assert view.last_step == last_step


def test_what_is_logged_to_a_tracker_late_takes_no_step_back(run1: Index):
    """Within a session; a resumed one begins at an earlier step."""
    at = 0
    for session, steps, shown in [(1, (5, 90, 2), 90), (1, (0,), 90), (2, (50,), 50), (2, (1,), 50)]:
        at = 0 if steps == (50,) else at
        data = b"".join(b'{"step": %d, "loss": 1, "tracked": true}\n' % step for step in steps)
        assert run1.add_output("run1", session, at, at + len(data), digest(data), [], Source.TRACKED)
        at += len(data)
        view = run1.get("run1")
        assert view is not None
        assert view.last_step == shown


def test_each_kind_of_steps_has_its_own_total_and_unit(run1: Index):
    """A run shows the first kind that there is: reported, counted, printed."""

    def put(source: Source, *lines: dict) -> tuple:
        data = b"".join(map(output, lines))
        assert run1.add_output("run1", 1, 0, len(data), digest(data), [], source)
        view = run1.get("run1")
        assert view is not None
        return view.last_step, view.total_steps, view.step_unit

    printed = {"step": 3, "printed": True, "total_steps": 10}
    counted = {"step": 400, "counted": True, "total_steps": 4000}
    assert put(Source.PRINTED, {"event": "unit", "unit": "epoch"}, printed) == (3, 10, "epoch")
    assert put(Source.EVENTS, {"event": "unit", "unit": "batch", "counted": True}, counted) == (400, 4000, "batch")
    assert put(Source.OUT, {"step": 7}) == (7, None, None)


def test_a_printed_total_that_is_exceeded_was_of_something_else(run1: Index):
    """Of a preparation, say. One that is reported stays: a rollout may go beyond it."""
    data = output({"step": 60, "printed": True, "total_steps": 60}, {"step": 200, "printed": True})
    assert run1.add_output("run1", 1, 0, len(data), digest(data), [], Source.PRINTED)
    view = run1.get("run1")
    assert view is not None
    assert (view.last_step, view.total_steps) == (200, None)
    assert stored(run1, output({"step": 70, "total_steps": 60}))
    view = run1.get("run1")
    assert view is not None
    assert (view.last_step, view.total_steps) == (70, 60)


def test_checkpoints_of_two_sources_are_in_the_order_they_were_saved(run1: Index):
    """Within a source in the order of its reports, even where a clock was set back."""

    def report(name: str, seconds: int, source: Source) -> None:
        at = AT + timedelta(seconds=seconds)
        checkpoint = Checkpoint(path=name, step=None, session=1, measure=Measure(size_bytes=1, saved_at=at))
        start = run1.offset("run1", 1, source)
        data = output({"event": "x"})
        run1.add_output("run1", 1, start, start + len(data), digest(data), [(start, checkpoint)], source)

    for name, seconds, source in (
        ("c", 30, Source.OUT), ("a", 10, Source.EVENTS), ("b", 20, Source.EVENTS), ("d", 25, Source.OUT),
    ):  # fmt: skip
        report(name, seconds, source)
    view = run1.get("run1")
    assert view is not None
    assert [checkpoint.path for checkpoint in view.checkpoints] == ["a", "b", "c", "d"]


# -- runs


def test_a_run_comes_back_as_it_was_stored(index: Index):
    """The whole record of a run is in the index, and its parameters."""
    run = made(name="Größe", params={"lr": 1e-3, "layers": [64, {"a": None}]})
    index.put_run(run, 10)
    view = index.get("run1")
    assert view is not None
    assert view.run == run
    assert view.params == {"lr": 1e-3, "layers": [64, {"a": None}]}
    assert view.run_dir == str(index.path.parent / "runs" / "run1")
    assert (view.last_step, view.total_steps, view.metrics, view.checkpoints, view.note_count) == (
        None, None, {}, (), 0,
    )  # fmt: skip


def test_a_run_that_is_not_here_is_none(index: Index):
    """What the index does not know is said to be unknown."""
    assert index.get("nobody") is None
    assert index.journal_size("nobody") is None
    assert index.offset("nobody", 1) == 0
    assert index.newest_id() is None
    assert list(index.newest(9)) == []


def test_more_of_a_journal_wins_over_less(index: Index):
    """A reader that was slow never overwrites what a faster one has stored."""
    index.put_run(made(status=Status.COMPLETED), 20)
    index.put_run(made(status=Status.RUNNING), 10)
    view = index.get("run1")
    assert view is not None
    assert view.run.status is Status.COMPLETED
    assert index.journal_size("run1") == 20
    index.put_run(made(status=Status.RUNNING), 30)
    assert index.rows("SELECT count(*) FROM runs WHERE status = 'running'") == [(1,)]


def test_a_stored_run_keeps_what_its_trainer_said(run1: Index):
    """Storing the state of a run again does not touch its metrics."""
    stored(run1, output({"step": 1, "loss": 0.5}))
    run1.put_run(made(status=Status.COMPLETED), 20)
    view = run1.get("run1")
    assert view is not None
    assert (view.last_step, view.metrics) == (1, {"loss": 0.5})


# -- compare and swap


def test_two_who_read_the_same_stretch_count_it_once(path: Path, run1: Index):
    """Of two connections that store the same stretch exactly one succeeds, and its lines count once."""
    data = output({"step": 1, "loss": 0.5}, {"event": "x"})
    other = Index(path, 5.0)
    assert [stored(run1, data), stored(other, data)] == [True, False]
    assert curve(other, "loss") == [(1.0, "0.5")]
    view = other.get("run1")
    assert view is not None
    assert view.note_count == 1
    assert run1.offset("run1", 1) == other.offset("run1", 1) == len(data)
    other.close()


RACER = """
import sys
from pathlib import Path
from backprop.store.output.protocol import digest
from backprop.store.index import Index
index = Index(Path(sys.argv[1]), 30.0)
sys.stdin.readline()
won = 0
for number in range(100):
    data = b'{"step": %d, "a": 1}\\n' % (100 + number)
    won += index.add_output("run1", 1, number * len(data), (number + 1) * len(data), digest(data), [])
print(won)
"""


def test_processes_that_race_count_every_line_once(path: Path, run1: Index):
    """Several processes that store the same output at once store each stretch exactly once, together all of it."""
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    won = [int(racer.communicate(timeout=HANG_S)[0]) for racer in racers]
    assert sum(won) == 100
    assert [step for step, _ in curve(run1, "a")] == [100.0 + number for number in range(100)]


@pytest.mark.parametrize("is_patient", [True, False])
def test_others_that_write_one_after_the_other_are_waited_for(
    tmp_path: Path, is_patient: bool, monkeypatch: pytest.MonkeyPatch
):
    """By who may wait: none of them hangs. One that does is not waited for."""
    monkeypatch.setattr("backprop.store.index._PATIENCE", HANG_S / 0.05)
    path = tmp_path / "index.db"
    with closing(Index(path, 0.05)) as ours, closing(Index(path, HANG_S)) as other:
        ours.is_patient = is_patient
        other._db.execute("BEGIN IMMEDIATE")
        looks = 0

        def look() -> int:
            nonlocal looks
            looks += 1
            if looks == 2:  # we have waited, and meanwhile another has had its turn, and the next one begun
                other._db.execute("INSERT INTO facts VALUES ('turn', 1)")
                other._db.execute("COMMIT")
                other._db.execute("BEGIN IMMEDIATE")
            elif looks == 3:
                other._db.execute("ROLLBACK")
            return real()

        real, ours._commits_of_others = ours._commits_of_others, look  # type: ignore[method-assign]
        if is_patient:
            ours.wait_for_turn()
            assert looks == 3
            other._db.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            ours.wait_for_turn()


def test_a_new_file_that_another_process_is_making_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Both want to change the mode of the file: SQLite has no patience for that."""
    path = tmp_path / "new.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(time, "sleep", lambda _: other.execute("ROLLBACK"))
        Index(path, HANG_S).close()
        assert not other.in_transaction


@pytest.mark.parametrize("start", [1, 5, 1000])
def test_a_stretch_with_a_gap_before_it_is_not_stored(run1: Index, start: int):
    """Output is stored without gaps, or not at all."""
    assert stored(run1, output({"step": 1, "a": 1}), start) is False
    assert run1.offset("run1", 1) == 0
    assert curve(run1, "a") == []


def test_output_of_an_unknown_run_is_not_stored(index: Index):
    """Nothing is stored for a run that was removed meanwhile."""
    assert stored(index, output({"step": 1, "a": 1})) is False
    assert index.offset("run1", 1) == 0


def test_sessions_have_offsets_of_their_own(run1: Index):
    """Each session's output is read from its own beginning; the curve goes on."""
    first, second = output({"step": 1, "a": 1}), output({"step": 2, "a": 2}, {"step": 3, "a": 3})
    assert stored(run1, first, session=1)
    assert stored(run1, second, session=2)
    assert (run1.offset("run1", 1), run1.offset("run1", 2)) == (len(first), len(second))
    assert curve(run1, "a") == [(1.0, "1.0"), (2.0, "2.0"), (3.0, "3.0")]


def test_a_stretch_that_cannot_be_stored_leaves_nothing_behind(run1: Index):
    """A failure in the middle of a stretch undoes all of it, and the connection goes on working."""
    data = output({"step": 1, "a": 1})
    unstorable = Checkpoint(
        path="\udcff", step=1, session=1, measure=Measure(size_bytes=1, saved_at=AT)
    )  # cannot be encoded
    with pytest.raises(UnicodeEncodeError):
        stored(run1, data, checkpoints=[(0, unstorable)])
    assert (run1.offset("run1", 1), curve(run1, "a")) == (0, [])
    assert stored(run1, data) is True


# -- what a trainer said


def test_nan_and_infinities_come_back(run1: Index):
    """A curve and a last value may be NaN or infinite."""
    stored(run1, output({"step": 1, "a": math.nan, "b": math.inf}, {"step": 2, "a": 1.0, "b": -math.inf}))
    assert curve(run1, "a") == [(1.0, "nan"), (2.0, "1.0")]
    assert curve(run1, "b") == [(1.0, "inf"), (2.0, "-inf")]
    stored(run1, output({"step": 3, "a": math.nan}), run1.offset("run1", 1))
    view = run1.get("run1")
    assert view is not None
    assert math.isnan(view.metrics["a"])
    assert view.metrics["b"] == -math.inf


@pytest.mark.parametrize("batch_points", [1, 7, CHUNK_POINTS - 1, CHUNK_POINTS, CHUNK_POINTS + 1, 5 * CHUNK_POINTS])
def test_a_long_curve_comes_back_in_order(run1: Index, batch_points: int):
    """However many points a stretch brings, the curve is whole and in the order it was written."""
    count, start = 5 * CHUNK_POINTS + 3 if batch_points > 1 else CHUNK_POINTS + 2, 0
    for first in range(0, count, batch_points):
        steps = range(first, min(first + batch_points, count))
        data = output(*({"step": step % 1000, "a": step / 3} for step in steps))
        assert stored(run1, data, start)
        start += len(data)
    assert curve(run1, "a") == [(float(step % 1000), repr(step / 3)) for step in range(count)]


def test_a_metric_that_nobody_logged_has_no_points(run1: Index):
    """An unknown curve is empty."""
    assert curve(run1, "nothing") == []


def test_the_newest_of_everything_is_in_the_view(run1: Index):
    """Last step, total and last value of each metric are those that were written last."""
    start = 0
    for line in (
        {"step": 5, "loss": 3, "acc": 0.1, "total_steps": 100},
        {"step": 6, "loss": 2},
        {"step": 4, "loss": 2.5, "total_steps": 90},  # steps may go back
        {"event": "x"},
    ):
        assert stored(run1, output(line), start)
        start += len(output(line))
    view = run1.get("run1")
    assert view is not None
    assert (view.last_step, view.total_steps) == (4, 90)
    assert view.metrics == {"acc": 0.1, "loss": 2.5, "total_steps": 90}
    assert view.note_count == 1


@pytest.mark.parametrize("step", [2**63 - 1, -(2**63) + 1, 2**53 + 1])
def test_a_huge_step_comes_back(run1: Index, step: int):
    """The last step is exact however large it is."""
    assert stored(run1, b'{"step": %d, "a": 1}\n' % step)
    view = run1.get("run1")
    assert view is not None
    assert view.last_step == step


@pytest.mark.parametrize("total", [math.nan, math.inf, -math.inf, 1e300, 2.0**63])
def test_a_total_that_cannot_be_is_unknown(run1: Index, total: float):
    """A number of steps that no integer of the index can hold is not stored as one."""
    assert stored(run1, output({"step": 1, "total_steps": total}))
    view = run1.get("run1")
    assert view is not None
    assert view.total_steps is None


PARAMS = {
    "lr": 1e-3,
    "name": "Größe\n",
    "deep": {"a": [1, {"b": None}]},
    "flag": False,
    "seed": 10**30,
    "": 0,
    "nul\0": "a\0b",
}


def test_params_come_back_and_the_trainers_word_is_the_last(index: Index):
    """What the script itself tells wins over what its arguments told, and whatever it tells can be stored."""
    index.put_run(made(params={"lr": 0.5, "layers": [64, 64]}), 10)
    assert stored(index, output({"event": "params", "params": PARAMS}))
    index.put_run(made(params={"lr": 0.5, "layers": [64, 64]}), 20)
    view = index.get("run1")
    assert view is not None
    assert view.params == {**PARAMS, "layers": [64, 64]}


def seen(
    params: dict[str, Any], origin: str = "parser", defaults: tuple[str, ...] = (), **guessed: Any
) -> dict[str, Any]:
    """The event of a hook."""
    event = {"event": "params", "params": params, "origin": origin, "defaults": list(defaults)}
    return {**event, "guessed": guessed}


def shown(index: Index) -> tuple[dict[str, Any], set[str]]:
    """(parameters of the run, the names of its defaults)."""
    view = index.get("run1")
    assert view is not None
    return dict(view.params), set(view.default_params)


def test_a_parser_takes_the_place_of_the_guess(index: Index):
    """Whether the journal is read before the output or after it, and whatever it says of the arguments later."""
    run, grown = made(params={"l": 1, "amp": True}), made(params={"l": 2, "amp": True})
    index.put_run(run, 10)
    assert stored(index, output(seen({"lr": 1.0, "wd": 0}, defaults=("wd", "no such"), rest=3)))
    index.put_run(grown, 20)
    assert shown(index) == ({"lr": 1.0, "wd": 0, "rest": 3}, {"wd"})


def test_of_what_was_seen_the_last_counts_and_the_scripts_word_more(index: Index):
    """Settings neither remove a guess, nor does what a parser found empty."""
    index.put_run(made(params={"lr": 1, "x": 1}), 10)
    script = {"event": "params", "params": {"lr": 4}}
    assert stored(
        index, output(script, seen({"lr": 2, "b": 2}, "settings"), seen({}), seen({"lr": 3, "b": 2}, "settings"))
    )
    assert shown(index) == ({"lr": 4, "b": 2, "x": 1}, set())
    data = output(seen({"lr": 5, "b": 5, "c": 5}), seen({"b": 6}, "settings"))
    assert stored(index, data, index.offset("run1", 1))
    assert shown(index) == ({"lr": 4, "b": 6, "c": 5}, set())


def test_a_parser_has_the_last_word_on_earlier_sessions(index: Index):
    """An option that the script does not have any more is gone; what it says itself stays."""
    index.put_run(made(), 10)
    script = {"event": "params", "params": {"said": 1}}
    assert stored(index, output(script, seen({"a": 1, "b": 1}), seen({"c": 1}, "settings")))
    assert stored(index, output(seen({"a": 2})), session=2)
    assert shown(index) == ({"a": 2, "said": 1}, set())


def test_params_that_json_cannot_say_are_text(index: Index):
    """NaN and infinities among parameters come back as text, wherever they come from."""
    index.put_run(made(params={"a": math.inf}), 10)
    assert stored(index, output({"event": "params", "params": {"b": [math.nan]}}))
    view = index.get("run1")
    assert view is not None
    assert view.params == {"a": "Infinity", "b": ["NaN"]}


def checkpoint(path: str, step: int | None, session: int = 1, size_bytes: int | None = 5) -> Checkpoint:
    return Checkpoint(path=path, step=step, session=session, measure=Measure(size_bytes=size_bytes, saved_at=AT))


def test_checkpoints_come_oldest_first_and_the_latest_report_of_a_path_counts(run1: Index):
    """A checkpoint that was saved over is where it was saved last, as it was measured then."""
    reports = [
        (1, 0, checkpoint("/a", 1)),
        (1, 10, checkpoint("/b", None, size_bytes=None)),
        (1, 20, checkpoint("/a", 3, size_bytes=7)),
        (2, 0, checkpoint("/c", 4, session=2)),
        (2, 5, checkpoint("/b", 5, session=2)),
    ]
    starts = {1: 0, 2: 0}
    for session, offset, told in reports:
        data = b"x" * 10
        assert stored(run1, data, starts[session], session=session, checkpoints=[(offset, told)])
        starts[session] += len(data)
    view = run1.get("run1")
    assert view is not None
    assert view.checkpoints == (reports[2][2], reports[3][2], reports[4][2])


# -- looking


@pytest.fixture
def several(index: Index) -> Index:
    """Four runs, newest first: dd, cc, bb, ba."""
    for run_id, age_s, status, name, elapsed_s, loss in (
        ("ba", 40, Status.COMPLETED, "same", 1.0, 0.5),
        ("bb", 30, Status.FAILED, None, 9.0, None),
        ("cc", 20, Status.RUNNING, "same", None, math.nan),
        ("dd", 10, Status.COMPLETED, "aaa", 5.0, 0.1),
    ):
        index.put_run(made(run_id, age_s=age_s, status=status, name=name, elapsed_s=elapsed_s), 1)
        if loss is not None:
            data = output({"step": age_s, "loss": loss})
            index.add_output(run_id, 1, 0, len(data), digest(data), [])
    return index


def test_the_newest_run_is_known(several: Index):
    """`last` is the run that was made last."""
    assert several.newest_id() == "dd"
    assert several.run_ids() == {"ba", "bb", "cc", "dd"}
    assert several.count() == 4


@pytest.mark.parametrize(
    ("prefix", "ids"),
    [
        ("b", ["ba", "bb"]),
        ("bb", ["bb"]),
        ("c", ["cc"]),
        ("x", []),
        ("B", []),
        ("%", []),
        ("", ["ba", "bb", "cc", "dd"]),
    ],
)
def test_ids_are_found_by_their_beginning(several: Index, prefix: str, ids: list[str]):
    """Ids that begin with a word, in order; wildcards are letters like any other."""
    assert several.ids_beginning(prefix) == ids


def test_an_exact_id_stands_alone(several: Index):
    """An id that is the beginning of others means itself."""
    several.put_run(made("bbb"), 1)
    assert several.ids_beginning("bb") == ["bb"]
    assert several.ids_beginning("b", limit=2) == ["ba", "bb"]


def test_names_are_found_exactly(several: Index):
    """Runs of a name, newest first; a name has no beginning."""
    assert several.ids_named("same") == ["cc", "ba"]
    assert several.ids_named("sam") == []


@pytest.mark.parametrize("word", ["\udcff", "a\0b", "ü\U0010ffff"])
def test_a_word_that_cannot_be_an_id_finds_nothing(several: Index, word: str):
    """Whatever bytes were typed as a run's name, the answer is that there is none."""
    assert several.ids_beginning(word) == []
    assert several.ids_named(word) == []


def test_a_removed_run_is_gone_and_the_others_are_not(several: Index):
    """Nothing of a removed run stays, in whatever table; the others keep theirs."""
    several.remove("ba")
    several.remove("ba")
    assert several.run_ids() == {"bb", "cc", "dd"}
    assert several.offset("ba", 1) == 0
    left = sqlite3.connect(several.path)
    tables = [row[0] for row in left.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    tables = [table for table in tables if table not in {"runs", "facts", "sqlite_sequence"}]
    assert tables
    for table in tables:
        assert left.execute(f"SELECT count(*) FROM {table} WHERE run_id = 'ba'").fetchone() == (0,)
    left.close()
    view = several.get("dd")
    assert view is not None
    assert view.metrics == {"loss": 0.1}


def test_what_was_seen_of_the_folder_is_remembered_until_a_run_is_removed(several: Index):
    """The mark that nothing is new in the runs folder is kept, and dropped with the next removal."""
    assert several.seen_folder_ns() is None
    several.set_seen_folder_ns(5)
    several.set_seen_folder_ns(2**62)
    assert several.seen_folder_ns() == 2**62
    several.remove("ba")
    assert several.seen_folder_ns() is None


# -- the file


def test_an_index_that_is_opened_again_has_everything(path: Path, run1: Index):
    """What was stored is there for the next process."""
    stored(run1, output({"step": 1, "a": 1}))
    other = Index(path, 5.0)
    assert curve(other, "a") == [(1.0, "1.0")]
    other.close()


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, -1])
def test_an_index_of_another_version_is_broken(path: Path, version: int):
    """An index that a newer or older version made is not guessed at."""
    other = sqlite3.connect(path)
    other.execute(f"PRAGMA user_version = {version}")
    other.close()
    with pytest.raises(IndexBrokenError, match=f"schema version {version}, not {SCHEMA_VERSION}"):
        Index(path, 5.0)


@pytest.mark.parametrize("garbage", [b"garbage" * 1000, b"\0" * 5000, b"SQLite format 3\0" + b"x" * 5000])
def test_garbage_is_not_an_index(path: Path, garbage: bytes):
    """A file that is no database is said to be broken."""
    path.write_bytes(garbage)
    with pytest.raises(IndexBrokenError):
        Index(path, 5.0)


def test_an_empty_file_becomes_an_index(path: Path):
    """A file that a crash left empty is begun anew."""
    path.touch()
    opened = Index(path, 5.0)
    assert opened.run_ids() == set()
    opened.close()


def test_an_index_that_was_replaced_is_noticed(path: Path, index: Index):
    """A connection knows when the file at its path is another one, or gone."""
    assert index.is_replaced() is False
    path.rename(path.with_name("aside"))
    assert index.is_replaced() is True
    Index(path, 5.0).close()
    assert index.is_replaced() is True


def test_a_damaged_index_is_set_aside_and_begun_anew(tmp_path: Path):
    """open_index keeps a damaged file under a name with the date, says so once, and gives a new index."""
    home = Home(tmp_path)
    home.make()
    home.index_path.write_bytes(b"garbage" * 1000)
    Path(f"{home.index_path}-wal").write_bytes(b"old log")
    said: list[str] = []
    opened = open_index(home, 5.0, said.append)
    assert opened.run_ids() == set()
    (aside,) = tmp_path.glob("index.db.corrupt-*")
    assert datetime.strptime(aside.name, "index.db.corrupt-%Y-%m-%dT%H-%M-%SZ")
    assert aside.read_bytes() == b"garbage" * 1000
    (sentence,) = said
    assert str(aside) in sentence
    assert "cannot be used" in sentence
    opened.close()


def test_a_sound_index_is_opened_in_silence(tmp_path: Path):
    """Nothing is said about an index that is as it should be."""
    home = Home(tmp_path)
    home.make()
    said: list[str] = []
    for _ in range(2):
        open_index(home, 5.0, said.append).close()
    assert said == []
    assert list(tmp_path.glob("*corrupt*")) == []


def test_two_damaged_indexes_of_one_second_are_both_kept(tmp_path: Path):
    """Setting aside never overwrites what was set aside before."""
    home = Home(tmp_path)
    home.make()
    for content in (b"first" * 1000, b"second" * 1000):
        home.index_path.write_bytes(content)
        open_index(home, 5.0, lambda _: None).close()
    kept = {path.read_bytes() for path in tmp_path.glob("index.db.corrupt-*")}
    assert kept == {b"first" * 1000, b"second" * 1000}


# -- any split

printed = st.lists(
    st.builds(
        lambda step, values: {"step": step, **values},
        st.integers(-5, 5),
        st.dictionaries(st.sampled_from(["a", "b"]), st.floats(), max_size=2),
    )
    | st.just({"event": "note"})
    | st.builds(lambda value: {"event": "params", "params": {"p": value}}, st.integers(0, 3)),
    max_size=15,
)


def summary(index: Index) -> object:
    view = index.get("run1")
    assert view is not None
    last = {name: repr(value) for name, value in view.metrics.items()}
    return curve(index, "a"), curve(index, "b"), last, view.last_step, view.params, view.note_count


@given(printed, st.sets(st.integers(1, 14)))
@settings(max_examples=scaled(60), deadline=None)
def test_any_split_into_stretches_comes_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, Any]], cuts: set[int]
):
    """Read in one look or in many, an output amounts to the same curves, last values, parameters and notes."""
    folder = tmp_path_factory.mktemp("split")
    summaries = []
    for name, bounds in (
        ("one", [0, len(lines)]),
        ("many", sorted({0, *(min(c, len(lines)) for c in cuts), len(lines)})),
    ):
        index = Index(folder / name, 5.0)
        index.put_run(made(), 1)
        for first, last in zip(bounds, bounds[1:], strict=False):
            assert stored(index, output(*lines[first:last]), index.offset("run1", 1))
        assert index.offset("run1", 1) == len(output(*lines))
        summaries.append(summary(index))
        index.close()
    assert summaries[0] == summaries[1]


def test_an_empty_stretch_only_moves_the_offset(run1: Index):
    """A line that is too long to be understood is passed over for good."""
    assert run1.add_output("run1", 1, 0, 5_000_000, Batch(), []) is True
    assert run1.offset("run1", 1) == 5_000_000
    view = run1.get("run1")
    assert view is not None
    assert (view.last_step, view.metrics) == (None, {})


def test_a_run_keeps_so_many_metrics_and_no_more(run1: Index):
    """A script that invents names for ever costs no more than the limit, says so, and loses nothing it had before."""
    start = 0
    for stretch in range(3):
        names = {f"m{number}": 1.0 for number in range(stretch * 4000, (stretch + 1) * 4000)}
        data = output({"step": stretch, "loss": 1.0, **names})
        assert stored(run1, data, start)
        start += len(data)
    view = run1.get("run1")
    assert view is not None
    assert (len(view.summaries), view.has_lost_metrics) == (MAX_METRICS, True)
    assert curve(run1, "loss") == [(0.0, "1.0"), (1.0, "1.0"), (2.0, "1.0")]
    assert curve(run1, "m0") == [(0.0, "1.0")]
    assert curve(run1, "m11999") == []


def test_an_index_is_its_owners_alone(tmp_path: Path):
    """Whatever others may do in the folder: the file, and those that SQLite puts beside it."""
    tmp_path.chmod(0o755)
    before = os.umask(0o022)
    try:
        index = Index(tmp_path / "index.db", 5)
    finally:
        os.umask(before)
    files = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    index.close()
    assert files == {"index.db": 0o600, "index.db-wal": 0o600, "index.db-shm": 0o600}


# -- a sampled loss

SAMPLED = [{"step": step, "loss": 0.5, "sampled": True} for step in (1, 2)]


def test_a_sampled_loss_is_kept_and_marked(index: Index):
    """Where nothing else reports a training loss; its step is none that the script reported."""
    index.put_run(made(), 1)
    assert stored(index, output(*SAMPLED, {"step": 2, "val_loss": 3.0, "accuracy": 0.5}))
    view = index.get("run1")
    assert view is not None
    assert {name: summary.origin is Origin.SAMPLED for name, summary in view.summaries.items()} == {
        "accuracy": False,
        "loss": True,
        "val_loss": False,
    }
    assert curve(index, "loss") == [(1.0, "0.5"), (2.0, "0.5")]


def test_the_step_of_a_sample_is_not_a_reported_one(index: Index):
    index.put_run(made(), 1)
    assert stored(index, output(*SAMPLED))
    view = index.get("run1")
    assert view is not None
    assert view.last_step is None


@pytest.mark.parametrize(("name", "count"), [("loss", 1), ("loss", 2), ("train/loss", 2), ("Loss_D", 2)])
@pytest.mark.parametrize("more", [{}, {"printed": True}])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_reported_loss_replaces_a_sampled_one(
    index: Index, name: str, count: int, more: dict[str, Any], is_first: bool
):
    """In whichever order they are read, and whoever reports it: no curve has points of both."""
    index.put_run(made(), 1)
    reported = [output({"step": step, name: 7.0, **more}) for step in range(count)]
    start = 0
    for data in (*reported, output(*SAMPLED)) if is_first else (output(*SAMPLED), *reported):
        assert stored(index, data, start)
        start += len(data)
    assert stored(index, output(*SAMPLED), start)
    view = index.get("run1")
    assert view is not None
    assert view.metrics == {name: 7.0}
    assert view.summaries[name].origin is not Origin.SAMPLED
    assert curve(index, name) == [(float(step), "7.0") for step in range(count)]
    assert index.rows("SELECT metric_count FROM runs") == [(1,)]


@pytest.mark.parametrize("is_first", [True, False])
def test_one_point_of_another_loss_replaces_no_curve(index: Index, is_first: bool):
    """Trainer's train_loss at the end, a summary."""
    index.put_run(made(), 1)
    parts = [output({"step": 2, "train_loss": 7.0}), output(*SAMPLED)]
    start = 0
    for data in parts if is_first else parts[::-1]:
        assert stored(index, data, start)
        start += len(data)
    assert curve(index, "loss") == [(1.0, "0.5"), (2.0, "0.5")]
    assert curve(index, "train_loss") == [(2.0, "7.0")]


def test_both_in_one_stretch(index: Index):
    index.put_run(made(), 1)
    assert stored(index, output(SAMPLED[0], {"step": 2, "loss": 7.0}, SAMPLED[1]))
    assert curve(index, "loss") == [(2.0, "7.0")]


@pytest.mark.parametrize("is_at_once", [True, False])
def test_losses_by_turns_replace_one_loss(index: Index, is_at_once: bool):
    """It was not known yet that optimizers take turns: a first point of one of them must not be shown as the loss."""
    index.put_run(made(), 1)
    first = output(*SAMPLED)
    numbered = output({"step": 3, "loss/1": 1.0, "sampled": True}, {"step": 3, "loss/2": 2.0, "sampled": True})
    start = 0
    for data in (first + numbered,) if is_at_once else (first, numbered):
        assert stored(index, data, start)
        start += len(data)
    view = index.get("run1")
    assert view is not None
    assert view.metrics == {"loss/1": 1.0, "loss/2": 2.0}
    assert curve(index, "loss") == []


def test_what_a_run_used_counts_once_and_goes_with_the_run(several: Index):
    """Whoever reads the file, in pieces; of several pieces the sums, the greatest and the last."""
    first = usage_blocks.totals(usage_blocks.encode(0, 2, [{"cpu": 100}, {"cpu": 300}]))
    second = usage_blocks.totals(usage_blocks.encode(2, 3, [{"cpu": 50}]))
    assert several.add_usage("ba", 1, 0, 70, first, earlier_bytes=0)
    assert not several.add_usage("ba", 1, 0, 70, first, earlier_bytes=0)  # another process was first
    assert several.add_usage("ba", 1, 70, 130, second, earlier_bytes=0)
    assert not several.add_usage("ba", 2, 0, 70, first, earlier_bytes=0)  # it has not seen the session before
    view = several.get("ba")
    assert view is not None
    assert view.usage is not None
    assert (view.usage.measured_s, view.usage.mean, view.usage.peak) == (3.0, {"cpu": 150.0}, {"cpu": 300.0})
    assert (view.usage.last, view.usage.counts) == ({"sys/cpu": 50.0}, {"sys/cpu": 3})
    assert view.metrics == {"loss": 0.5}
    several.remove("ba")
    assert several.rows("SELECT * FROM usage") == []
