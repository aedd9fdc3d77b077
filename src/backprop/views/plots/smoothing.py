"""Smoothing of curves. A non-finite value is kept, and not averaged."""

import math
from array import array
from collections import deque
from collections.abc import Sequence


def smoothed(values: Sequence[float], how: float) -> "array[float]":
    """The values, smoothed.

    how: below 1, the weight of what came before in an exponential average; else a number of points to take the mean of.
    """
    return _exponential(values, how) if how < 1 else _mean(values, int(how))


def _exponential(values: Sequence[float], weight: float) -> "array[float]":
    """As in TensorBoard: without bias to the start."""
    total = share = 0.0
    found = array("d")
    for value in values:
        if math.isfinite(value):
            total = total * weight + value * (1 - weight)
            share = share * weight + (1 - weight)
            found.append(total / share)
        else:
            found.append(value)
    return found


def _mean(values: Sequence[float], count: int) -> "array[float]":
    """The mean of the last `count` finite values."""
    window: deque[float] = deque(maxlen=count)
    found = array("d")
    for value in values:
        if math.isfinite(value):
            window.append(value)
            found.append(math.fsum(part / len(window) for part in window))
        else:
            found.append(value)
    return found
