"""A run's curve as a drawing that fills its pane, or a message in its place."""

import math

from backprop.store.curves import Curve
from backprop.views.plots import terminal as plot_terminal
from backprop.views.plots.model import Panel, Plot, PlotLine, x_label
from backprop.views.terminal import formatting
from backprop.views.terminal.screen import Screen

_MIN_WIDTH, _MIN_HEIGHT = 16, 5


def chart(curve: Curve, width: int, height: int, *, is_log: bool) -> str:
    """The curve with its axes, in `width` columns and `height` lines."""
    if not any(math.isfinite(y) and (y > 0 or not is_log) for y in curve.ys):
        return "no positive values: press g for a linear scale" if is_log else "no finite values yet"
    if width < _MIN_WIDTH or height < _MIN_HEIGHT:
        return f"last {formatting.number(curve.ys[-1])}"
    return "\n".join(plot_terminal.panel(_plot(curve, is_log=is_log), Screen(width=width, height=height)))


def axis_name(curve: Curve) -> str:
    """The label of the x-axis: steps or time of training."""
    return x_label(_plot(curve, is_log=False))


def _plot(curve: Curve, *, is_log: bool) -> Plot:
    line = PlotLine(place=0, xs=curve.xs, ys=curve.ys, is_reduced=curve.is_reduced)
    panel = Panel(metric=curve.metric, lines=(line,))
    return Plot(runs=(curve.run_id,), panels=(panel,), axis=curve.axis, is_log=is_log)
