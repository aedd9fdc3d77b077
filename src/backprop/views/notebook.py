"""Runs in a notebook: a table of facts, and curves in an <iframe> that needs no widget and no server."""

import html
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import Any

from backprop.errors import UsageError
from backprop.records import RunView
from backprop.store import metric_names, query
from backprop.store.curves import Axis
from backprop.store.index import Index
from backprop.views.plots.curve_panels import plot_of
from backprop.views.plots.html_page import page
from backprop.views.terminal import formatting

_MAX_POINTS = 2000  # of a line
_HEIGHT = 260  # pixels of a panel
_AROUND = 130  # pixels of the frame above and below the panels
_MAX_ROWS = 12


class Picture:
    """Curves that a notebook shows. `html`: the same as a page of its own."""

    def __init__(self, page_text: str, panels: int) -> None:
        self.html = page_text
        self._panels = panels

    def _repr_html_(self) -> str:
        height = _AROUND + self._panels * (_HEIGHT + 70)
        style = f"width: 100%; height: {height}px; border: 0"
        return f'<iframe srcdoc="{html.escape(self.html)}" style="{style}"></iframe>'

    def __repr__(self) -> str:
        return f"<curves of {self._panels} metric(s): write `.html` into a file, or look at it in a notebook>"


def picture(index: Index, view: RunView, metrics: Sequence[str]) -> Picture:
    """metrics: to draw; none: the loss, and the same on held-out data. Raises UsageError for one that the run lacks."""
    unknown = [name for name in metrics if name not in view.summaries]
    if unknown:
        raise UsageError(f"run {view.run.spec.id} has no metric {unknown[0]!r}.")
    shown = list(metrics) or metric_names.leading_metrics([view]) or sorted(view.summaries)[:1]
    curve = partial(query.curve, index, axis=Axis.STEP)
    plot = plot_of([view], shown, curve, _MAX_POINTS, axis=Axis.STEP, is_log=False, smooth=None)
    return Picture(page(plot, _HEIGHT), len(shown))


def keep_drawing(draw: Callable[[], Picture], is_going_on: Callable[[], bool], every_s: float) -> Picture:
    """Show the curves below the cell, and again every some seconds until the run has ended. Needs IPython."""
    try:
        display = import_module("IPython.display").display
    except ModuleNotFoundError as error:
        raise UsageError("live curves need a notebook (IPython); plot() without live=True works anywhere.") from error
    handle = display(draw(), display_id=True)
    while is_going_on():
        time.sleep(every_s)
        handle.update(draw())
    last = draw()
    handle.update(last)
    return last


def facts(rows: Iterable[tuple[str, Any]], values: Mapping[str, Mapping[str, Any]]) -> str:
    """An HTML table: rows of a name and a text, then for each title names and values, the first dozen."""
    lines = [_row(name, str(text)) for name, text in rows if text not in {None, ""}]
    for title, found in values.items():
        shown = list(found.items())[:_MAX_ROWS]
        more = f" (and {len(found) - len(shown)} more)" if len(found) > len(shown) else ""
        text = ", ".join(f"{name}={_text(value)}" for name, value in shown) + more
        lines += [_row(title, text)] if found else []
    return f"<table>{''.join(lines)}</table>"


def _text(value: Any) -> str:
    return formatting.number(value) if isinstance(value, float) else str(value)


def _row(name: str, text: str) -> str:
    style = "text-align: left"
    return f'<tr><th style="{style}">{html.escape(name)}</th><td style="{style}">{html.escape(text)}</td></tr>'
