"""Mean and spread of the curves of several runs."""

import math
import statistics
from bisect import bisect_left
from collections.abc import Iterator, Sequence

from backprop.records import Record
from backprop.store.curves import Curve

_GRID = 300  # points, where the runs were not measured at the same x


class Band(Record, frozen=True):
    """The mean of some curves, and one standard deviation (of the sample) around it. All lists have the same length."""

    xs: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    runs: list[int]  # that have a value there


def band(found: Sequence[Curve]) -> Band:
    """Mean and spread at each x; between two points of a run its line counts, beyond its ends nothing of it.

    Values that are not finite are left out.
    """
    lines = [line for curve in found if (line := _finite(curve))]
    means, lows, highs, counts, xs = [], [], [], [], []
    for x in _places(lines):
        values = [value for line in lines if (value := _at(line, x)) is not None]
        if not values:
            continue
        mean = statistics.fmean(values)
        deviation = statistics.stdev(values, mean) if len(values) > 1 else 0.0
        xs.append(x)
        means.append(mean)
        lows.append(mean - deviation)
        highs.append(mean + deviation)
        counts.append(len(values))
    return Band(xs=xs, mean=means, low=lows, high=highs, runs=counts)


_Line = list[tuple[float, float]]


def _finite(curve: Curve) -> _Line:
    points = {x: y for x, y in zip(curve.xs, curve.ys, strict=True) if math.isfinite(y)}  # of one x the last
    return sorted(points.items())


def _places(lines: Sequence[_Line]) -> Iterator[float]:
    """Where all runs were measured, if that is the same everywhere, else evenly between their ends."""
    if not lines:
        return
    first = [x for x, _ in lines[0]]
    if all([x for x, _ in line] == first for line in lines[1:]):
        yield from first
        return
    low, high = min(line[0][0] for line in lines), max(line[-1][0] for line in lines)
    for place in range(_GRID + 1):
        yield low + (high - low) * place / _GRID


def _at(line: _Line, x: float) -> float | None:
    place = bisect_left(line, (x,))
    if place < len(line) and line[place][0] == x:
        return line[place][1]
    if place in {0, len(line)}:
        return None
    (x0, y0), (x1, y1) = line[place - 1], line[place]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
