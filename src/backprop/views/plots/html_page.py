"""A plot as one HTML file: the chart library is in it, it asks nothing of any network, and what is in it is text."""

import html
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from backprop.views.plots.model import Panel, Plot, PlotLine, notes, spikes, title, x_label, y_span
from backprop.views.terminal.screen import cut

_TEMPLATE_PATH = Path(__file__).with_suffix(".html")
_LIBRARY_PATH = Path(__file__).parents[1] / "web" / "static" / "vendor"
_NAME_WIDTH = 200  # characters
_HEIGHT = 380  # pixels of one panel
_PLACE = re.compile(r"\{\{(\w+)\}\}")


def page(plot: Plot, height: int | None = None) -> str:
    """The file's text. It is as wide as its window; height: of a panel, in pixels."""
    called = plot.runs[0] if len(plot.runs) == 1 else f"{len(plot.runs)} runs"
    told = f"{', '.join(panel.metric for panel in plot.panels)} · {called}"
    document = {
        "title": cut(told, _NAME_WIDTH),
        "runs": [cut(run, _NAME_WIDTH) for run in plot.runs],
        "x_label": x_label(plot),
        "is_log": plot.is_log,
        "height": height or _HEIGHT,
        "panels": [_panel(plot, panel) for panel in plot.panels],
    }
    parts = {
        "title": html.escape(cut(told, _NAME_WIDTH)),
        "plot": _script_safe(msgspec.json.encode(document).decode()),
        "uplot_css": (_LIBRARY_PATH / "uPlot.min.css").read_text(),
        "uplot_js": (_LIBRARY_PATH / "uPlot.iife.min.js").read_text(),
    }
    # in one go: what a run is called cannot be taken for a place in the template
    return _PLACE.sub(lambda found: parts[found[1]], _TEMPLATE_PATH.read_text())


def _script_safe(text: str) -> str:
    """JSON that cannot end the element it stands in, nor open a comment there: the HTML standard, 4.12.1.3."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _panel(plot: Plot, panel: Panel) -> dict[str, Any]:
    span = y_span(panel, is_log=plot.is_log)
    outside = [] if plot.is_log else spikes(panel, span)
    return {
        "title": title(plot, panel),
        "notes": list(notes(plot, panel, outside)),
        "low": span.low,
        "high": span.high,
        "lines": [_line(plot, line) for line in panel.lines],
    }


def _line(plot: Plot, line: PlotLine) -> dict[str, Any]:
    document = {"place": line.place, "xs": list(line.xs), "ys": _drawable(line.ys, plot)}
    if line.raw_xs is not None and line.raw_ys is not None:
        document |= {"raw_xs": list(line.raw_xs), "raw_ys": _drawable(line.raw_ys, plot)}
    return document


def _drawable(values: Sequence[float], plot: Plot) -> list[float | None]:
    """A gap is null."""
    return [value if math.isfinite(value) and (value > 0 or not plot.is_log) else None for value in values]
