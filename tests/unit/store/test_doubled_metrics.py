"""A metric that a session has in several ways is kept once."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from backprop.records import Origin, Source
from backprop.store import curves
from backprop.store.index import Index
from backprop.store.output.protocol import digest
from tests.conftest import HANG_S
from tests.unit.store.test_index import made, output

PRINTED, TRACKED, REPORTED = ({"printed": True}, {"tracked": True}, {})
SOURCES = {1: Source.PRINTED, 2: Source.TRACKED, 3: Source.EVENTS}


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(tmp_path / "index.db", HANG_S)
    opened.put_run(made(), 1)
    yield opened
    opened.close()


def add(index: Index, source: Source, *lines: dict[str, object], session: int = 1) -> None:
    data = output(*lines)
    start = index.offset("run1", session, source)
    assert index.add_output("run1", session, start, start + len(data), digest(data, start), [], source)


def kept(index: Index) -> dict[str, list[float]]:
    view = index.get("run1")
    assert view is not None
    found = {name: [point.value for point in curves.points(index, view.run, name)] for name in view.summaries}
    assert {name: len(values) for name, values in found.items()} == {
        name: summary.count for name, summary in view.summaries.items()
    }
    return found


@pytest.mark.parametrize("order", [*itertools.permutations([1, 2, 3])])
def test_what_is_reported_wins_in_any_order(index: Index, order: tuple[int, ...]):
    """Also over what is stored already, and over what comes later."""
    marks = {1: PRINTED, 2: TRACKED, 3: REPORTED}
    for step in (1, 2):
        for origin in order:
            add(index, SOURCES[origin], {"step": step, "loss": float(origin), f"own{origin}": 1.0, **marks[origin]})
    assert kept(index) == {"loss": [3.0, 3.0], "own1": [1.0, 1.0], "own2": [1.0, 1.0], "own3": [1.0, 1.0]}
    view = index.get("run1")
    assert view is not None
    assert {name: summary.origin for name, summary in view.summaries.items()} == {
        "loss": Origin.REPORTED,
        "own1": Origin.PRINTED,
        "own2": Origin.TRACKED,
        "own3": Origin.REPORTED,
    }


@pytest.mark.parametrize(
    ("tracked", "reported", "is_same"),
    [
        ("train/loss", "loss", True),
        ("eval/loss", "eval_loss", True),
        ("train/loss", "train_loss", True),
        ("train_loss", "train/loss", True),
        ("Loss/train", "train_loss", True),
        ("val/loss", "loss", False),
        ("loss", "train/loss", False),
    ],
)
@pytest.mark.parametrize("is_reported_first", [True, False])
def test_spellings(index: Index, tracked: str, reported: str, is_same: bool, is_reported_first: bool):
    lines = [(Source.TRACKED, {"step": 1, tracked: 2.0, **TRACKED}), (Source.EVENTS, {"step": 1, reported: 3.0})]
    for source, line in reversed(lines) if is_reported_first else lines:
        add(index, source, line)
    assert kept(index) == {reported: [3.0]} | ({} if is_same else {tracked: [2.0]})


def test_other_sessions_are_left_alone(index: Index):
    """The first one only tracked it; the points, and the summary, of that are still there."""
    add(index, Source.TRACKED, *({"step": step, "loss": 7.0, **TRACKED} for step in range(600)))
    add(index, Source.TRACKED, {"step": 600, "loss": 9.0, **TRACKED}, session=2)
    add(index, Source.EVENTS, {"step": 600, "loss": 1.0}, session=2)
    add(index, Source.TRACKED, {"step": 601, "loss": 9.0, **TRACKED}, session=2)
    assert kept(index) == {"loss": [7.0] * 600 + [1.0]}
    view = index.get("run1")
    assert view is not None
    assert (view.summaries["loss"].greatest, view.summaries["loss"].origin) == (7.0, Origin.REPORTED)


def test_what_is_removed_is_not_counted(index: Index):
    """Neither as a metric of the limit of names, nor in its summary."""
    add(index, Source.TRACKED, {"step": 1, "train/loss": 9.0, **TRACKED})
    add(index, Source.EVENTS, {"step": 1, "loss": 1.0})
    assert index.rows("SELECT metric_count FROM runs") == [(1,)]
    assert index.rows("SELECT count(*) FROM points") == [(1,)]
