"""The model of a plot for all renderers: panels with lines, their ranges, ticks and notes."""

import math
import sys
from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from backprop.records import Record
from backprop.store.curves import Axis
from backprop.store.usage.quantities import Unit
from backprop.views.terminal import formatting
from backprop.views.terminal.screen import cut

_UNITS = ((172_800.0, 86_400.0, "days"), (7200.0, 3600.0, "hours"), (120.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))
_HUGE = 1e300  # values beyond are clipped: the difference of two floats must be finite
_TINY = 1e-300  # the same for a log scale
_COUNTED = 8  # fewer values have no outliers
_MANY = 100
# a value is an outlier if its distance from the inner values is this multiple of their span: a small one of the inner
# 98 %, a large one of the inner 60 %, because a loss may fall steeply at first
_REACHES = ((0.01, 4.0), (0.2, 20.0))
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_PADDING = 0.04
_NAME_WIDTH = 40


class PlotLine(Record, frozen=True):
    """One run's curve. A non-finite value is a gap."""

    place: int  # index of its run in the legend
    xs: "array[float]"
    ys: "array[float]"
    raw_xs: "array[float] | None" = None  # before smoothing
    raw_ys: "array[float] | None" = None
    is_reduced: bool = False


class Panel(Record, frozen=True):
    """One metric of some runs."""

    metric: str
    lines: tuple[PlotLine, ...]
    unit: Unit | None = None  # of what a run used; None: a metric of its script


class Plot(Record, frozen=True):
    """Panels one below the other, with a common x-axis."""

    runs: tuple[str, ...]  # label of each run, in the order of the legend
    panels: tuple[Panel, ...]
    axis: Axis
    is_log: bool = False
    smoothing: float | None = None


class Spike(NamedTuple):
    """The farthest point of a part of a line that is outside the range."""

    place: int  # index of the run
    x: float
    value: float
    is_above: bool


class Span(NamedTuple):
    """The range of an axis."""

    low: float
    high: float


def with_breaks(xs: Sequence[float], ys: Sequence[float]) -> "tuple[array[float], array[float]]":
    """The points of a line, with a gap (NaN) where it goes back: there the script started another training."""
    new_xs, new_ys = array("d"), array("d")
    for x, y in zip(xs, ys, strict=True):
        if new_xs and x < new_xs[-1]:
            new_xs.append(x)
            new_ys.append(math.nan)
        new_xs.append(x)
        new_ys.append(y)
    return new_xs, new_ys


def y_span(panel: Panel, *, is_log: bool) -> Span:
    """The range in which a panel is readable: a few outliers do not flatten all other lines.

    On a logarithmic scale nothing is left out. What a run used is shown from zero to its peak: peaks are what matters.
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
    if panel.unit is not None and not is_log:
        return Span(0.0, high * (1 + _PADDING) or 1.0)
    if is_log:
        low, high = max(_TINY, low), max(_TINY, high)
        return Span(low * 0.8, high * 1.25) if low < high else Span(low / 2, high * 2)
    if len(found) >= _COUNTED:
        for share, reach in _REACHES if len(found) >= _MANY else _REACHES[1:]:
            inner_low, inner_high, middle = (found[int(at * (len(found) - 1))] for at in (share, 1 - share, 0.5))
            # for a constant curve a quarter of its value
            far = reach * max(inner_high - inner_low, abs(middle) / 4)
            low = max(low, next(y for y in found if y >= inner_low - far))
            high = min(high, next(y for y in reversed(found) if y <= inner_high + far))
    padding = (high - low) * _PADDING or abs(high) / 2 or 1.0
    return Span(low - padding, high + padding)


def spikes(panel: Panel, span: Span) -> list[Spike]:
    """The farthest point of each part outside the range."""
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
    """The metric, and how it was processed."""
    done = []
    if plot.smoothing is not None:
        done.append(f"smoothed {plot.smoothing:g}")
    if plot.is_log:
        done.append("logarithmic")
    return cut(panel.metric, _NAME_WIDTH) + (f" ({', '.join(done)})" if done else "")


def notes(plot: Plot, panel: Panel, outside: Sequence[Spike]) -> Iterator[str]:
    """Sentences about what a panel does not show."""
    who = [f"{cut(run, _NAME_WIDTH)}: " if len(plot.runs) > 1 else "" for run in plot.runs]
    for line in panel.lines:
        missing = [x for x, y in zip(line.xs, line.ys, strict=True) if not math.isfinite(y)]
        if missing:
            about = "at least " if line.is_reduced else ""
            where = f"from {place(missing[0], plot.axis)} to {place(missing[-1], plot.axis)}"
            yield f"{who[line.place]}{about}{_values(len(missing))} not finite, {where}"
        if plot.is_log and (below := sum(1 for y in line.ys if math.isfinite(y) and y <= 0)):
            yield f"{who[line.place]}{_values(below)} not above 0: not shown on a log scale"
    if outside:
        worst = max(outside, key=lambda spike: abs(spike.value))
        others = f", the farthest of {len(outside)}" if len(outside) > 1 else ""
        text = f"{formatting.number(worst.value)} at {place(worst.x, plot.axis)}"
        yield f"{who[worst.place]}outside the range: {text}{others}"


def _values(count: int) -> str:
    return "1 value is" if count == 1 else f"{count} values are"


def place(x: float, axis: Axis) -> str:
    """A position on the x-axis as text."""
    return f"step {x:.0f}" if axis is Axis.STEP else formatting.duration(x)


def x_label(plot: Plot) -> str:
    """What the x-axis shows, with its unit."""
    return "step" if plot.axis is Axis.STEP else f"{_unit(x_span(plot))[1]} of training"


def x_ticks(plot: Plot, count: int) -> list[tuple[float, str]]:
    """About `count` ticks of the x-axis, with their labels."""
    span = x_span(plot)
    if plot.axis is Axis.STEP:
        return [(tick, _count(tick)) for tick in _nice(span, count, least=1.0)]
    size_s, _ = _unit(span)
    ticks = _nice(Span(span.low / size_s, span.high / size_s), count)
    return [(tick * size_s, formatting.number(tick)) for tick in ticks]


def y_ticks(span: Span, count: int, *, is_log: bool, unit: Unit | None = None) -> list[tuple[float, str]]:
    """About `count` ticks of the y-axis, with their labels."""
    if not is_log:
        return [(tick, _y_label(tick, unit)) for tick in _nice(span, count)]
    low, high = math.log10(span.low), math.log10(span.high)
    if high - low < 1.5:
        ticks = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
    else:
        every = math.ceil((high - low) / count)
        ticks = [10.0**e for e in range(math.ceil(low), math.floor(high) + 1, every)]
    return [(tick, _y_label(tick, unit)) for tick in ticks if span.low <= tick <= span.high]


def _y_label(value: float, unit: Unit | None) -> str:
    """1.25; with a unit 50 %, 16.0 MB."""
    if unit is None or unit is Unit.COUNT:
        return formatting.number(value)
    is_size = unit in {Unit.BYTES, Unit.BYTES_PER_S}
    return formatting.figure(value, unit) if is_size else f"{formatting.number(value)} {unit.value}"


def _unit(span: Span) -> tuple[float, str]:
    return next((size, name) for least, size, name in _UNITS if span.high >= least or least == 0)


def _count(number: float) -> str:
    """500, 20k, 1.5M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(number) >= size:
            return f"{number / (1000 if unit == 'k' else size):g}{unit}"
    return f"{number:g}"


def _nice(span: Span, count: int, least: float = 0.0) -> list[float]:
    """About `count` round numbers in a range."""
    raw = max((span.high - span.low) / max(1, count), least, abs(span.high) * 1e-9)
    if raw < sys.float_info.min:  # subnormal numbers have too few digits
        return [span.low]
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in _STEPS if factor * power >= raw * 0.999)
    first = math.ceil(span.low / step)
    ticks = [(first + number) * step for number in range(count * 3 + 2)]
    return [tick for tick in ticks if tick <= span.high]
