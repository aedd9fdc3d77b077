"""A plot in characters, for a terminal or a pipe."""

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from backprop.views.plots.model import (
    Panel,
    Plot,
    PlotLine,
    Span,
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
from backprop.views.terminal.screen import BOLD, DIM, GAP, Screen, cells, cut

# of the 256 colours: distinct, and readable on black and on white
_COLOURS = (33, 208, 35, 170, 178, 38, 245)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PIPE_SIZE = (80, 20)
_MAX_HEIGHT = 24  # of one panel in a tall terminal
_MIN_HEIGHT = 8
_LEGEND_WIDTH = 40
_ASCII = str.maketrans("─│┌┐└┘├┤┬┴┼▲▼", "-|" + 9 * "+" + "^v")


def points_for(screen: Screen, width: int | None) -> int:
    """How many points of a line are useful: two columns per character, each with a minimum and a maximum."""
    return 4 * _size(screen, width, None, 1)[0]


def drawn(plot: Plot, screen: Screen, width: int | None = None, height: int | None = None) -> str:
    """The plot as lines of text. width, height: of a panel, in characters; default: what fits on the screen."""
    size = _size(screen, width, height, len(plot.panels))
    lines = list(_legend(plot, screen, size[0]))
    labels = label_width(plot, size[1])
    for number, panel in enumerate(plot.panels):
        is_last = number == len(plot.panels) - 1
        lines.append(screen.styled(cut(title(plot, panel), size[0], screen.ellipsis), BOLD))
        lines += _panel(plot, panel, screen, size, labels, with_axis=is_last)
        outside = spikes(panel, y_span(panel, is_log=plot.is_log)) if not plot.is_log else []
        lines += [screen.styled(cut(note, size[0], screen.ellipsis), DIM) for note in notes(plot, panel, outside)]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def panel(
    plot: Plot, screen: Screen, place: int = 0, *, label_width: int | None = None, with_axis: bool = True
) -> list[str]:
    """One panel alone, without title, legend and frame, as large as the screen.

    label_width: columns for the labels of the y-axis; None: what they need. with_axis: with the x-axis and its labels.
    """
    labels = _label_width(plot, plot.panels[place], screen.height) if label_width is None else label_width
    size = (screen.width, screen.height)
    return _panel(plot, plot.panels[place], screen, size, labels, with_axis=with_axis, is_framed=False)


def label_width(plot: Plot, height: int) -> int:
    """How many columns the labels of all y-axes need. height: of each panel, in lines."""
    return max((_label_width(plot, panel, height) for panel in plot.panels), default=0)


def _label_width(plot: Plot, panel: Panel, height: int) -> int:
    return max((len(text) for _, text in _panel_ticks(plot, panel, height)), default=0)


def _size(screen: Screen, width: int | None, height: int | None, panels: int) -> tuple[int, int]:
    """The size of one panel in columns and lines."""
    if not screen.is_terminal:
        return width or _PIPE_SIZE[0], height or _PIPE_SIZE[1]
    room = (screen.height - 4) // panels - 2  # legend, axis, prompt; title, notes
    return width or screen.width, height or max(_MIN_HEIGHT, min(_MAX_HEIGHT, room))


def _legend(plot: Plot, screen: Screen, width: int) -> Iterator[str]:
    """The legend: each run with its colour, or with a letter without colours; as many per line as fit."""
    line: list[str] = []
    used = 0
    for place, run in enumerate(plot.runs):
        name = cut(run, _LEGEND_WIDTH, screen.ellipsis)
        key = _key(plot, place, screen)
        taken = cells(name) + len(key) + (1 if key else 0) + len(GAP)
        if line and used + taken > width + len(GAP):
            yield GAP.join(line)
            line, used = [], 0
        line.append(f"{screen.styled(key, _style(place))} {name}" if key else screen.styled(name, BOLD))
        used += taken
    yield GAP.join(line)


def _key(plot: Plot, place: int, screen: Screen) -> str:
    if len(plot.runs) == 1:
        return ""
    if screen.has_colours:
        return "━━" if screen.has_blocks else "--"
    return _LETTERS[place % len(_LETTERS)]


def _style(place: int) -> str:
    return f"38;5;{_COLOURS[place % len(_COLOURS)]}"


def _panel_ticks(plot: Plot, panel: Panel, height: int) -> list[tuple[float, str]]:
    return y_ticks(y_span(panel, is_log=plot.is_log), max(3, height // 3), is_log=plot.is_log, unit=panel.unit)


def _panel(
    plot: Plot,
    panel: Panel,
    screen: Screen,
    size: tuple[int, int],
    label_width: int,
    *,
    with_axis: bool,
    is_framed: bool = True,
) -> list[str]:
    import plotext

    width, height = size
    span, across = y_span(panel, is_log=plot.is_log), x_span(plot)
    plotext.clear_figure()
    plotext.limit_size(False, False)  # noqa: FBT003  its own interface
    plotext.plotsize(width, height)
    plotext.theme("clear")
    plotext.xlim(across.low, across.high)
    plotext.ylim(_scaled(span.low, plot), _scaled(span.high, plot))
    ticks = _panel_ticks(plot, panel, height)
    plotext.yticks([_scaled(tick, plot) for tick, _ in ticks], [text.rjust(label_width) for _, text in ticks])
    if with_axis:
        marks = x_ticks(plot, max(2, width // 16))
        plotext.xticks([tick for tick, _ in marks], [text for _, text in marks])
        if is_framed:
            plotext.xlabel(x_label(plot))
    else:
        plotext.xticks([], [])
    if not is_framed:
        plotext.xaxes(with_axis, False)  # noqa: FBT003  the lower one, not the upper
        plotext.yaxes(True, False)  # noqa: FBT003
    for line in panel.lines:
        _draw(plotext, plot, line, span, screen)
    text: str = plotext.build()
    if not screen.has_colours:
        text = plotext.uncolorize(text)
    if not screen.has_blocks:
        text = text.translate(_ASCII)
    return text.rstrip("\n").split("\n")


def _draw(plotext: ModuleType, plot: Plot, line: PlotLine, span: Span, screen: Screen) -> None:
    """One line, in parts without gaps; values outside the range are drawn at the edge."""
    look: dict[str, Any] = {"marker": "braille" if screen.has_blocks else "*"}
    if len(plot.runs) > 1 and not screen.has_colours:
        look["marker"] = _LETTERS[line.place % len(_LETTERS)]
    if screen.has_colours:
        look["color"] = _COLOURS[line.place % len(_COLOURS)]
    for xs, ys in _pieces(line, plot):
        inside = [_scaled(min(span.high, max(span.low, y)), plot) for y in ys]
        plotext.plot(xs, inside, **look)
    if not plot.is_log:
        for spike in spikes(Panel(metric="", lines=(line,)), span):
            marker, y = ("▲", span.high) if spike.is_above else ("▼", span.low)
            plotext.scatter([spike.x], [y], **{**look, "marker": marker})


def _pieces(line: PlotLine, plot: Plot) -> Iterator[tuple[list[float], list[float]]]:
    xs: list[float] = []
    ys: list[float] = []
    for x, y in zip(*with_breaks(line.xs, line.ys), strict=True):
        if math.isfinite(y) and (y > 0 or not plot.is_log):
            xs.append(x)
            ys.append(y)
        elif xs:
            yield xs, ys
            xs, ys = [], []
    if xs:
        yield xs, ys


def _scaled(y: float, plot: Plot) -> float:
    return math.log10(y) if plot.is_log else y
