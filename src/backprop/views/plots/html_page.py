"""A plot as one self-contained HTML file: it includes the chart library, and makes no network requests."""

import html
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from backprop.views.plots.model import Panel, Plot, PlotLine, notes, spikes, title, with_breaks, x_label, y_span
from backprop.views.terminal.screen import cut

_TEMPLATE_PATH = Path(__file__).with_suffix(".html")
_LIBRARY_PATH = Path(__file__).parents[1] / "web" / "static" / "vendor"
_NAME_WIDTH = 200  # characters
_HEIGHT = 380  # pixels of one panel
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


def page(plot: Plot, height: int | None = None, below: str = "") -> str:
    """The content of the file. Panels are as wide as the window.

    height: of a panel, in pixels. below: HTML under the panels.
    """
    runs = plot.runs[0] if len(plot.runs) == 1 else f"{len(plot.runs)} runs"
    title_text = cut(f"{', '.join(panel.metric for panel in plot.panels)} · {runs}", _NAME_WIDTH)
    document = {
        "title": title_text,
        "runs": [cut(run, _NAME_WIDTH) for run in plot.runs],
        "x_label": x_label(plot),
        "is_log": plot.is_log,
        "height": height or _HEIGHT,
        "panels": [_panel(plot, panel) for panel in plot.panels],
    }
    parts = {
        "title": html.escape(title_text),
        "plot": _script_safe(msgspec.json.encode(document).decode()),
        "below": below,
        "uplot_css": (_LIBRARY_PATH / "uPlot.min.css").read_text(),
        "uplot_js": (_LIBRARY_PATH / "uPlot.iife.min.js").read_text(),
    }
    # in one pass: a run's name cannot be mistaken for a placeholder
    return _PLACEHOLDER.sub(lambda found: parts[found[1]], _TEMPLATE_PATH.read_text())


def _script_safe(text: str) -> str:
    """JSON that can neither end its <script> element nor open a comment in it: the HTML standard, 4.12.1.3."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _panel(plot: Plot, panel: Panel) -> dict[str, Any]:
    span = y_span(panel, is_log=plot.is_log)
    outside = [] if plot.is_log else spikes(panel, span)
    return {
        "title": title(plot, panel) + (f" · {panel.unit.value}" if panel.unit is not None and panel.unit.value else ""),
        "notes": list(notes(plot, panel, outside)),
        "low": span.low,
        "high": span.high,
        "lines": [_line(plot, line) for line in panel.lines],
    }


def _line(plot: Plot, line: PlotLine) -> dict[str, Any]:
    xs, ys = with_breaks(line.xs, line.ys)
    document = {"place": line.place, "xs": list(xs), "ys": _drawable(ys, plot)}
    if line.raw_xs is not None and line.raw_ys is not None:
        xs, ys = with_breaks(line.raw_xs, line.raw_ys)
        document |= {"raw_xs": list(xs), "raw_ys": _drawable(ys, plot)}
    return document


def _drawable(values: Sequence[float], plot: Plot) -> list[float | None]:
    """The values, with None for a gap."""
    return [value if math.isfinite(value) and (value > 0 or not plot.is_log) else None for value in values]
