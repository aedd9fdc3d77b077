"""Queries of the index: runs, their order, and their curves.

All views and exports query here; none of them contains SQL. See store/curves.py for how curves are stored and
downsampled, and store/filters.py for how a filter becomes SQL.
"""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from backprop.records import Goal, Record, RunView
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
from backprop.store.metric_names import best, goal
from backprop.store.rundir import RunDir
from backprop.store.usage import figures
from backprop.store.usage import history as usage_history

_WIDER = 16


def runs(index: Index, wanted: Wanted = Wanted()) -> list[RunView]:  # noqa: B008  it cannot change
    """The matching runs, sorted."""
    found = (view for run_id in ids(index, wanted) if (view := index.get(run_id)) is not None)
    return with_goals(found, wanted.goals)


def ids(index: Index, wanted: Wanted) -> list[str]:
    """The ids of the matching runs, sorted."""
    return [row[0] for row in index.rows(*filters.ids_statement(wanted, _is_greater_better(index, wanted.goals)))]


def count(index: Index, wanted: Wanted = Wanted()) -> int:  # noqa: B008
    """The number of matching runs, ignoring the limit."""
    return int(index.rows(*filters.count_statement(wanted, _is_greater_better(index, wanted.goals)))[0][0])


class GroupRow(Record, frozen=True):
    """The runs of a group, or those with the same value of a parameter."""

    value: str | float  # the group's name, or the value
    statuses: Mapping[str, int]
    newest: float  # when its newest run was made, in seconds since 1970
    newest_ids: Mapping[str, str]  # of each status the newest run, the newest of all first
    best: float | None  # of the metric; None: no run has a value
    best_id: str | None
    best_name: str | None
    counted: int  # runs with a value
    mean: float | None  # of the best values
    deviation: float | None  # of the sample; None for fewer than two


def groups(index: Index, wanted: Wanted, by: str, metric: str) -> list[GroupRow]:
    """The matching runs by `group` or `param.NAME`, with what their best values of a metric come to; newest first."""
    ask = _is_greater_better(index, wanted.goals)
    counted: dict[str | float, list[tuple[float, str, int, str]]] = {}
    for value, status, count_, made_at, run_id in index.rows(*filters.groups_statement(wanted, by, ask)):
        counted.setdefault(value, []).append((made_at, status, count_, run_id))
    bests = {row[0]: row[1:] for row in index.rows(*filters.bests_statement(wanted, by, metric, ask))}
    rows = [
        _group_row(value, sorted(counts, reverse=True), bests.get(value, (None, None, None, 0, 0.0, 0.0)))
        for value, counts in counted.items()
    ]
    return sorted(rows, key=lambda row: row.newest, reverse=True)


def _group_row(value: str | float, counts: Sequence[tuple[float, str, int, str]], bests: tuple[Any, ...]) -> GroupRow:
    """counts: when the newest run was made, the status, how many runs, the newest one's id; the newest first."""
    best, run_id, name, counted, total, squares = bests
    variance = max(0.0, squares - total * total / counted) / (counted - 1) if counted > 1 else None
    return GroupRow(
        value=value,
        statuses={status: count_ for _, status, count_, _ in counts},
        newest=counts[0][0],
        newest_ids={status: newest_id for _, status, _, newest_id in counts},
        best=best,
        best_id=run_id if best is not None else None,
        best_name=name if best is not None else None,
        counted=counted,
        mean=total / counted if counted else None,
        deviation=None if variance is None else math.sqrt(variance),
    )


def values(index: Index, wanted: Wanted, keys: Sequence[str]) -> list[tuple[Any, ...]]:
    """(id, name, the value of each sort key, None where there is none) of the matching runs, the newest first."""
    return list(index.rows(*filters.values_statement(wanted, keys, _is_greater_better(index, wanted.goals))))


def with_goals(views: Iterable[RunView], goals: Mapping[str, Goal]) -> list[RunView]:
    """The runs with these goals of metrics in the place of their own."""
    return [msgspec.structs.replace(view, goals={**view.goals, **goals}) if goals else view for view in views]


def _is_greater_better(index: Index, goals: Mapping[str, Goal]) -> Callable[[str], bool]:
    """Whether greater is better, by the name of a metric: by these goals, by what the newest run was given, by name."""

    def ask(name: str) -> bool:
        if name in goals:
            return goals[name] is Goal.MAX
        newest = index.rows(
            "SELECT goal FROM goals JOIN runs ON id = run_id WHERE goals.name = ? ORDER BY created_at DESC LIMIT 1",
            (filters.storable(name),),
        )
        return goal(name, *(Goal(row[0]) for row in newest)) is Goal.MAX

    return ask


def unknown_name(index: Index, names: Iterable[str], keys: Collection[str] = filters.KEYS) -> str | None:
    """The message for the first of these names, as filters take them, that no run has; None if there is none.

    keys: names with a meaning of their own. Reads the names of all runs, so call it only if nothing was found.
    """
    for word in names:
        if word in keys or figures.name_of(word) is not None:
            continue
        kind, name = filters.kind_and_name(word)
        known = [row[0] for row in index.rows(*filters.names(kind))]
        if name not in known and not (is_its_loss(word) and any("loss" in other.lower() for other in known)):
            what = {"param": "parameter", "metric": "metric", "best": "metric"}.get(kind, "parameter or metric")
            key, _, rest = word.partition(".")  # in --json they are called params and metrics
            is_plural = key in {"params", "metrics"} and rest in known
            near = f"{key[:-1]}.{rest}" if is_plural else near_name(name, known if kind else [*keys, *known])
            return f"no run has a {what} {name!r}" + (f"; did you mean {near}?" if near else ".")
    return None


def unknown_sort_key(index: Index, views: Sequence[RunView], key: str) -> str | None:
    """The message for a sort key that no run has; None if some run has it, or there are no runs.

    views: sorted by it, so that runs that have it come first.
    """
    if (mistake := filters.unknown_figure(key)) is not None:
        return mistake
    if not views or is_its_loss(key) or figures.name_of(key) is not None:  # a loss is what most runs will have soon
        return None
    kind, name = filters.kind_and_name(key)
    is_there = (name in views[0].params and kind in {"", "param"}) or (name in views[0].summaries and kind != "param")
    return None if is_there else unknown_name(index, [key], SORT_KEYS)


def is_best_superseded(index: Index, view: RunView, name: str) -> bool:
    """Whether a later session trained the step of the best value again, so that no curve shows it."""
    found = best(view, name)
    if found is None or view.run.session_count < 2:
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
    """One metric of a run over steps or time; empty if the run has no such metric. What it used is always over time.

    max_points: downsample to about this many, keeping the minimum and maximum of every stretch. begin, end: inclusive
    bounds of x.
    """
    spans = curves.Range(begin, end)
    if usage_history.has(view, metric):
        return usage_history.curve(view, metric, max_points, spans)
    return curves.read(index, view.run, metric, axis, max_points, spans)


def sparkline_values(index: Index, view: RunView, metric: str, width: int) -> list[float]:
    """About `width` finite values of a metric, evenly spaced over its points."""
    if usage_history.has(view, metric):
        return usage_history.curve(view, metric, width, curves.Range()).ys.tolist()
    return curves.sample(index, view.run.spec.id, metric, width)


def points(index: Index, view: RunView, metric: str | None = None) -> Iterator[Point]:
    """Every stored point in the order it was written. metric: None for all metrics, one after the other."""
    for name in view.summaries if metric is None else [metric]:
        yield from (
            usage_history.points(view, name) if usage_history.has(view, name) else curves.points(index, view.run, name)
        )


def notes(index: Index, view: RunView, limit: int) -> list[tuple[str, str]]:
    """The last notes of a run's trainer, oldest first: (kind, the line as it was written)."""
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
    while True:  # do not read ten million points for one of them
        begin = near - reach if reach <= near else None
        found = curve(index, view, metric, begin=begin, end=step)
        if len(found.xs):
            last = max(range(len(found.xs)), key=lambda place: (found.xs[place], place))
            return int(found.xs[last]), found.ys[last]
        if begin is None:
            return None
        reach = reach * _WIDER + 1


def gpu_counts(view: RunView) -> dict[int, int | None]:
    """Session -> the number of GPUs assigned to it; None or missing: unknown. Reads the run's journal."""
    try:
        entries, _ = journal.read(RunDir(Path(view.run_dir)).journal_path)
    except OSError:  # removed in the meantime, or not readable
        return {}
    return fold.gpu_counts(entries)
