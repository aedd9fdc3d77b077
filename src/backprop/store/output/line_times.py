"""When a trainer wrote what: from how far its output had got at which time.

A line of output carries no time. The supervisor notes how long the output was, and when; what lies between
two notes is taken as written evenly. The supervisor's notes are in the journal, so that a rebuilt index knows them.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from backprop.records import StoredRecord

_FINEST_S = 1.0  # notes are at least so far apart
_RELATIVE = 0.01  # and further in a long session: a day needs some 500 of them
_MAX_FRESH = 1000  # looks that are kept while nothing can be stored


class OffsetSample(StoredRecord, frozen=True):
    """Output grew to `offset` between two instants, in seconds of training since the session began."""

    offset: int  # bytes from the beginning of the session's source
    since_s: float
    until_s: float


class Timeline:
    """The growth of one source of a session."""

    def __init__(self, growths: Iterable[OffsetSample] = ()) -> None:
        self._offsets: list[int] = [0]
        self._seconds: list[float] = [0.0]
        for growth in growths:
            self.add(growth)

    def add(self, growth: OffsetSample) -> None:
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


class OffsetClock:
    """What was seen of the growth of one source of a session: every look while it matters, and notes of all.

    The notes are few enough to be kept, and close enough to date a line within one percent.
    """

    def __init__(self, notes: Iterable[OffsetSample] = ()) -> None:
        """notes: those of the journal."""
        self._notes = list(notes)
        self._fresh: list[OffsetSample] = []  # finer: how it has grown beyond `_fresh_from`
        self._fresh_from = self._size = self._notes[-1].offset if self._notes else 0
        self._looked_s = self._noted_s = self._notes[-1].until_s if self._notes else 0.0
        self._pending: OffsetSample | None = None  # the next note

    def looked(self, at_s: float, size: int) -> OffsetSample | None:
        """The source was so long at this time. Gives the note that is due, if one is."""
        since_s, self._looked_s = self._looked_s, at_s
        if size > self._size:
            self._size = size
            seen = OffsetSample(offset=size, since_s=since_s, until_s=at_s)
            self._fresh.append(seen)
            first = self._pending or seen
            self._pending = OffsetSample(offset=size, since_s=first.since_s, until_s=at_s)
            if len(self._fresh) > _MAX_FRESH:
                self.forget(self._fresh[_MAX_FRESH // 2].offset)
        due = self._pending if at_s - self._noted_s >= max(_FINEST_S, _RELATIVE * self._noted_s) else None
        if due is not None:
            self._notes.append(due)
            self._noted_s, self._pending = at_s, None
        return due

    def forget(self, offset: int) -> None:
        """Notes will do for what comes before: it has been stored with its times."""
        count = bisect_right(self._fresh, offset, key=lambda growth: growth.offset)
        if count:
            self._fresh_from = self._fresh[count - 1].offset
            del self._fresh[:count]

    def timeline(self, start: int) -> Timeline:
        """When what follows `start` was written."""
        timeline = Timeline()
        if start < self._fresh_from:  # it is read again, for an index that has lost it; or has waited for long
            timeline = Timeline(note for note in self._notes if note.offset <= self._fresh_from)
        begun_s = self._fresh[0].since_s if self._fresh else self._looked_s
        timeline.add(OffsetSample(offset=self._fresh_from, since_s=0.0, until_s=begun_s))
        for growth in self._fresh:
            timeline.add(growth)
        return timeline
