"""Curves of a run as drawings that fill their pane, or a message in their place."""

import math
from collections.abc import Sequence

from backprop.records import Usage
from backprop.store.curves import Curve
from backprop.store.usage.quantities import PREFIX, QUANTITIES, Unit, unit_of
from backprop.views.plots import terminal as plot_terminal
from backprop.views.plots.model import Panel, Plot, PlotLine, x_label
from backprop.views.terminal import formatting
from backprop.views.terminal.screen import Screen, cut

_MIN_WIDTH, _MIN_HEIGHT = 16, 5
_USAGE_HEIGHTS = (3, 8)  # lines of one chart among several
_AXIS_LINES = 2
_NOTHING_MEASURED = "nothing was measured yet"


def chart(curve: Curve, width: int, height: int, *, is_log: bool, unit: Unit | None = None) -> str:
    """The curve with its axes, in `width` columns and `height` lines. unit: of what the run used."""
    if not any(math.isfinite(y) and (y > 0 or not is_log) for y in curve.ys):
        return "no positive values: press g for a linear scale" if is_log else "no finite values yet"
    if width < _MIN_WIDTH or height < _MIN_HEIGHT:
        return f"last {formatting.number(curve.ys[-1])}"
    plot = _plot([curve], [unit], is_log=is_log)
    return "\n".join(plot_terminal.panel(plot, Screen(width=width, height=height)))


def usage_charts(usage: Usage | None, curves: Sequence[Curve], width: int, height: int) -> str:
    """A chart for each of these, one below the other, over a common time.

    Takes more than `height` lines where they need it.
    """
    if usage is None or not curves:
        return _NOTHING_MEASURED
    least, most = _USAGE_HEIGHTS
    lines_each = max(least, min(most, (height - _AXIS_LINES) // len(curves) - 1))
    plot = _plot(curves, [unit_of(curve.metric.removeprefix(PREFIX)) for curve in curves])
    labels = plot_terminal.label_width(plot, lines_each)
    lines = []
    for place, curve in enumerate(curves):
        is_last = place == len(curves) - 1
        lines.append(_usage_title(usage, curve.metric, width))
        if width >= _MIN_WIDTH:
            screen = Screen(width=width, height=lines_each + (_AXIS_LINES if is_last else 0))
            lines += plot_terminal.panel(plot, screen, place, label_width=labels, with_axis=is_last)
    return "\n".join(lines)


def _usage_title(usage: Usage, name: str, width: int) -> str:
    """CPU 152 % · mean 140 % · peak 210 %."""
    own_name = name.removeprefix(PREFIX)
    label, unit = QUANTITIES[own_name].label, unit_of(own_name)
    figures = [("", usage.last.get(name)), ("mean ", usage.mean.get(own_name)), ("peak ", usage.peak.get(own_name))]
    texts = [f"{word}{formatting.figure(value, unit)}" for word, value in figures if value is not None]
    return cut(f"{label} {' · '.join(texts)}", width)


def axis_name(curve: Curve) -> str:
    """The label of the x-axis: steps or time of training."""
    return x_label(_plot([curve], [None]))


def _plot(curves: Sequence[Curve], units: Sequence[Unit | None], *, is_log: bool = False) -> Plot:
    panels = []
    for curve, unit in zip(curves, units, strict=True):
        line = PlotLine(place=0, xs=curve.xs, ys=curve.ys, is_reduced=curve.is_reduced)
        panels.append(Panel(metric=curve.metric, lines=(line,), unit=unit))
    return Plot(runs=(curves[0].run_id,), panels=tuple(panels), axis=curves[0].axis, is_log=is_log)
