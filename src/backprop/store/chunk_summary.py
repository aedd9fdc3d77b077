"""What a stretch of a curve comes to: its extremes, its last value, how much of it is not finite.

The index keeps one for every chunk of points and one for the whole metric, so that ten million points are drawn, and
the best value is told, without reading them.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class ChunkSummary(NamedTuple):
    """A stretch of one metric. The columns of the tables `metrics` and `outlines`, in their order.

    NaN and infinities count as missing: they are no extremes. `last` may be one of them; NaN is None.
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
    least: float | None = None  # None: all of it is missing
    least_step: float | None = None
    least_s: float | None = None
    greatest: float | None = None
    greatest_step: float | None = None
    greatest_s: float | None = None

    def joined(self, later: "ChunkSummary") -> "ChunkSummary":
        """The outline of this stretch and the one that follows it."""
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
    """The outline of some points: arrays of the same length, at least 1, in the order they were written."""
    last = values[-1]
    told = ChunkSummary(
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
        told = told._replace(missing=len(values) - len(finite))
        if not finite:
            return told
    least, greatest = min(finite), max(finite)
    low, high = values.index(least), values.index(greatest)
    return told._replace(
        least=least,
        least_step=steps[low],
        least_s=times[low],
        greatest=greatest,
        greatest_step=steps[high],
        greatest_s=times[high],
    )
