"""A sweep for programs: the contract of `sweep status --json` and `sweep best --json`."""

import math
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, TypeVar

from backprop.lifecycle.sweep.importance import importances
from backprop.lifecycle.sweep.observation import Seen
from backprop.lifecycle.sweep.rule import Budget
from backprop.lifecycle.sweep.standing import Standing, TrialState
from backprop.records import Status
from backprop.store.output.protocol import json_safe

SHOWN = 5  # of the best trials
_MOST_NAMED = 5  # parameters


def sweep_document(seen: Seen) -> dict[str, Any]:
    """What a sweep stands at, in at most 1.5 kB as long as names and parameters are short."""
    standing, budget = seen.standing, seen.budget
    finished = standing.finished
    document = {
        "id": standing.spec.id,
        "name": standing.spec.name,
        "state": seen.state,
        "goal": standing.spec.goal_text,
        "reason": None if finished is None else finished.reason,
        "exit_code": None if finished is None else finished.exit_code,
        "trials": len(standing.searched),
        "active": len(standing.active),
        "failed": sum(trial.status is Status.FAILED for trial in standing.trials),
        "rungs": {str(row["rung"]): row["done"] for row in rungs(standing)},
        "repeats": len(standing.trials) - len(standing.searched),
        "best": None if standing.best is None else best_document(standing, standing.best),
        "importance": _first(importances(standing)),
        "spread": _first(spread(standing)),
        "start_share": None if standing.start is None else round(min(1.0, standing.start[0] / standing.start[1]), 3),
        "budget_s": round(budget.total_s, 3),
        "spent_s": round(budget.spent_s, 3),
        "committed_s": round(budget.committed_s, 3),
        "eta_s": round(eta_s(standing, budget), 1) if finished is None else None,
        "last": standing.last_event or None,
        "script_changed": len(standing.scripts) > 1,
    }
    return {key: json_safe(value) for key, value in document.items()}


def best_document(standing: Standing, trial: TrialState) -> dict[str, Any]:
    """The best trial, with its repeats where there are any."""
    repeated = next((one for one in standing.repeated if one.trial == trial.number), None)
    return {
        "trial": trial.number,
        "run": trial.run_id,
        "params": trial.params,
        "value": json_safe(trial.value),
        "rung": max(0, len(trial.values) - 1),
        "mean": None if repeated is None else repeated.mean,
        "sd": None if repeated is None else repeated.sd,
        "n": None if repeated is None else len(repeated.finite),
        "ties": standing.ties,
    }


Value = TypeVar("Value")


def _first(values: dict[str, Value] | None) -> dict[str, Value] | None:
    """Of a few parameters, so that the document stays short."""
    return None if values is None else dict(list(values.items())[:_MOST_NAMED])


def best_first(standing: Standing) -> list[TrialState]:
    """The trials that have a value: by their repeats, then by their own."""
    repeated = [standing.trials[one.trial] for one in standing.repeated]
    return [*repeated, *(trial for trial in standing.ranked if trial not in repeated)]


def among_the_best(standing: Standing) -> list[TrialState]:
    """As many of the best trials as say something of where the best parameters lie."""
    share = math.ceil(len(standing.searched) / standing.spec.eta)
    return best_first(standing)[: min(SHOWN, max(2, share))]


def spread(standing: Standing) -> dict[str, list[str]] | None:
    """The values of each parameter among the best trials: the least and the greatest number, or all words."""
    among = among_the_best(standing)
    if len(among) < 2:
        return None
    return {one.name: _spread([trial.params[one.name] for trial in among]) for one in standing.spec.parameters}


def _spread(texts: Sequence[str]) -> list[str]:
    try:
        ordered = sorted(set(texts), key=float)
    except ValueError:
        return sorted(set(texts))
    return ordered if len(ordered) == 1 else [ordered[0], ordered[-1]]


def rungs(standing: Standing) -> list[dict[str, int]]:
    """How many trials of the search finished each rung, and are active in it."""
    rows = []
    for rung in range(standing.spec.max_rungs):
        done = sum(len(trial.values) > rung for trial in standing.searched)
        active = sum(trial.is_active and trial.last.rung == rung for trial in standing.searched)
        rows.append({"rung": rung, "done": done, "active": active})
    return [row for row in rows if row["done"] or row["active"]]


def eta_s(standing: Standing, budget: Budget) -> float:
    """Until the budget is used up, while nothing waits in the queue; not beyond --until."""
    spec = standing.spec
    left_s = (budget.total_s - budget.spent_s) / spec.parallel
    if spec.until is not None:
        left_s = min(left_s, (spec.until - datetime.now(timezone.utc)).total_seconds())
    return max(0.0, left_s)
