"""Runs as a table for a terminal, or for a pipe: there nothing is truncated, coloured or drawn.

Headings are in capitals, but for names that come from the script (metrics, parameters).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from backprop.records import RunView, Status, in_minutes
from backprop.store.usage import figures
from backprop.text import shortened
from backprop.views.documents.run_json import elapsed_s, timeboxes_s
from backprop.views.run_row import RunRow
from backprop.views.terminal import formatting, params
from backprop.views.terminal.bars import LINES, PLAIN_LINES, bar
from backprop.views.terminal.screen import CYAN, DIM, RED, Screen, stdout_screen
from backprop.views.terminal.sparkline import sparkline
from backprop.views.terminal.status_style import STYLES, SYMBOLS
from backprop.views.terminal.table_layout import Cell, Column, grid

# (run, metric, number of values) -> values: see query.sparkline_values
Values = Callable[[RunView, str, int], Sequence[float]]

_SPARKLINE_WIDTHS = ((160, 20), (120, 12), (0, 8))  # (minimum width of the terminal, width)
_BAR_WIDTH = 6
_PARAM_COLUMNS = 4  # more are rarely read
_PARAM_WIDTH = 8
_TITLE_WIDTH = 14
_DEEPEST = 12  # of a tree, as indented
_NONE = Cell("-")


def runs_table(
    views: Sequence[RunView],
    now: datetime,
    *,
    metric: str | None = None,
    values: Values | None = None,
    depths: Sequence[int] | None = None,
    screen: Screen | None = None,
) -> str:
    """One line per run, in the given order.

    metric: the one to show; None: each run's main one. values: source of the sparklines. depths: how deep each run is
    in a tree, shown by its indentation; None: it is no tree.
    """
    screen = screen or stdout_screen()
    rows = [RunRow.of(view, metric) for view in views]
    columns = list(_columns(rows, now, values, screen, depths or [0] * len(rows)))
    if screen.is_terminal:  # drop columns that are empty for all of these runs
        columns = [column for column in columns if any(cell.text.strip(" -") for cell in column.cells)]
    return grid(columns, screen).text


def _columns(
    rows: Sequence[RunRow], now: datetime, values: Values | None, screen: Screen, depths: Sequence[int]
) -> Iterator[Column]:
    indented = zip(rows, depths, strict=True)
    yield Column("RUN", [Cell("  " * min(depth, _DEEPEST) + row.view.run.spec.id) for row, depth in indented], rank=0)
    yield Column("NAME", [_text(row.view.run.spec.name) for row in rows], rank=2, min_width=8)
    yield Column("STATUS", [_status(row.view, screen) for row in rows], rank=0)
    yield Column("AGE", [Cell(formatting.age(row.view.run.spec.created_at, now)) for row in rows], 6, "right")
    if screen.is_terminal:
        yield Column("", [_bar(row.view, now, screen) for row in rows], rank=9)
    yield Column("TIME", [_time(row.view, now) for row in rows], 4, "right")
    yield Column("STEP", [_step(row.view) for row in rows], 3, "right")
    if any(etas := [formatting.eta(row.view.live) for row in rows]):
        yield Column("ETA", [_text(eta) for eta in etas], 4, "right")
    yield Column(_title(rows), [_last(row) for row in rows], 1, "right")
    yield Column("BEST", [Cell(formatting.number(row.best)) for row in rows], 8, "right")
    if screen.is_terminal and values is not None:
        yield Column("", _sparklines(rows, values, screen), rank=5)
    if screen.is_terminal:
        yield from _param_columns([row.view for row in rows])
    is_any_queued = any(row.view.run.status is Status.QUEUED for row in rows)  # then the reason is what matters most
    whys = [_text(formatting.life(row.view.live) or row.view.run.full_reason, DIM) for row in rows]
    yield Column("WHY", whys, rank=2 if is_any_queued else 10, min_width=16)
    yield Column("SCRIPT", [Cell(row.command) for row in rows], rank=7, min_width=12)


def _text(text: str | None, style: str = "") -> Cell:
    return Cell(text, style) if text else _NONE


def _status(view: RunView, screen: Screen) -> Cell:
    status = view.run.status
    symbol = f"{SYMBOLS[status]} " if screen.is_terminal and screen.has_blocks else ""
    return Cell(symbol + status.value, STYLES[status])


def _time(view: RunView, now: datetime) -> Cell:
    """The total time of all sessions, of the total of their timeboxes."""
    limit_s = timeboxes_s(view.run)
    return Cell(formatting.used(elapsed_s(view, now), limit_s) if view.run.sessions else f"-/{in_minutes(limit_s)}")


def _bar(view: RunView, now: datetime, screen: Screen) -> Cell:
    """The used part of the timebox of an active run."""
    last = view.run.last_session
    if last is None or last.status.is_final:
        return Cell("")
    characters = LINES if screen.has_blocks else PLAIN_LINES
    return Cell("".join(bar(last.trained_s(now) / last.timebox_s, _BAR_WIDTH, characters)), CYAN)


def _step(view: RunView) -> Cell:
    return _NONE if view.last_step is None else Cell(formatting.steps(view.last_step, view.total_steps))


def _title(rows: Sequence[RunRow]) -> str:
    """The metric's name if it is the same in all runs."""
    found = {row.metric for row in rows if row.metric is not None}
    name = found.pop() if len(found) == 1 else "LOSS"
    return shortened(name, _TITLE_WIDTH)


def _last(row: RunRow) -> Cell:
    if row.figure is not None:
        return Cell(formatting.figure(row.last, figures.unit(row.figure)))
    is_finite = row.last is None or math.isfinite(row.last)
    return Cell(formatting.number(row.last), "" if is_finite else RED)


def _sparklines(rows: Sequence[RunRow], values: Values, screen: Screen) -> list[Cell]:
    width = next(width for min_width, width in _SPARKLINE_WIDTHS if screen.width >= min_width)
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
    """Parameters that differ between these runs, as far as there is room."""
    for place, name in enumerate(params.differing(views)[:_PARAM_COLUMNS]):
        cells = [Cell(params.text(view.params.get(name, params.ABSENT))) for view in views]
        is_text = any(isinstance(view.params.get(name), str) for view in views)
        yield Column(name, cells, 11 + place, "left" if is_text else "right", _PARAM_WIDTH)
