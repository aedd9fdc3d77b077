"""A plot as a picture, by matplotlib: the only module that needs it."""

import io
import math
import warnings
from typing import TYPE_CHECKING, Any

from backprop.views.plots.model import (
    Plot,
    notes,
    spikes,
    title,
    with_breaks,
    x_label,
    x_span,
    x_ticks,
    y_span,
    y_ticks,
)
from backprop.views.terminal.screen import cut

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito, "Color Universal Design" (2008): for any colour vision
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07800", "#3aa0dc", "#555555")
_DASHES = ("-", "--", ":", "-.")
_DPI = 150
_PIXELS = (1500, 675)  # of one panel
_NAME_WIDTH = 60
_LEGEND_COLUMNS = 3
# matplotlib uses the first that has a glyph; missing fonts cost nothing
_FONTS = ["DejaVu Sans", "Noto Sans", "Noto Sans CJK JP", "Noto Sans Hebrew", "Noto Sans Arabic", "Arial Unicode MS"]


def picture(plot: Plot, kind: str, width: int | None = None, height: int | None = None) -> bytes:
    """The plot as PNG or SVG. width, height: of a panel, in pixels. Raises ModuleNotFoundError without matplotlib."""
    import logging

    import matplotlib as mpl
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # missing fonts are expected
    size = ((width or _PIXELS[0]) / _DPI, (height or _PIXELS[1]) * len(plot.panels) / _DPI)
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcParams["svg.fonttype"] = "none"  # text stays text
        mpl.rcParams["font.family"] = _FONTS
        mpl.rcParams["text.parse_math"] = False  # a name may contain a dollar sign
        mpl.rcParams["axes.spines.top"] = mpl.rcParams["axes.spines.right"] = False
        # no installed font has the glyphs: boxes are all we can get
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        all_axes = figure.subplots(len(plot.panels), 1, sharex=True, squeeze=False)[:, 0]
        for place, axes in enumerate(all_axes):
            _panel(plot, place, axes)
        all_axes[-1].set_xlabel(x_label(plot))
        _legend(plot, figure)
        target = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else None  # reproducible files
        figure.savefig(target, format=kind, metadata=metadata)
    return target.getvalue()


def _panel(plot: Plot, place: int, axes: "Axes") -> None:
    panel = plot.panels[place]
    span, across = y_span(panel, is_log=plot.is_log), x_span(plot)
    for line in panel.lines:
        look: dict[str, Any] = {**_look(line.place), "linewidth": 1.4, "solid_joinstyle": "round"}
        if line.raw_xs is not None and line.raw_ys is not None:
            axes.plot(*_finite(line.raw_xs, line.raw_ys), **{**look, "alpha": 0.25, "linewidth": 0.8})
        lone = len(line.xs) == 1
        axes.plot(*_finite(line.xs, line.ys), **look, marker="o" if lone else None, markersize=4)
    if plot.is_log:
        axes.set_yscale("log")
    outside = [] if plot.is_log else spikes(panel, span)
    for spike in outside:
        edge, marker = (span.high, "^") if spike.is_above else (span.low, "v")
        axes.plot([spike.x], [edge], marker=marker, color=_look(spike.place)["color"], clip_on=False, markersize=6)
    axes.set_xlim(across.low, across.high)
    axes.set_ylim(span.low, span.high)
    ticks = x_ticks(plot, 8)
    axes.set_xticks([tick for tick, _ in ticks], [text for _, text in ticks])
    if panel.unit is not None:
        marks = y_ticks(span, 5, is_log=plot.is_log, unit=panel.unit)
        axes.set_yticks([mark for mark, _ in marks], [text for _, text in marks])
    axes.grid(visible=True, alpha=0.25, linewidth=0.6)
    axes.set_title(_text(title(plot, panel)), loc="left", fontsize=11, fontweight="bold")
    caption = "\n".join(_text(note) for note in notes(plot, panel, outside))
    if caption:
        axes.annotate(caption, (1, 1), xycoords="axes fraction", ha="right", va="bottom", fontsize=7, alpha=0.7)


def _text(text: str) -> str:
    """A text that reads from left to right, even if it starts with a right-to-left name."""
    return text if text.isascii() else f"\u200e{text}"


def _finite(xs: Any, values: Any) -> tuple[Any, list[float]]:
    """The points with NaN, which is a gap, for all values that are not finite."""
    xs, values = with_breaks(xs, values)
    return xs, [value if math.isfinite(value) else math.nan for value in values]


def _look(place: int) -> dict[str, Any]:
    dash = _DASHES[place // len(_COLOURS) % len(_DASHES)]
    return {"color": _COLOURS[place % len(_COLOURS)], "linestyle": dash}


def _legend(plot: Plot, figure: Any) -> None:
    if len(plot.runs) == 1:
        figure.suptitle(_text(cut(plot.runs[0], _NAME_WIDTH)), fontsize=12)
        return
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], **_look(place)) for place in range(len(plot.runs))]
    # a label that begins with "_" would be left out, so names are set afterwards
    made = figure.legend(
        handles,
        [str(place) for place in range(len(handles))],
        loc="outside upper left",
        ncols=min(len(handles), _LEGEND_COLUMNS),
        frameon=False,
        fontsize=9,
    )
    for text, run in zip(made.get_texts(), plot.runs, strict=True):
        text.set_text(_text(cut(run, _NAME_WIDTH)))
