"""Summaries of stretches of a curve: minimum, maximum, last value, number of points that are not finite.

The index keeps one for every chunk of points and one for the whole metric, so that charts of ten million points and
best values are made without reading a point.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class ChunkSummary(NamedTuple):
    """Summary of a stretch of one metric: the columns of the tables `metrics` and `outlines`, in this order.

    NaN and infinities count as missing, and are never `least` or `greatest`. `last` may be one; NaN is stored as None.
    Times are seconds of training since the session began.
    """

    total: int  # points
    missing: int
    low_step: float
    high_step: float
    first_s: float
    last_s: float
    last: float | None
    last_step: float
    least: float | None = None  # None: no point is finite
    least_step: float | None = None
    least_s: float | None = None
    greatest: float | None = None
    greatest_step: float | None = None
    greatest_s: float | None = None

    def joined(self, later: "ChunkSummary") -> "ChunkSummary":
        """The summary of this stretch and the one after it together."""
        lower = self if later.least is None or (self.least is not None and self.least <= later.least) else later
        higher = (
            self if later.greatest is None or (self.greatest is not None and self.greatest >= later.greatest) else later
        )
        return ChunkSummary(
            total=self.total + later.total,
            missing=self.missing + later.missing,
            low_step=min(self.low_step, later.low_step),
            high_step=max(self.high_step, later.high_step),
            first_s=self.first_s,
            last_s=later.last_s,
            last=later.last,
            last_step=later.last_step,
            least=lower.least,
            least_step=lower.least_step,
            least_s=lower.least_s,
            greatest=higher.greatest,
            greatest_step=higher.greatest_step,
            greatest_s=higher.greatest_s,
        )


def outline(steps: Sequence[float], values: Sequence[float], times: Sequence[float]) -> ChunkSummary:
    """The summary of points in the order they were written. steps, values, times: shape (points,), not empty."""
    last = values[-1]
    summary = ChunkSummary(
        total=len(values),
        missing=0,
        low_step=min(steps),
        high_step=max(steps),
        first_s=times[0],
        last_s=times[-1],
        last=None if math.isnan(last) else last,
        last_step=steps[-1],
    )
    finite: Sequence[float] = values
    if not math.isfinite(sum(values)):  # rarely: then look closer; the sum of huge numbers may overflow, too
        finite = [value for value in values if math.isfinite(value)]
        summary = summary._replace(missing=len(values) - len(finite))
        if not finite:
            return summary
    least, greatest = min(finite), max(finite)
    low, high = values.index(least), values.index(greatest)
    return summary._replace(
        least=least,
        least_step=steps[low],
        least_s=times[low],
        greatest=greatest,
        greatest_step=steps[high],
        greatest_s=times[high],
    )
