"""What is drawn in a plot, wherever it is drawn: lines in panels, their range, their ticks, and what is to be said."""

import math
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from backprop.records import Record
from backprop.store.curves import Axis
from backprop.views.terminal import formatting
from backprop.views.terminal.screen import cut

_UNITS = ((172_800.0, 86_400.0, "days"), (7200.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
_HUGE = 1e300  # what is beyond is drawn here: the span of two floats must be one
_TINY = 1e-300  # the same for a logarithmic scale
_COUNTED = 8  # values from which on one may be far from the others
_MANY = 100
# what lies so many times as far from the inner values as those from one another is left out: of the inner 98 %
# few times, of the inner 60 % many, because a loss may well fall steeply at first
_REACHES = ((0.01, 4.0), (0.2, 20.0))
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_PADDING = 0.04
_NAME_WIDTH = 40


class PlotLine(Record, frozen=True):
    """One run's curve. What is not finite is a gap."""

    place: int  # of its run in the legend
    xs: "array[float]"
    ys: "array[float]"
    raw_xs: "array[float] | None" = None  # before it was smoothed
    raw_ys: "array[float] | None" = None
    is_reduced: bool = False


class Panel(Record, frozen=True):
    """One metric of some runs."""

    metric: str
    lines: tuple[PlotLine, ...]


class Plot(Record, frozen=True):
    """Panels below one another, over one axis."""

    runs: tuple[str, ...]  # how each run is called, in the order of the legend
    panels: tuple[Panel, ...]
    axis: Axis
    is_log: bool = False
    smoothing: float | None = None


class Spike(NamedTuple):
    """The farthest point of a stretch of a line that lies outside the range."""

    place: int  # of the run
    x: float
    value: float
    is_above: bool


class Span(NamedTuple):
    """The range of an axis."""

    low: float
    high: float


def y_span(panel: Panel, *, is_log: bool) -> Span:
    """The range in which a panel is readable: a few values far out do not make a flat line of all others.

    On a logarithmic scale nothing is left out.
    """
    found = sorted(
        max(-_HUGE, min(_HUGE, y))
        for line in panel.lines
        for y in line.ys
        if math.isfinite(y) and (y > 0 or not is_log)
    )
    if not found:
        return Span(0.1, 1.0) if is_log else Span(0.0, 1.0)
    low, high = found[0], found[-1]
    if is_log:
        low, high = max(_TINY, low), max(_TINY, high)
        return Span(low * 0.8, high * 1.25) if low < high else Span(low / 2, high * 2)
    if len(found) >= _COUNTED:
        for share, reach in _REACHES if len(found) >= _MANY else _REACHES[1:]:
            inner_low, inner_high, middle = (found[int(at * (len(found) - 1))] for at in (share, 1 - share, 0.5))
            # of a curve that stands still, a quarter of its height
            far = reach * max(inner_high - inner_low, abs(middle) / 4)
            low = max(low, next(y for y in found if y >= inner_low - far))
            high = min(high, next(y for y in reversed(found) if y <= inner_high + far))
    padding = (high - low) * _PADDING or abs(high) / 2 or 1.0
    return Span(low - padding, high + padding)


def spikes(panel: Panel, span: Span) -> list[Spike]:
    """The farthest point of every stretch that lies outside."""
    found = []
    for line in panel.lines:
        farthest: Spike | None = None
        for x, y in zip(line.xs, line.ys, strict=True):
            is_outside = math.isfinite(y) and not span.low <= y <= span.high
            if is_outside and (farthest is None or abs(y) > abs(farthest.value)):
                farthest = Spike(line.place, x, y, y > span.high)
            elif not is_outside and farthest is not None:
                found.append(farthest)
                farthest = None
        if farthest is not None:
            found.append(farthest)
    return found


def x_span(plot: Plot) -> Span:
    """The range of all panels."""
    found = [x for panel in plot.panels for line in panel.lines for x in (min(line.xs), max(line.xs)) if len(line.xs)]
    low, high = min(found, default=0.0), max(found, default=1.0)
    return Span(low, high) if low < high else Span(low - 1, high + 1)


def title(plot: Plot, panel: Panel) -> str:
    """The metric, and what was done to it."""
    done = []
    if plot.smoothing is not None:
        done.append(f"smoothed {plot.smoothing:g}")
    if plot.is_log:
        done.append("logarithmic")
    return cut(panel.metric, _NAME_WIDTH) + (f" ({', '.join(done)})" if done else "")


def notes(plot: Plot, panel: Panel, outside: Sequence[Spike]) -> Iterator[str]:
    """What a panel does not show, in words."""
    who = [f"{cut(run, _NAME_WIDTH)}: " if len(plot.runs) > 1 else "" for run in plot.runs]
    for line in panel.lines:
        missing = [x for x, y in zip(line.xs, line.ys, strict=True) if not math.isfinite(y)]
        if missing:
            about = "at least " if line.is_reduced else ""
            where = f"from {place(missing[0], plot.axis)} to {place(missing[-1], plot.axis)}"
            yield f"{who[line.place]}{about}{_values(len(missing))} not finite, {where}"
        if plot.is_log and (below := sum(1 for y in line.ys if math.isfinite(y) and y <= 0)):
            yield f"{who[line.place]}{_values(below)} not above 0: no place on a logarithmic scale"
    if outside:
        worst = max(outside, key=lambda spike: abs(spike.value))
        others = f", the farthest of {len(outside)}" if len(outside) > 1 else ""
        told = f"{formatting.number(worst.value)} at {place(worst.x, plot.axis)}"
        yield f"{who[worst.place]}outside the frame is {told}{others}"


def _values(count: int) -> str:
    return "1 value is" if count == 1 else f"{count} values are"


def place(x: float, axis: Axis) -> str:
    """Where on the axis."""
    return f"step {x:.0f}" if axis is Axis.STEP else formatting.duration(x)


def x_label(plot: Plot) -> str:
    return "step" if plot.axis is Axis.STEP else f"{_unit(x_span(plot))[1]} of training"


def x_ticks(plot: Plot, count: int) -> list[tuple[float, str]]:
    """About so many places on the axis, and what is written there."""
    span = x_span(plot)
    if plot.axis is Axis.STEP:
        return [(tick, _count(tick)) for tick in _nice(span, count, least=1.0)]
    size_s, _ = _unit(span)
    ticks = _nice(Span(span.low / size_s, span.high / size_s), count)
    return [(tick * size_s, formatting.number(tick)) for tick in ticks]


def y_ticks(span: Span, count: int, *, is_log: bool) -> list[tuple[float, str]]:
    """About so many values, and what is written there."""
    if not is_log:
        return [(tick, formatting.number(tick)) for tick in _nice(span, count)]
    low, high = math.log10(span.low), math.log10(span.high)
    if high - low < 1.5:
        ticks = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
    else:
        every = math.ceil((high - low) / count)
        ticks = [10.0**e for e in range(math.ceil(low), math.floor(high) + 1, every)]
    return [(tick, formatting.number(tick)) for tick in ticks if span.low <= tick <= span.high]


def _unit(span: Span) -> tuple[float, str]:
    return next((size, name) for least, size, name in _UNITS if span.high >= least or least == 0)


def _count(number: float) -> str:
    """500, 20k, 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            return f"{number / (1000 if unit == 'k' else size):g}{unit}"
    return f"{number:g}"


def _nice(span: Span, count: int, least: float = 0.0) -> list[float]:
    """Round numbers in a range, about so many."""
    raw = max((span.high - span.low) / max(1, count), least, abs(span.high) * 1e-9)
    if raw < sys.float_info.min:  # below, numbers have no digits to be round in
        return [span.low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in _STEPS if factor * power >= raw * 0.999)
    first = math.ceil(span.low / step)
    ticks = [(first + number) * step for number in range(count * 3 + 2)]
    return [tick for tick in ticks if tick <= span.high]
