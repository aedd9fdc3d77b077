"""A curve drawn with braille dots."""

import math
from collections.abc import Sequence

from backprop.query import Axis, Curve
from backprop.views import human

_MIN_WIDTH, _MIN_HEIGHT = 16, 4
_LINES_A_TICK = 4
_COLUMNS_A_TICK = 18


def chart(curve: Curve, width: int, height: int, *, is_log: bool) -> str:
    """The curve in so many columns and lines, with its axes; a sentence where there is nothing to draw.

    A value that is not finite (on a logarithmic scale: not positive) is a gap.
    """
    import plotext

    ys = [_level(value, is_log=is_log) for value in curve.ys]
    finite = [y for y in ys if not math.isnan(y)]
    if not finite:
        return "no finite values yet" if not is_log else "no positive values: press g for a linear scale"
    if width < _MIN_WIDTH or height < _MIN_HEIGHT:
        return f"last {human.number(curve.ys[-1])}"
    low, high = min(finite), max(finite)
    left, right = curve.xs[0], curve.xs[-1]
    # plotext gets numbers from 0 to 1: it would stumble over a range of 1e308 or of nothing
    plotext.clear_figure()
    plotext.limit_size(False, False)  # noqa: FBT003  its way to say: not to the terminal's size
    plotext.plotsize(width, height)
    plotext.theme("clear")
    plotext.plot([_share(x, left, right) for x in curve.xs], [_share(y, low, high) for y in ys], marker="braille")
    plotext.xlim(0, 1)
    plotext.ylim(0, 1)
    plotext.yticks(*_y_ticks(low, high, height, is_log=is_log))
    plotext.xticks(*_x_ticks(left, right, width, curve.axis))
    plotext.xaxes(True, False)  # noqa: FBT003  the lower one, not the upper
    plotext.yaxes(True, False)  # noqa: FBT003
    return str(plotext.uncolorize(plotext.build()))


def _level(value: float, *, is_log: bool) -> float:
    """Where a value lies on the scale; NaN when it has no place there."""
    if not math.isfinite(value) or (is_log and value <= 0):
        return math.nan
    return math.log10(value) if is_log else value


def _share(value: float, low: float, high: float) -> float:
    """How far a value lies between two others; halves keep a range of 1e308 finite."""
    span = high / 2 - low / 2
    return 0.5 if not span else (value / 2 - low / 2) / span


def _between(low: float, high: float, count: int) -> Sequence[tuple[float, float]]:
    """Places from 0 to 1 and the values there, evenly; one when the range is nothing."""
    if low == high:
        return [(0.5, low)]
    return [(n / (count - 1), low * (1 - n / (count - 1)) + high * (n / (count - 1))) for n in range(count)]


def _y_ticks(low: float, high: float, height: int, *, is_log: bool) -> tuple[list[float], list[str]]:
    ticks = _between(low, high, max(2, height // _LINES_A_TICK + 1))
    return [place for place, _ in ticks], [human.number(10**value if is_log else value) for _, value in ticks]


def _x_ticks(left: float, right: float, width: int, axis: Axis) -> tuple[list[float], list[str]]:
    ticks = _between(left, right, max(2, width // _COLUMNS_A_TICK + 1))
    if axis is Axis.TIME:
        return [place for place, _ in ticks], [human.duration(value) for _, value in ticks]
    return [place for place, _ in ticks], [f"{value:,.0f}" for _, value in ticks]
