"""A comparison for programs: as JSON (the contract of `compare --json`), or as CSV with one row per run."""

from collections.abc import Iterator
from typing import Any

from backprop.records import RunView
from backprop.store import metric_names
from backprop.store.output.protocol import json_safe
from backprop.store.usage import figures
from backprop.trainer.parameters.secrets import without_secrets
from backprop.views.documents.csv_text import Cell
from backprop.views.documents.run_json import git_document, usage_document
from backprop.views.terminal import params, usage_text
from backprop.views.terminal.comparison_table import ComparedRun, Comparison, best_places


def comparison_document(comparison: Comparison) -> dict[str, Any]:
    """All runs with their facts, the parameters that differ, and the best run for each metric."""
    views = [side.view for side in comparison.sides]
    document = {
        "runs": [_run_document(side, comparison) for side in comparison.sides],
        "differing_params": sorted(params.differing(views)),
        "best_runs": {
            name: {
                "last": _ids(views, name, [view.metrics.get(name) for view in views]),
                "best": _ids(views, name, [_best(view, name)[0] for view in views]),
            }
            for name in comparison.metrics
        },
    }
    return {key: json_safe(value) for key, value in document.items()}


def _run_document(side: ComparedRun, comparison: Comparison) -> dict[str, Any]:
    run, spec = side.view.run, side.view.run.spec
    return {
        "id": spec.id,
        "name": spec.name,
        "status": run.status,
        "reason": run.reason,
        "created_at": spec.created_at,
        "elapsed_s": side.elapsed_s,
        "sessions": run.session_count,
        "gpu_hours": side.gpu_hours,
        "last_step": side.view.last_step,
        "command": without_secrets(spec.command),
        "python": spec.python,
        "host": spec.host,
        "git": git_document(run.code.git),
        "params": side.view.params,
        "usage": usage_document(side.view.usage),
        "metrics": {name: _metric(side, name) for name in comparison.metrics if name in side.view.summaries},
    }


def _metric(side: ComparedRun, name: str) -> dict[str, Any]:
    summary = side.view.summaries[name]
    best, best_step = _best(side.view, name)
    document: dict[str, Any] = {
        "last": summary.last,
        "last_step": summary.last_step,
        "best": best,
        "best_step": best_step,
    }
    if name in side.at:
        point = side.at[name]
        document["at"] = None if point is None else {"step": point[0], "value": point[1]}
    return document


def _best(view: RunView, name: str) -> tuple[float | None, int | None]:
    return metric_names.best(view, name) or (None, None)


def _ids(views: list[RunView], name: str, values: list[float | None]) -> list[str]:
    return [views[place].run.spec.id for place in sorted(best_places(metric_names.common_goal(name, views), values))]


def comparison_rows(comparison: Comparison) -> Iterator[list[Cell]]:
    """A heading, and one row per run: its facts, all parameters, and for each metric its last and best values."""
    names = params.names(side.view for side in comparison.sides)
    heading: list[Cell] = ["id", "name", "status", "created_at", "elapsed_s", "sessions", "gpu_hours", "last_step"]
    heading += ["host", "python", "commit", "dirty", *(f"param.{name}" for name in names)]
    heading += [f"{figures.PREFIX}{name}" for name in usage_text.COMPARED.values()]
    for name in comparison.metrics:
        heading += [name, f"best.{name}", f"best_step.{name}"]
        heading += [] if comparison.at_step is None else [f"{name} at {comparison.at_step}"]
    yield heading
    for side in comparison.sides:
        yield _row(side, comparison, names)


def _row(side: ComparedRun, comparison: Comparison, names: list[str]) -> list[Cell]:
    run, spec = side.view.run, side.view.run.spec
    row: list[Cell] = [spec.id, spec.name, run.status.value, spec.created_at.isoformat(), side.elapsed_s]
    row += [run.session_count, side.gpu_hours, side.view.last_step, spec.host, spec.python]
    git = run.code.git
    row += [None, None] if git is None else [git.commit, str(git.dirty).lower()]
    for name in names:
        value = side.view.params.get(name)
        is_plain = value is None or (isinstance(value, (int, float, str)) and not isinstance(value, bool))
        row.append(value if is_plain else params.text(value))
    row += [figures.value(side.view.usage, name) for name in usage_text.COMPARED.values()]
    for name in comparison.metrics:
        row += [side.view.metrics.get(name), *_best(side.view, name)]
        if comparison.at_step is not None:
            point = side.at.get(name)
            row.append(point and point[1])
    return row
