"""Runs by group: how many there are, the best of each group, and what it comes to over several seeds."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from backprop.records import Goal, RunView, Status
from backprop.store import metric_names
from backprop.views.run_row import RunRow
from backprop.views.terminal import params


class OverSeeds(NamedTuple):
    """The best values of completed runs that differ in their seeds only."""

    mean: float
    deviation: float | None  # of the sample; None for a single run
    runs: int


class RunGroup(NamedTuple):
    """The runs of one group."""

    name: str
    statuses: Mapping[Status, int]
    metric: str | None  # the metric that is compared
    best: RunRow | None  # the run with the best value of it; None: no run has one
    over_seeds: OverSeeds | None  # of the runs that have the parameters of the best; None: none has completed


def groups(views: Sequence[RunView], metric: str | None = None) -> list[RunGroup]:
    """The groups of these runs, in the order in which they come. metric: None: the main one of each group."""
    members: dict[str, list[RunView]] = {}
    for view in views:
        if view.annotations.group is not None:
            members.setdefault(view.annotations.group, []).append(view)
    return [_group(name, ones, metric) for name, ones in members.items()]


def _group(name: str, views: Sequence[RunView], metric: str | None) -> RunGroup:
    mains = Counter(main for view in views if (main := metric_names.main_metric(view.summaries)) is not None)
    shown = metric or next((main for main, _ in mains.most_common(1)), None)
    rows = [row for view in views if (row := RunRow.of(view, shown)).best is not None] if shown is not None else []
    best = _best(rows, shown)
    return RunGroup(
        name=name,
        statuses=Counter(view.run.status for view in views),
        metric=shown,
        best=best,
        over_seeds=None if best is None else _over_seeds([row for row in rows if _is_twin(row.view, best.view)]),
    )


def _best(rows: Sequence[RunRow], metric: str | None) -> RunRow | None:
    goal = None if metric is None else metric_names.common_goal(metric, [row.view for row in rows])
    if not rows or goal is None:
        return None
    sign = -1 if goal is Goal.MAX else 1
    return min(rows, key=lambda row: sign * (row.best or 0.0))


def _is_twin(view: RunView, other: RunView) -> bool:
    """Whether two runs have the same script and the same parameters, but for seeds."""
    is_same_script = view.run.spec.script == other.run.spec.script
    return is_same_script and without_seeds(view) == without_seeds(other)


def without_seeds(view: RunView) -> dict[str, str]:
    """Its parameters but for seeds, as text."""
    return {name: params.text(value) for name, value in view.params.items() if not metric_names.is_seed(name)}


def _over_seeds(rows: Sequence[RunRow]) -> OverSeeds | None:
    bests = {
        seeds_of(row.view): row.best
        for row in reversed(rows)  # of two runs with one seed the first that is listed counts
        if row.best is not None and row.view.run.status is Status.COMPLETED
    }
    values = list(bests.values())
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return OverSeeds(statistics.fmean(values), deviation, len(values))


def seeds_of(view: RunView) -> str:
    """Its seeds, as text: `seed=7`. Empty for a run without any."""
    found = [
        f"{name}={params.text(value)}" for name, value in sorted(view.params.items()) if metric_names.is_seed(name)
    ]
    return " ".join(found)
