"""Columns of the table of runs that a person chooses: parameters, metrics, and figures of what a run used.

A column is a sort key: param.lr, metric.loss (its last value), best.loss, sys.peak_ram.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from backprop.records import RunView
from backprop.store import filters, metric_names
from backprop.store.output.protocol import json_safe
from backprop.store.usage import figures
from backprop.text import shortened
from backprop.views.terminal import params, usage_text

_MAX_CELL = 120  # characters
_MAX_USUAL = 4
_MAX_OFFERED = 300


def mistake(key: str) -> str | None:
    """What is wrong with a column; None: nothing."""
    if filters.kind_and_name(key)[0] or figures.name_of(key) is not None:
        return None
    wrong = filters.unknown_figure(key)
    return wrong or f"a column is param.NAME, metric.NAME, best.NAME or sys.NAME, not {key[:80]!r}."


def usual(differing: Sequence[str]) -> list[str]:
    """The columns of a table for which nobody has chosen any: the first parameters in which its runs differ."""
    return [f"param.{name}" for name in differing[:_MAX_USUAL]]


def offered(views: Sequence[RunView], differing: Sequence[str]) -> list[str]:
    """What can be chosen for these runs: parameters, those that differ first, then metrics, then what they used."""
    names = dict.fromkeys([*differing, *params.names(views)])
    metrics = sorted({name for view in views for name in view.summaries if not metric_names.is_progress(name)})
    used = [name for name in figures.NAMES if any(figures.value(view.usage, name) is not None for view in views)]
    with_goal = {name for name in metrics if metric_names.common_goal(name, views) is not None}
    columns = [
        *(f"param.{name}" for name in names),
        *(f"best.{name}" for name in metrics if name in with_goal),
        *(f"metric.{name}" for name in metrics),
        *(f"{figures.PREFIX}{name}" for name in used),
    ]
    return columns[:_MAX_OFFERED]


def heads(keys: Iterable[str], views: Sequence[RunView]) -> list[dict[str, Any]]:
    """Key, title and, of a metric, the goal of each column."""
    return [_head(key, views) for key in keys]


def _head(key: str, views: Sequence[RunView]) -> dict[str, Any]:
    kind, name = filters.kind_and_name(key)
    is_metric = kind in {"metric", "best"}
    title = f"best {name}" if kind == "best" else name.removeprefix(figures.PREFIX)
    goal = metric_names.common_goal(name, views) if is_metric else None
    return {"key": key, "title": shortened(title, _MAX_CELL), "kind": kind or "sys", "goal": goal}


def cells(view: RunView, keys: Iterable[str]) -> list[Any]:
    """The values of a run: a number, a text, or None where it has none."""
    return [_cell(view, key) for key in keys]


def _cell(view: RunView, key: str) -> Any:
    if (figure := figures.name_of(key)) is not None:
        return None if figures.value(view.usage, figure) is None else usage_text.figure(view.usage, figure)
    kind, name = filters.kind_and_name(key)
    if kind == "best":
        found = metric_names.best(view, name)
        return None if found is None else found[0]
    if kind == "metric":
        return json_safe(view.metrics.get(name))
    value = view.params.get(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return json_safe(value) if value is None or is_number else shortened(params.text(value), _MAX_CELL)
