"""When a trainer wrote what: from how far its output had got at which time.

A line of output carries no time. Whoever watches a session notes how long the output was, and when; what lies between
two notes is taken as written evenly. The supervisor's notes are in the journal, so that a rebuilt index knows them.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable

from backprop.records import Record

_FINEST_S = 1.0  # notes are at least so far apart
_RELATIVE = 0.01  # and further in a long session: a day needs some 500 of them


class Growth(Record, frozen=True):
    """Output grew to `offset` between two instants, in seconds of training since the session began."""

    offset: int  # bytes from the beginning of the session's source
    since_s: float
    until_s: float


class Timeline:
    """The growth of one source of a session."""

    def __init__(self, growths: Iterable[Growth] = ()) -> None:
        self._offsets: list[int] = [0]
        self._seconds: list[float] = [0.0]
        for growth in growths:
            self.add(growth)

    def add(self, growth: Growth) -> None:
        """What comes next. Time that goes back is taken as standing still."""
        since_s = max(growth.since_s, self._seconds[-1])
        if growth.offset > self._offsets[-1]:
            self._offsets += (self._offsets[-1], growth.offset)
            self._seconds += (since_s, max(since_s, growth.until_s))

    def seconds(self, ends: Iterable[int]) -> "array[float]":
        """When the lines that end at these offsets were written, in seconds since the session began; float32."""
        offsets, seconds = self._offsets, self._seconds
        times = array("f")
        right = 0
        for end in ends:  # ascending, so that the search hardly ever has to
            if right == 0 or not offsets[right - 1] < end <= offsets[right]:
                right = bisect_left(offsets, end)
                if right == len(offsets):  # beyond what was noted: as late as the last note
                    times.append(seconds[-1])
                    right = 0
                    continue
            if right == 0:
                times.append(seconds[0])
                continue
            left = right - 1
            share = (end - offsets[left]) / (offsets[right] - offsets[left])
            times.append(seconds[left] + share * (seconds[right] - seconds[left]))
        return times


class Witness:
    """Turns a supervisor's looks into notes: few enough to be kept, close enough to date a line within one percent."""

    def __init__(self) -> None:
        self._looked_s = 0.0
        self._noted_s = 0.0
        self._pending: Growth | None = None

    def looked(self, at_s: float, offset: int | None) -> tuple[Growth | None, Growth | None]:
        """The growth that this look saw, and the note that is due; None each where there is none.

        offset: to where the output was read; None when there was nothing new.
        """
        since_s, self._looked_s = self._looked_s, at_s
        seen = None
        if offset is not None:
            seen = Growth(offset=offset, since_s=since_s, until_s=at_s)
            first = self._pending or seen
            self._pending = Growth(offset=offset, since_s=first.since_s, until_s=at_s)
        due = self._pending if at_s - self._noted_s >= max(_FINEST_S, _RELATIVE * self._noted_s) else None
        if due is not None:
            self._noted_s, self._pending = at_s, None
        return seen, due
