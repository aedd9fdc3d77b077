"""Observes how a session's output grows while it runs, so that lines can be dated and `logs` can merge two streams.

Called by the supervisor several times a second. The samples go into the journal, and into session-N.order.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timezone

from backprop.records import Source
from backprop.store.journal.entries import Entry, OutputSeen
from backprop.store.journal.file import Journal
from backprop.store.output.line_times import OffsetClock, OffsetSample, Timeline
from backprop.store.output.tail import size_bytes
from backprop.store.output_order import OrderNotes
from backprop.store.rundir import RunDir

_UNDATED = tuple(source for source in Source if source is not Source.USAGE)  # its lines have their times in them


class OutputClocks:
    """One clock for each source of each session of a run."""

    def __init__(self, rundir: RunDir, journal: Journal, entries: Iterable[Entry]) -> None:
        """entries: those already in the journal."""
        self._rundir = rundir
        self._journal = journal
        self._clocks: dict[tuple[int, Source], OffsetClock] = {}
        self.learn(entries)
        self._order: tuple[int, OrderNotes] | None = None  # of the session that was observed last

    def learn(self, entries: Iterable[Entry]) -> None:
        """Add the clocks of sessions that have none yet. entries: all that the journal has of these."""
        samples: dict[tuple[int, Source], list[OffsetSample]] = defaultdict(list)
        for entry in entries:
            if isinstance(entry, OutputSeen):
                samples[entry.session, entry.source].append(entry.growth)
        self._clocks = {key: OffsetClock(growths) for key, growths in samples.items()} | self._clocks

    def timeline(self, session: int, source: Source, start: int) -> Timeline:
        """When the output from `start` on was written. What lies before has been stored, and need not be kept fine."""
        clock = self._clock(session, source)
        clock.forget(start)
        return clock.timeline(start)

    def _clock(self, session: int, source: Source) -> OffsetClock:
        return self._clocks.setdefault((session, source), OffsetClock())

    def observe(self, session: int, at_s: float) -> None:
        """Note how long each source is now, in the journal when a sample is due. at_s: seconds of training."""
        for source in _UNDATED:
            size = size_bytes(self._rundir.source_path(session, source))
            due = self._clock(session, source).looked(at_s, size)
            if due is not None:
                now = datetime.now(timezone.utc)
                self._journal.append(OutputSeen(at=now, session=session, source=source, growth=due))
        if self._order is None or self._order[0] != session:
            self._order = session, OrderNotes(self._rundir.order_path(session))
        out_bytes, err_bytes = size_bytes(self._rundir.out_path(session)), size_bytes(self._rundir.err_path(session))
        self._order[1].look(at_s, out_bytes, err_bytes)
