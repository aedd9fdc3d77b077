"""From runs to a plot of their curves."""

from collections.abc import Callable, Sequence
from functools import partial

from backprop.records import RunView
from backprop.store import curves
from backprop.store.curves import Axis, Curve
from backprop.store.usage import history as usage_history
from backprop.store.usage.quantities import PREFIX, Unit, unit_of
from backprop.views.plots.model import Panel, Plot, PlotLine
from backprop.views.plots.smoothing import smoothed

_SMOOTHED_POINTS = 20_000  # of longer curves what is smoothed is a reduced one


def has_curve(view: RunView, name: str) -> bool:
    """Whether the run has a metric of this name, or was measured by it."""
    return name in view.summaries or usage_history.has(view, name)


def unit_in(views: Sequence[RunView], name: str) -> Unit | None:
    """The unit of what these runs used; None for a metric that one of their scripts reports."""
    having = [view for view in views if has_curve(view, name)]
    is_usage = bool(having) and all(usage_history.has(view, name) for view in having)
    return unit_of(name.removeprefix(PREFIX)) if is_usage else None


def plot_of(
    views: Sequence[RunView],
    names: Sequence[str],
    curve: Callable[..., Curve],
    max_points: int,
    *,
    axis: Axis,
    is_log: bool,
    smooth: float | None,
) -> Plot:
    """A panel for each metric, with a line of each run that has it. curve: `query.curve` but for run, metric and range.

    max_points: of each line. smooth: points to average over, or below 1 the weight of an exponential moving average.
    """
    panels = []
    for name in names:
        having = [(place, view) for place, view in enumerate(views) if has_curve(view, name)]
        lines = [_line(place, partial(curve, view, name), max_points, smooth) for place, view in having]
        panels.append(
            Panel(metric=name, lines=tuple(line for line in lines if len(line.xs)), unit=unit_in(views, name))
        )
    called = tuple(
        f"{view.run.spec.name} ({view.run.spec.id})" if view.run.spec.name else view.run.spec.id for view in views
    )
    return Plot(runs=called, panels=tuple(panels), axis=axis, is_log=is_log, smoothing=smooth)


def _line(place: int, curve: Callable[..., Curve], max_points: int, smooth: float | None) -> PlotLine:
    if smooth is None:
        found = curve(max_points=max_points)
        return PlotLine(place=place, xs=found.xs, ys=found.ys, is_reduced=found.is_reduced)
    found = curve(max_points=_SMOOTHED_POINTS)
    xs, ys = curves.reduced(found.xs, smoothed(found.ys, smooth), max_points)
    raw_xs, raw_ys = curves.reduced(found.xs, found.ys, max_points)
    return PlotLine(place=place, xs=xs, ys=ys, raw_xs=raw_xs, raw_ys=raw_ys, is_reduced=found.is_reduced)
