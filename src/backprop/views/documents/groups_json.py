"""Groups of runs for programs: the contract of `list --groups --json`."""

from typing import Any

from backprop.store.output.protocol import json_safe
from backprop.views.run_groups import RunGroup


def group_document(group: RunGroup) -> dict[str, Any]:
    """How many runs of each status, the best of them, and what its parameters come to over several seeds."""
    over = group.over_seeds
    document = {
        "group": group.name,
        "runs": sum(group.statuses.values()),
        "statuses": {status.value: count for status, count in group.statuses.items()},
        "metric": group.metric,
        "best": None if group.best is None else group.best.best,
        "best_run": None if group.best is None else group.best.view.run.spec.id,
        "over_seeds": None if over is None else {"mean": over.mean, "sd": over.deviation, "runs": over.runs},
    }
    return {key: json_safe(value) for key, value in document.items()}
