"""A curve in one line of text."""

import math
from collections.abc import Sequence

_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII = "_.-'"
_LOGARITHMIC_FROM = 100.0  # a loss that falls by this factor would otherwise be one step and a flat line


def sparkline(values: Sequence[float], *, has_blocks: bool = True) -> str:
    """One character per value, from the least to the greatest; a non-finite value is a space.

    Logarithmic if all values are positive and differ by more than a factor of 100.
    """
    levels = _BLOCKS if has_blocks else _ASCII
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return " " * len(values)
    least, greatest = min(finite), max(finite)
    if least > 0 and greatest / least > _LOGARITHMIC_FROM:
        values = [math.log(value) if math.isfinite(value) else value for value in values]
        least, greatest = math.log(least), math.log(greatest)
    # halves: the difference of two huge numbers may overflow
    half = greatest / 2 - least / 2
    top = len(levels) - 1
    return "".join(
        " "
        if not math.isfinite(value)
        else levels[round((value / 2 - least / 2) / half * top) if half > 0 else top // 2]
        for value in values
    )
