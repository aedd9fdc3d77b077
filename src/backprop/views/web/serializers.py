"""The documents that the page gets, as values that msgspec encodes as JSON. A non-finite number in a curve is null.

Texts and lists are truncated to what a page can show: a run's name may be a megabyte long.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import msgspec

from backprop.lifecycle.sweep.importance import LEAST_TRIALS, by_ranks, shares
from backprop.records import Life, Record, RunView, Status, Ticket
from backprop.store import curves, filters, metric_names, query
from backprop.store.index import Index
from backprop.store.output.protocol import json_safe
from backprop.store.usage import history as usage_history
from backprop.text import shortened
from backprop.views.bands import Band
from backprop.views.documents.run_json import (
    IsValid,
    elapsed_s,
    machine_document,
    run_document,
    ticket_document,
    timeboxes_s,
)
from backprop.views.plots.curve_panels import unit_in
from backprop.views.run_row import RunRow
from backprop.views.terminal import formatting, usage_text
from backprop.views.web import columns, logs
from backprop.views.web.services import MachineReading, Services

DEFAULT_POINTS = 1500
MAX_POINTS = 20_000

SPARK_POINTS = 40
_MAX_CELL = 300  # characters
_MAX_TEXT = 4_000
_MAX_ITEMS = 100  # of sessions and of checkpoints, the newest
_MAX_KEYS = 1_000  # of parameters and of metrics
_MAX_NOTES = 50
_MAX_DEPTH = 8
_MAX_GROUPS = 1_000


def row(index: Index, view: RunView, now: datetime, keys: Sequence[str] = ()) -> dict[str, Any]:
    """One row of the table of runs. keys: of columns that were chosen."""
    run, spec, last_session = view.run, view.run.spec, view.run.last_session
    shown = RunRow.of(view)
    return {
        "id": spec.id,
        "name": _cell(spec.name),
        "status": run.status,
        "reason": _cell(run.full_reason),
        "created_at": spec.created_at,
        # of all sessions
        "elapsed_s": None if last_session is None else elapsed_s(view, now),
        "timebox_s": timeboxes_s(run),
        # of the last session; `elapsed_s` minus `earlier_s` of it are used
        "earlier_s": sum(session.trained_s(now) for session in run.sessions[:-1]),
        "session_timebox_s": None if last_session is None else last_session.timebox_s,
        "last_step": view.last_step,
        "total_steps": view.total_steps,
        **_live(view),
        "metric": _cell(shown.metric),
        "last": None if shown.last is None else json_safe(shown.last),
        "best": shown.best,
        "spark": [] if shown.metric is None else query.sparkline_values(index, view, shown.metric, SPARK_POINTS),
        "command": shortened(shown.command, _MAX_CELL),
        "is_going_on": not run.status.is_final,
        "can_resume": can_resume(run.status),
        "sessions": run.session_count,
        "cells": columns.cells(view, keys),
    }


def groups(rows: Sequence[query.GroupRow], by: str, metric: str | None, newest: Sequence[RunView]) -> dict[str, Any]:
    """The runs by group or by a parameter's value, the newest group first. `filter` finds the runs of one."""
    goal = None if metric is None else metric_names.common_goal(metric, newest)
    return {
        "by": by,
        "metric": _cell(metric),
        "goal": goal,
        "total": len(rows),
        "groups": [_group(row, by, has_best=goal is not None) for row in rows[:_MAX_GROUPS]],
    }


def _group(row: query.GroupRow, by: str, *, has_best: bool) -> dict[str, Any]:
    is_whole = isinstance(row.value, float) and row.value.is_integer()
    value = str(int(row.value) if is_whole else row.value)
    best = {"id": row.best_id, "name": _cell(row.best_name), "value": row.best}
    return {
        "value": _cell(value),
        "filter": f"{by}={filters.quoted(value)}",
        "runs": sum(row.statuses.values()),
        "statuses": row.statuses,
        "best": best if has_best and row.best is not None else None,
        "mean": row.mean if has_best else None,
        "deviation": row.deviation if has_best else None,
        "counted": row.counted if has_best else 0,
        "created_at": datetime.fromtimestamp(row.newest, timezone.utc),
    }


def _live(view: RunView) -> dict[str, Any]:
    """How an active run does, in the words of the other views. Without durations: time alone is no news."""
    words = formatting.life_words(view.live)
    return {
        "is_stalled": view.live is not None and view.live.life is Life.STALLED,
        "life_text": words or None,
        "pace": ", ".join(formatting.pace(view.live, view.step_unit)) or None,
    }


def can_resume(status: Status) -> bool:
    """Whether another session can be started, or a paused one continued."""
    return status.is_final or status is Status.PAUSED


def details(index: Index, view: RunView, now: datetime, is_valid: IsValid) -> dict[str, Any]:
    """A run's details: its `--json` document, and what only the page shows."""
    run = view.run
    document = run_document(msgspec.structs.replace(view, checkpoints=view.checkpoints[-_MAX_ITEMS:]), now, is_valid)
    metrics = [name for name in view.summaries if not metric_names.is_progress(name)]
    return {
        **_bounded(document),
        "command_text": shortened(shlex.join(document["command"]), _MAX_TEXT),
        "units": _cell(formatting.units(view.step_unit)),
        **_live(view),
        "metric": _cell(metric_names.main_metric(view.summaries)),
        "summaries": {shortened(name, _MAX_CELL): _summary(name, view) for name in metrics[:_MAX_KEYS]},
        "used": [] if view.usage is None else list(usage_text.lines(view.usage)),
        "measured": usage_history.names(view),  # curves of what it used
        "trainer_notes": [
            {"kind": shortened(kind, _MAX_CELL), "text": shortened(text, _MAX_TEXT)}
            for kind, text in query.notes(index, view, _MAX_NOTES)
        ],
        "has_patch": logs.has_patch(view),
        "waits_for": shortened(run.reason or "", _MAX_TEXT) or None if run.status is Status.QUEUED else None,
        "is_going_on": not run.status.is_final,
        "can_resume": can_resume(run.status),
        "checkpoint_count": len(view.checkpoints),
    }


def without_clocks(document: Mapping[str, Any]) -> dict[str, Any]:
    """A run's details without elapsed times and what it used: it differs only when the run has changed."""
    sessions = [{**session, "elapsed_s": None} for session in document["sessions"]]
    clocks = dict.fromkeys(("elapsed_s", "life", "silent_s", "stalled_s", "last_step_at", "usage", "used"))
    return {**document, **clocks, "sessions": sessions}


def _summary(name: str, view: RunView) -> dict[str, Any]:
    summary = view.summaries[name]
    best = metric_names.best(view, name)
    return {
        "count": summary.count,
        "last": json_safe(summary.last),
        "last_step": summary.last_step,
        "best": None if best is None else best[0],
        "best_step": None if best is None else best[1],
    }


def curve(points: curves.Curve, view: RunView, mark: str | None) -> dict[str, Any]:
    """Points for a chart. A non-finite point is a gap in the line; its x is in `missing`.

    mark: the client sends it back to receive later points.
    """
    return {
        "run": points.run_id,
        "metric": points.metric,
        "x": points.xs.tolist(),
        "y": points.ys.tolist(),
        "missing": [x for x, y in zip(points.xs, points.ys, strict=True) if not math.isfinite(y)],
        "count": points.point_count,
        "reduced": points.is_reduced,
        "over": points.axis,  # what was measured has no steps, whatever was asked for
        "unit": unit_in([view], points.metric),  # None: a metric of the script
        "mark": mark,
    }


def importance(rows: Sequence[tuple[Any, ...]], keys: Sequence[str], of: str) -> dict[str, float] | None:
    """How much each column of a parameter matters for another, by ranks; None where too few runs have all of them."""
    names = [key for key in keys if filters.kind_and_name(key)[0] == "param"]
    if of not in keys or len(names) < 2:
        return None
    places = [keys.index(name) + 2 for name in names]
    goal = keys.index(of) + 2
    whole = [
        row for row in rows if isinstance(row[goal], (int, float)) and all(row[place] is not None for place in places)
    ]
    found = [row[goal] for row in whole]
    if len(whole) < LEAST_TRIALS or len(set(found)) == 1:
        return None
    return shares(
        by_ranks({name: [row[place] for row in whole] for name, place in zip(names, places, strict=True)}, found)
    )


def values(rows: Sequence[tuple[Any, ...]], columns_: int, total: int) -> dict[str, Any]:
    """Ids and names of runs, and a list for each column. total: of all runs that match."""
    return {
        "ids": [row[0] for row in rows],
        "names": [_cell(row[1]) for row in rows],
        "values": [
            [_cell(row[place]) if isinstance(row[place], str) else row[place] for row in rows]
            for place in range(2, 2 + columns_)
        ],
        "total": total,
    }


def band_document(found: Band, views: Sequence[RunView]) -> dict[str, Any]:
    """Mean and spread of some runs' curves, and what metrics they have."""
    names = sorted({name for view in views for name in view.summaries if not metric_names.is_progress(name)})
    return {
        "runs_of": len(views),
        "metrics": [shortened(name, _MAX_CELL) for name in names[:_MAX_KEYS]],
        "metric": _cell(metric_names.commonest_main_metric(views)),
        **msgspec.structs.asdict(found),
    }


def machine(reading: MachineReading, services: Services) -> dict[str, Any]:
    """The machine against the limits for a start, its slots and its queue."""
    limits = reading.limits
    return {
        "machine": machine_document(reading.machine),
        "limits": {
            "max_parallel": limits.max_parallel,
            "min_free_ram_bytes": limits.min_free_ram_bytes,
            "min_free_disk_bytes": limits.min_free_disk_bytes,
            "gpu_min_free_vram_bytes": limits.gpu_min_free_vram_bytes,
            "gpu_max_temp_c": limits.gpu_max_temp_c,
        },
        "slots": {"limit": limits.max_parallel, "taken": _tickets(reading.occupancy.taken)},
        "queue": _tickets(reading.occupancy.queue),
        "host": services.host,
        "user": services.user,
        "version": services.version,
    }


def _tickets(tickets: Sequence[Ticket]) -> list[dict[str, Any]]:
    return [ticket_document(ticket) for ticket in tickets]


def _cell(text: str | None) -> str | None:
    return None if text is None else shortened(text, _MAX_CELL)


def _bounded(value: Any, depth: int = 0) -> Any:
    """The value, truncated where it is too long or too deep to be shown."""
    if isinstance(value, str):
        return value if type(value) is not str else shortened(value, _MAX_TEXT)
    if isinstance(value, Mapping):
        if depth > _MAX_DEPTH:
            return "…"
        return {
            shortened(str(key), _MAX_CELL): _bounded(item, depth + 1) for key, item in list(value.items())[:_MAX_KEYS]
        }
    if isinstance(value, (list, tuple)):
        return ["…"] if depth > _MAX_DEPTH else [_bounded(item, depth + 1) for item in value[:_MAX_KEYS]]
    return value


class Mark(Record, frozen=True, array_like=True):
    """How much of a curve a client has."""

    count: int  # points that were stored, including those that a later session replaced
    end: float | None  # x of the last point; None when there is none

    def text(self) -> str:
        """As a client sends it back: see `mark_in`."""
        return msgspec.json.encode(self).decode()


def mark_in(text: str) -> Mark | None:
    """The mark that a client sent back; None when it is invalid."""
    try:
        return msgspec.json.decode(text, type=Mark)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class CurveSubscription(msgspec.Struct):
    """A curve on a page, and how much of it the page has."""

    run: str
    metric: str
    axis: curves.Axis = curves.Axis.STEP
    mark: str | None = None


def curve_document(
    index: Index,
    view: RunView,
    metric: str,
    axis: curves.Axis,
    max_points: int,
    begin: float | None = None,
    end: float | None = None,
) -> dict[str, Any]:
    """A curve in about `max_points` points, with its mark; or a part of one, without a mark: it does not grow."""
    points = query.curve(index, view, metric, axis, max_points=max_points, begin=begin, end=end)
    is_whole = begin is None and end is None
    return curve(points, view, _mark(view, metric, points) if is_whole else None)


def curve_update(index: Index, view: RunView, watch: CurveSubscription) -> dict[str, Any] | None:
    """What was added to a curve since its mark, which is advanced; None when nothing was.

    `begin` in it: the x from which on these points replace the old ones; None: they replace all.
    """
    count = _count(view, watch.metric)
    mark = None if watch.mark is None else mark_in(watch.mark)
    if count is None or (mark is not None and mark.count == count):
        return None
    begin = None
    if mark is not None and mark.count < count:
        begin = mark.end
    points = query.curve(index, view, watch.metric, watch.axis, max_points=DEFAULT_POINTS, begin=begin)
    if begin is not None and mark is not None and points.point_count <= count - mark.count:
        begin = None  # steps went back, or a session repeats some: not all new points are at the end
        points = query.curve(index, view, watch.metric, watch.axis, max_points=DEFAULT_POINTS)
    watch.mark = _mark(view, watch.metric, points)
    return {**curve(points, view, watch.mark), "count": count, "axis": watch.axis, "begin": begin}


def _mark(view: RunView, metric: str, points: curves.Curve) -> str:
    return Mark(count=_count(view, metric) or 0, end=points.xs[-1] if points.xs else None).text()


def _count(view: RunView, metric: str) -> int | None:
    """How many points a curve has; None where there is no such curve."""
    if usage_history.has(view, metric) and view.usage is not None:
        return view.usage.counts[metric]
    summary = view.summaries.get(metric)
    return None if summary is None else summary.count
