"""Runs as a table for a terminal, or for a pipe: then nothing is cut, coloured or drawn.

What a script named itself (metrics, parameters) stands in the heading as it wrote it; our own words in capitals.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from backprop.records import MetricSummary, RunView, Status, in_minutes
from backprop.store import metric_names
from backprop.text import shortened
from backprop.views.documents.run_json import elapsed_s, session_elapsed_s, timeboxes_s
from backprop.views.terminal import formatting, params
from backprop.views.terminal.bars import LINES, PLAIN_LINES, bar
from backprop.views.terminal.screen import CYAN, DIM, RED, Screen, stdout_screen
from backprop.views.terminal.sparkline import sparkline
from backprop.views.terminal.status_style import STYLES, SYMBOLS
from backprop.views.terminal.table_layout import Cell, Column, grid

# of a run and a metric, about so many values: see query.sparkline_values
Values = Callable[[RunView, str, int], Sequence[float]]

_SPARKLINE_WIDTHS = ((160, 20), (120, 12), (0, 8))  # in terminals at least so wide
_BAR_WIDTH = 6
_PARAM_COLUMNS = 4  # as many as are likely to be looked at
_PARAM_WIDTH = 8
_TITLE_WIDTH = 14
_NONE = Cell("-")


class _Row(NamedTuple):
    """A run, and the metric that is shown of it."""

    view: RunView
    metric: str | None

    @property
    def summary(self) -> MetricSummary | None:
        return None if self.metric is None else self.view.summaries.get(self.metric)


def runs_table(
    views: Sequence[RunView],
    now: datetime,
    *,
    metric: str | None = None,
    values: Values | None = None,
    screen: Screen | None = None,
) -> str:
    """One line a run, in the order given.

    metric: the one that is shown; else each run's main one. values: what sparklines are drawn from.
    """
    screen = screen or stdout_screen()
    rows = [_Row(view, metric or metric_names.main_metric(view.summaries)) for view in views]
    columns = list(_columns(rows, now, values, screen))
    if screen.is_terminal:  # a column that says nothing of any of these runs
        columns = [column for column in columns if any(cell.text.strip(" -") for cell in column.cells)]
    return grid(columns, screen).text


def _columns(rows: Sequence[_Row], now: datetime, values: Values | None, screen: Screen) -> Iterator[Column]:
    yield Column("RUN", [Cell(row.view.run.spec.id) for row in rows], rank=0)
    yield Column("NAME", [_text(row.view.run.spec.name) for row in rows], rank=2, min_width=8)
    yield Column("STATUS", [_status(row.view, screen) for row in rows], rank=0)
    yield Column("AGE", [Cell(formatting.age(row.view.run.spec.created_at, now)) for row in rows], 6, "right")
    if screen.is_terminal:
        yield Column("", [_bar(row.view, now, screen) for row in rows], rank=9)
    yield Column("TIME", [_time(row.view, now) for row in rows], 4, "right")
    yield Column("STEP", [_step(row.view) for row in rows], 3, "right")
    yield Column(_title(rows), [_last(row.summary) for row in rows], 1, "right")
    yield Column("BEST", [_best(row) for row in rows], 8, "right")
    if screen.is_terminal and values is not None:
        yield Column("", _sparklines(rows, values, screen), rank=5)
    if screen.is_terminal:
        yield from _param_columns([row.view for row in rows])
    is_awaited = any(row.view.run.status is Status.QUEUED for row in rows)  # then it is what one wants to know
    whys = [_text(row.view.run.full_reason, DIM) for row in rows]
    yield Column("WHY", whys, rank=2 if is_awaited else 10, min_width=16)
    yield Column("SCRIPT", [Cell(short_command(row.view)) for row in rows], rank=7, min_width=12)


def _text(told: str | None, style: str = "") -> Cell:
    return Cell(told, style) if told else _NONE


def _status(view: RunView, screen: Screen) -> Cell:
    status = view.run.status
    symbol = f"{SYMBOLS[status]} " if screen.is_terminal and screen.has_blocks else ""
    return Cell(symbol + status.value, STYLES[status])


def _time(view: RunView, now: datetime) -> Cell:
    """The time of all sessions, of all their timeboxes."""
    limit_s = timeboxes_s(view.run)
    return Cell(formatting.used(elapsed_s(view, now), limit_s) if view.run.sessions else f"-/{in_minutes(limit_s)}")


def _bar(view: RunView, now: datetime, screen: Screen) -> Cell:
    """How much of its timebox a run that is going on has used."""
    last = view.run.last_session
    if last is None or last.status.is_final:
        return Cell("")
    characters = LINES if screen.has_blocks else PLAIN_LINES
    return Cell("".join(bar(session_elapsed_s(last, now) / last.timebox_s, _BAR_WIDTH, characters)), CYAN)


def _step(view: RunView) -> Cell:
    return _NONE if view.last_step is None else Cell(formatting.steps(view.last_step, view.total_steps))


def _title(rows: Sequence[_Row]) -> str:
    """The metric's name if it is the same in all runs."""
    found = {row.metric for row in rows if row.metric is not None}
    name = found.pop() if len(found) == 1 else "LOSS"
    return shortened(name, _TITLE_WIDTH)


def _last(summary: MetricSummary | None) -> Cell:
    if summary is None:
        return _NONE
    return Cell(formatting.number(summary.last), "" if math.isfinite(summary.last) else RED)


def _best(row: _Row) -> Cell:
    found = metric_names.best(row.metric, row.summary) if row.metric is not None and row.summary is not None else None
    return _NONE if found is None else Cell(formatting.number(found[0]))


def _sparklines(rows: Sequence[_Row], values: Values, screen: Screen) -> list[Cell]:
    width = next(width for least, width in _SPARKLINE_WIDTHS if screen.width >= least)
    return [
        Cell(
            ""
            if row.metric is None or row.summary is None
            else sparkline(values(row.view, row.metric, width), has_blocks=screen.has_blocks),
            CYAN,
        )
        for row in rows
    ]


def _param_columns(views: Sequence[RunView]) -> Iterator[Column]:
    """Parameters that tell these runs apart, as far as there is room."""
    for place, name in enumerate(params.differing(views)[:_PARAM_COLUMNS]):
        cells = [Cell(params.text(view.params.get(name, params.ABSENT))) for view in views]
        is_text = any(isinstance(view.params.get(name), str) for view in views)
        yield Column(name, cells, 11 + place, "left" if is_text else "right", _PARAM_WIDTH)


def short_command(view: RunView) -> str:
    """What was run, without the interpreter and without the script's folder."""
    spec = view.run.spec
    words = spec.command[1:] if spec.script is not None else spec.command
    return " ".join((os.path.basename(words[0]), *words[1:]))  # noqa: PTH119
