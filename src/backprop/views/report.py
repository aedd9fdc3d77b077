"""Some runs in one HTML file that needs no server: curves, a table, and each run in full."""

import html
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial

from backprop.lifecycle import catalog
from backprop.records import RunView
from backprop.store import metric_names, query
from backprop.store.curves import Axis
from backprop.store.index import Index
from backprop.views.documents.comparison import comparison_rows
from backprop.views.plots.curve_panels import plot_of
from backprop.views.plots.html_page import page
from backprop.views.terminal import params
from backprop.views.terminal.comparison_table import Comparison, side
from backprop.views.terminal.run_details import run_details
from backprop.views.terminal.screen import Screen

_MAX_PANELS = 12
_MAX_POINTS = 2000  # of a line
_WIDTH = 110  # characters


def report(index: Index, views: Sequence[RunView], now: datetime) -> str:
    """The content of the file. The first metrics are drawn, the main one first; the table has all."""
    names = metric_names.in_order(views)
    curve = partial(query.curve, index, axis=Axis.STEP)
    plot = plot_of(views, names[:_MAX_PANELS], curve, _MAX_POINTS, axis=Axis.STEP, is_log=False, smooth=None)
    return page(plot, below="\n".join(_sections(views, names, now)))


def _sections(views: Sequence[RunView], names: Sequence[str], now: datetime) -> Iterator[str]:
    if len(views) > 1:
        yield "<h2>Runs</h2>"
        yield _table(views, names, now)
    for view in views:
        title = html.escape(" ".join(filter(None, (view.run.spec.name, view.run.spec.id))))
        text = run_details(view, now, catalog.is_valid, screen=Screen(width=_WIDTH), is_whole=True)
        is_open = " open" if len(views) == 1 else ""
        yield f"<details{is_open}><summary>{title}</summary><pre>{html.escape(text)}</pre></details>"


def _table(views: Sequence[RunView], names: Sequence[str], now: datetime) -> str:
    comparison = Comparison(
        sides=tuple(side(view, now, {}) for view in views),
        metrics=tuple(names),
        params=tuple(params.differing(views)),
        at_step=None,
        with_all=False,
    )
    head, *rows = (
        ["" if cell is None else html.escape(str(cell)) for cell in row] for row in comparison_rows(comparison)
    )
    heads = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{heads}</tr>{lines}</table></div>'
