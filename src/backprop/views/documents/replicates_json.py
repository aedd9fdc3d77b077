"""Sets of runs that differ in their seed only, for programs: of `best --json` and `compare --json`."""

from collections.abc import Sequence
from typing import Any

from backprop.records import Goal, RunView
from backprop.store.output.protocol import json_safe
from backprop.views import replicates
from backprop.views.replicates import Spread


def set_document(
    views: Sequence[RunView], over: Spread, metric: str, goal: Goal, names: Sequence[str]
) -> dict[str, Any]:
    """One set of a ranking. names: of the parameters in which the sets differ."""
    return {
        "metric": metric,
        "goal": goal,
        **spread_document(over),
        "runs": [view.run.spec.id for view in views],
        "params": {name: json_safe(views[0].params.get(name)) for name in names},
    }


def spread_document(over: Spread) -> dict[str, Any]:
    """A mean, its standard deviation (null for one run), and of how many runs."""
    return {"mean": json_safe(over.mean), "sd": json_safe(over.deviation), "n": over.runs}


def sets_document(sets: Sequence[Sequence[RunView]], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The sets among the runs of a comparison, with the spread of each metric."""
    return [
        {
            "runs": [view.run.spec.id for view in views],
            "metrics": {
                name: spread_document(over) for name in metrics if (over := replicates.spread(views, name)) is not None
            },
        }
        for views in sets
    ]
