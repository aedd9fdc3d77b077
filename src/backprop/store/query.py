"""What can be asked of the index: which runs, in which order, and their curves.

All views and exports ask here, and none of them knows SQL. See store/curves.py for how curves are kept and reduced,
and store/filters.py for how a filter becomes a statement.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from backprop.records import RunView
from backprop.store import curves, filters
from backprop.store.curves import Axis, Curve, Point
from backprop.store.filters import (
    SORT_KEYS,
    Wanted,
    is_its_loss,
    near_name,
)
from backprop.store.index import Index
from backprop.store.journal import file as journal
from backprop.store.journal import fold
from backprop.store.metric_names import (
    best,
    is_greater_better,
)
from backprop.store.rundir import RunDir

_WIDER = 16


def runs(index: Index, wanted: Wanted = Wanted()) -> list[RunView]:  # noqa: B008  it cannot change
    """The runs that are wanted, in their order."""
    ids = index.rows(*filters.ids_statement(wanted, is_greater_better))
    return [view for row in ids if (view := index.get(row[0])) is not None]


def count(index: Index, wanted: Wanted = Wanted()) -> int:  # noqa: B008
    """How many runs are wanted, whatever the limit."""
    return int(index.rows(*filters.count_statement(wanted, is_greater_better))[0][0])


def unknown_name(index: Index, names: Iterable[str], keys: Collection[str] = filters.KEYS) -> str | None:
    """What is wrong with the first of these names, as filters take them, that no run has; None: nothing.

    keys: names that mean something else. Passes through the names of all runs: for when nothing was found.
    """
    for word in names:
        if word in keys:
            continue
        kind, name = filters.kind_and_name(word)
        known = [row[0] for row in index.rows(*filters.names(kind))]
        if name not in known and not (is_its_loss(word) and any("loss" in other.lower() for other in known)):
            what = {"param": "parameter", "metric": "metric", "best": "metric"}.get(kind, "parameter or metric")
            near = near_name(name, known if kind else [*keys, *known])
            return f"no run has a {what} {name!r}" + (f"; did you mean {near}?" if near else ".")
    return None


def unknown_sort_key(index: Index, views: Sequence[RunView], key: str) -> str | None:
    """What is wrong with a key that no run can be sorted by; None: nothing, or there are no runs.

    views: sorted by it, so that whoever has what it names comes first.
    """
    if not views or is_its_loss(key):  # a loss is what most runs will have soon
        return None
    kind, name = filters.kind_and_name(key)
    is_there = (name in views[0].params and kind in {"", "param"}) or (name in views[0].summaries and kind != "param")
    return None if is_there else unknown_name(index, [key], SORT_KEYS)


def usually_descends(sort: str) -> bool:
    """Whether a key to sort by comes greatest first unless told otherwise, as newest and best do."""
    return filters.usually_descends(sort, is_greater_better)


def is_best_superseded(index: Index, view: RunView, name: str) -> bool:
    """Whether the best value is one that a later session trained again, so that no curve shows it."""
    summary = view.summaries.get(name)
    found = best(name, summary) if summary is not None else None
    if found is None or len(view.run.sessions) < 2:
        return False
    return found[0] not in curve(index, view, name, begin=found[1], end=found[1]).ys


def curve(
    index: Index,
    view: RunView,
    metric: str,
    axis: Axis = Axis.STEP,
    *,
    max_points: int | None = None,
    begin: float | None = None,
    end: float | None = None,
) -> Curve:
    """One metric of a run over its steps, or its time; empty when there is none of that name.

    max_points: reduce to about so many, keeping the least and the greatest of every stretch, so that no spike is
    lost. begin, end: only the points whose x lies between.
    """
    spans = curves.Range(begin, end)
    return curves.read(index, view.run, metric, axis, max_points, spans)


def sparkline_values(index: Index, view: RunView, metric: str, width: int) -> list[float]:
    """The finite values of a metric at about `width` places, evenly over the points it has."""
    return curves.sample(index, view.run.spec.id, metric, width)


def points(index: Index, view: RunView, metric: str | None = None) -> Iterator[Point]:
    """Every point that was stored, in the order it was written; of all metrics, one after the other, unless told."""
    for name in view.summaries if metric is None else [metric]:
        yield from curves.points(index, view.run, name)


def notes(index: Index, view: RunView, limit: int) -> list[tuple[str, str]]:
    """The last notes that a run's trainer left, oldest first: (kind, the line as it was written)."""
    rows = index.rows(
        "SELECT kind, text FROM notes WHERE run_id = ? ORDER BY session DESC, source DESC, offset DESC LIMIT ?",
        (view.run.spec.id, limit),
    )
    return [(kind, text) for kind, text in reversed(rows)]


def at_step(index: Index, view: RunView, metric: str, step: int) -> tuple[int, float] | None:
    """The last point of a metric at this step or before it; None when there is none."""
    summary = view.summaries.get(metric)
    if summary is None:
        return None
    near, reach = min(step, summary.last_step), 0
    while True:  # a curve of ten million points is not read for one of them
        begin = near - reach if reach <= near else None
        found = curve(index, view, metric, begin=begin, end=step)
        if len(found.xs):
            last = max(range(len(found.xs)), key=lambda place: (found.xs[place], place))
            return int(found.xs[last]), found.ys[last]
        if begin is None:
            return None
        reach = reach * _WIDER + 1


def gpu_counts(view: RunView) -> dict[int, int | None]:
    """Session -> how many GPUs it was given; None, or not there: nobody knows. Reads the run's journal."""
    try:
        entries, _ = journal.read(RunDir(Path(view.run_dir)).journal_path)
    except OSError:  # removed meanwhile, or not ours to read: then it is not known
        return {}
    return fold.gpu_counts(entries)
