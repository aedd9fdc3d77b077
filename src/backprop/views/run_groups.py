"""Runs by group: how many there are, the best of each group, and what it comes to over several seeds."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from backprop.records import Goal, RunView, Status
from backprop.store import metric_names
from backprop.views import replicates
from backprop.views.run_row import RunRow


class RunGroup(NamedTuple):
    """The runs of one group."""

    name: str
    statuses: Mapping[Status, int]
    metric: str | None  # the metric that is compared
    best: RunRow | None  # the run with the best value of it; None: no run has one
    over_seeds: replicates.Spread | None  # of the best run's replicates; None: none has completed


def groups(views: Sequence[RunView], metric: str | None = None) -> list[RunGroup]:
    """The groups of these runs, in the order in which they come. metric: None: the main one of each group."""
    members: dict[str, list[RunView]] = {}
    for view in views:
        if view.annotations.group is not None:
            members.setdefault(view.annotations.group, []).append(view)
    return [_group(name, ones, metric) for name, ones in members.items()]


def _group(name: str, views: Sequence[RunView], metric: str | None) -> RunGroup:
    shown = metric or metric_names.commonest_main_metric(views)
    rows = [row for view in views if (row := RunRow.of(view, shown)).best is not None] if shown is not None else []
    best = _best(rows, shown)
    return RunGroup(
        name=name,
        statuses=Counter(view.run.status for view in views),
        metric=shown,
        best=best,
        over_seeds=None if best is None or shown is None else replicates.spread(replicates.of(best.view, views), shown),
    )


def _best(rows: Sequence[RunRow], metric: str | None) -> RunRow | None:
    goal = None if metric is None else metric_names.common_goal(metric, [row.view for row in rows])
    if not rows or goal is None:
        return None
    sign = -1 if goal is Goal.MAX else 1
    return min(rows, key=lambda row: sign * (row.best or 0.0))
