"""Brings the output of one run's sessions into the index, each line once.

The supervisor reads while the trainer runs; commands that read do so for each run that the index may not have in full.
Both may work at once: see store/index.py.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from backprop.records import Checkpoint, Run, RunSpec, Session, Source
from backprop.store.index import Index, SourceSizes
from backprop.store.index_connection import IndexConnection
from backprop.store.journal import file as journals
from backprop.store.journal.entries import CheckpointMeasured, Entry
from backprop.store.journal.file import Journal
from backprop.store.output import protocol
from backprop.store.output.line_times import OffsetSample
from backprop.store.output.tail import READ_BYTES, LineBlock, Tail, size_bytes
from backprop.store.output_clocks import OutputClocks
from backprop.store.reported_checkpoints import ReportedCheckpoints
from backprop.store.usage import blocks as usage_blocks

_GROWTH = 3  # index and its log grow by at most so many bytes for a byte of output: 20 bytes a point, twice
_USAGE_GROWTH = 10_000  # and by so many for all that a run used: a row for each quantity


class IngestResult(NamedTuple):
    """What one call of `OutputIngest.ingest` read."""

    batches: tuple[protocol.Batch, ...] = ()  # empty: nothing new
    is_stored: bool = True  # False: the index could not take all of it; the next call reads it again
    is_behind: bool = False  # there is more to read already
    checkpoints: tuple[Checkpoint, ...] = ()  # reported in the batches, as they lie on disk


_NOT_STORED = IngestResult(is_stored=False)


class OutputIngest:
    """Reads the sources of all sessions of one run, from where the index has them."""

    def __init__(
        self,
        *,
        spec: RunSpec,
        journal: Journal,
        entries: Iterable[Entry],
        unread_sessions: int,
        connection: IndexConnection,
        read_run: Callable[[], Run],
        store_run: Callable[[], bool],
    ) -> None:
        """entries: those that were read of the journal, without those of the sessions up to `unread_sessions`.

        read_run: reads the run from the journal. store_run: puts it into the index; False when that failed.
        """
        self._rundir = connection.rundir
        self._spec = spec
        self._connection = connection
        self._read_run = read_run
        self._store_run = store_run
        self._unread_sessions = unread_sessions  # what the journal says of their output is read when it is needed
        self._has_told_of_closed = False
        self._opening = 0  # number of the connection that the following is true of
        self._comparison = 0  # counts how often the following was forgotten
        self._complete_before = 1  # the index has all output of the sessions before this one
        self._tails: dict[tuple[int, Source], Tail] = {}
        # bytes in the index when the sessions were last compared, and of all sessions before those
        self._stored = SourceSizes(1, {})
        self._stored_before = 0
        self._delivered: dict[tuple[int, Source], int] = {}  # bytes of each source that a supervisor was given
        self._clocks = OutputClocks(connection.rundir, journal, entries)
        self._reported = ReportedCheckpoints(spec, journal, entries, read_run)

    def look_for_checkpoints_in(self, folders: Callable[[], Sequence[str]]) -> None:
        """Look for checkpoints with a relative path in the folders that the processes of a living trainer are in.

        folders: called when one is reported.
        """
        self._reported.trainer_folders = folders

    def learn(self, entries: Iterable[Entry]) -> None:
        """Take over what other processes have measured. entries: new ones of the journal."""
        self._reported.learn(
            one for one in entries if isinstance(one, CheckpointMeasured) and one.session > self._unread_sessions
        )

    def ingest(
        self,
        session: int,
        at_s: float,
        sources: Iterable[Source] = tuple(Source),
        *,
        is_over: bool = False,
        is_supervisor: bool = False,
    ) -> IngestResult:
        """Read and store the next block of lines of each of these sources of a session.

        at_s: seconds that the session has been training so far, or trained in all.
        is_over: the trainer is gone, so that what follows the last newline is a line too.
        is_supervisor: the caller has polled since the session began: what is new was written since its last call.
        """
        if is_supervisor:  # whether or not it can be stored just now
            with suppress(OSError):  # of a disk that fails for a moment
                self._clocks.observe(session, at_s)
        return self._ingest_before(session) or self._ingest_sources(
            session, at_s, sources, is_over=is_over, is_supervisor=is_supervisor
        )

    def _ingest_before(self, session: int) -> IngestResult | None:
        """Store the next block of earlier sessions that the index lacks: points are kept in the order they are stored.

        None when the index has all of them.
        """
        unread = self._connection.attempt(lambda: self._unread_before(session), otherwise=None)
        if unread is None:
            return _NOT_STORED
        for earlier, sources in unread:
            result = self._ingest_sources(
                earlier.number, earlier.elapsed_s or 0.0, sources, is_over=True, is_supervisor=False
            )
            if result.batches or not result.is_stored:
                return IngestResult(is_stored=False, is_behind=result.is_stored)
        self._complete_before = max(session, self._complete_before)
        return None

    def sessions_to_read(self) -> list[Session]:
        """The sessions that the index may not have whole."""
        since = self._connection.attempt(lambda: self._index().whole_before(self._spec.id), otherwise=1)
        return list(self._read_run().sessions_since(since))

    def _unread_before(self, session: int) -> list[tuple[Session, list[Source]]] | None:
        self._index()
        if session <= self._complete_before:
            return []
        unread = self._unread(self.source_sizes())
        return unread and [one for one in unread if self._complete_before <= one[0].number < session]

    def _ingest_sources(
        self, session: int, at_s: float, sources: Iterable[Source], *, is_over: bool, is_supervisor: bool
    ) -> IngestResult:
        comparison, results = self._comparison, []
        for source in sources:
            # forgotten meanwhile, as another process stored more or began a new index: earlier sessions come first
            if self._comparison != comparison and self._ingest_before(session) is not None:
                break
            comparison = self._comparison
            read = partial(
                self._ingest_source, session, at_s, comparison, source, is_over=is_over, is_supervisor=is_supervisor
            )
            results.append(self._connection.attempt(read, _NOT_STORED))
        result = IngestResult(
            batches=tuple(batch for one in results for batch in one.batches),
            is_stored=all(one.is_stored for one in results),
            is_behind=any(one.is_behind for one in results),
            checkpoints=tuple(checkpoint for one in results for checkpoint in one.checkpoints),
        )
        if is_over and result.is_stored and not result.batches and session == self._complete_before:
            self._complete_before += 1
        return result

    def _ingest_source(
        self, session: int, at_s: float, comparison: int, source: Source, *, is_over: bool, is_supervisor: bool
    ) -> IngestResult:
        """Read and store the next block of one source. comparison: the number of that which found earlier sessions."""
        size = size_bytes(self._rundir.source_path(session, source))
        index = self._index()
        if self._comparison != comparison:  # replaced: the new one may lack the sessions before
            return IngestResult(is_stored=False, is_behind=True)
        tail = self._tail(index, session, source, is_supervisor=is_supervisor)
        block = tail.read(is_over=is_over)
        if block is None:
            return IngestResult()
        if session <= self._unread_sessions:
            self._read_all_entries()
        if source is Source.USAGE:
            if not is_supervisor and not self._connection.has_room(index, _USAGE_GROWTH):
                return _NOT_STORED
            return self._store_usage(index, session, tail, block)
        timeline = self._clocks.timeline(session, source, block.start)
        if not is_supervisor:
            timeline.add(OffsetSample(offset=size, since_s=0.0, until_s=at_s))
            # the supervisor must know what its trainer reports; commands that read leave the rest of the disk to others
            if not self._connection.has_room(index, _GROWTH * len(block.data)):
                return _NOT_STORED
        batch = protocol.digest(block.data, block.start)
        measured = self._reported.measured(session, source, batch)
        reported = tuple(checkpoint for _, checkpoint in measured)
        is_stored = index.add_output(
            self._spec.id,
            session,
            block.start,
            block.end,
            batch,
            measured,
            source,
            timeline=timeline,
            earlier_bytes=self._earlier_bytes(session),
        )
        self._delivered[session, source] = block.end
        if is_stored:
            tail.move_to(block.end)
            is_behind = len(block.data) > READ_BYTES // 2
            return IngestResult((batch,), is_behind=is_behind, checkpoints=reported)
        return IngestResult((batch,), self._is_known_elsewhere(index), checkpoints=reported)

    def _read_all_entries(self) -> None:
        """Learn what the journal says of the output of sessions that were folded before this object was made."""
        entries, _ = journals.read(self._rundir.journal_path)
        self._clocks.learn(entries)
        self._reported.learn(entries)
        self._unread_sessions = 0

    def _store_usage(self, index: Index, session: int, tail: Tail, block: LineBlock) -> IngestResult:
        """Store what a block of what the supervisor measured adds up to."""
        totals, earlier_bytes = usage_blocks.totals(block.data), self._earlier_bytes(session)
        if index.add_usage(self._spec.id, session, block.start, block.end, totals, earlier_bytes=earlier_bytes):
            tail.move_to(block.end)
            return IngestResult((protocol.Batch(),))
        return IngestResult((protocol.Batch(),), self._is_known_elsewhere(index))

    def _is_known_elsewhere(self, index: Index) -> bool:
        """Another process stored a block first, or the index is new: then it is given this run. False if it cannot."""
        self._forget_index()
        return index.journal_size(self._spec.id) is not None or self._store_run()

    def _tail(self, index: Index, session: int, source: Source, *, is_supervisor: bool) -> Tail:
        """Where to read on. A supervisor reads all of it, also what another process has stored already."""
        key = (session, source)
        if key not in self._tails:
            offset = index.offset(self._spec.id, session, source)
            if is_supervisor:
                offset = min(offset, self._delivered.get(key, 0))
            self._tails[key] = Tail(self._rundir.source_path(session, source), offset)
        return self._tails[key]

    def _earlier_bytes(self, session: int) -> int | None:
        """How many bytes of the earlier sessions the index must have; None for a session of which it has all."""
        since = self._stored.since
        if session < since:
            return None
        known = {**self._stored.bytes, **{key: tail.offset for key, tail in self._tails.items()}}
        return self._stored_before + sum(size for (number, _), size in known.items() if since <= number < session)

    def ingest_all(self, sizes: SourceSizes | None = None) -> bool:
        """Store all output of all sessions; for a run whose trainer is gone. False when that must be tried again.

        sizes: where the caller has just looked.
        """
        unread = self._connection.attempt(lambda: self._unread(sizes or self.source_sizes()), otherwise=None)
        if unread is None:
            return False
        for session, sources in unread:
            while True:
                result = self.ingest(session.number, session.elapsed_s or 0.0, sources, is_over=True)
                if not result.is_stored:
                    return False
                if not result.batches:
                    break
        return True

    def is_stored(self, sizes: SourceSizes) -> bool:
        """Whether the index still has what was stored: it may have been emptied or replaced since."""
        return self._connection.attempt(lambda: self._index().has_output(self._spec.id, sizes), otherwise=False)

    def source_sizes(self) -> SourceSizes:
        """Bytes of each source of the sessions that the index may not have whole. Says which are not to be read.

        Raises as `IndexConnection.open`.
        """
        since = self._index().whole_before(self._spec.id)
        numbers = [session.number for session in self._read_run().sessions_since(since)]
        closed: list[str] = []
        sizes = self._rundir.source_sizes(numbers, closed)
        if closed and not self._has_told_of_closed:
            self._has_told_of_closed = True
            self._connection.say(
                f"warning: run {self._spec.id} is shown without what is in {', '.join(sorted(closed))}: "
                f"another user owns it. To change that, as root: chown -R {os.geteuid()} {self._rundir.path}"
            )
        return SourceSizes(since, sizes)

    def _unread(self, sizes: SourceSizes) -> list[tuple[Session, list[Source]]] | None:
        """The sessions and their sources that the index lacks output of. Raises as `IndexConnection.open`.

        None when the index has lost the run since `sizes` were looked up: it lacks earlier sessions, too.
        """
        index, since = self._index(), sizes.since
        self._stored = stored = SourceSizes(since, index.offsets(self._spec.id, since))
        self._stored_before = index.stored_bytes(self._spec.id, before_session=since)
        if index.whole_before(self._spec.id) < since:
            self._forget_index()
            return None
        behind: dict[int, list[Source]] = {}
        for (number, source), size in sizes.bytes.items():
            if size > stored.bytes.get((number, source), 0):
                behind.setdefault(number, []).append(source)
        sessions = self._read_run().sessions_since(since) if behind else ()
        return [(session, behind[session.number]) for session in sessions if session.number in behind]

    def _index(self) -> Index:
        """The index. Raises as `IndexConnection.open`."""
        index = self._connection.open()
        if self._connection.openings != self._opening:
            self._opening = self._connection.openings
            self._forget_index()
        return index

    def _forget_index(self) -> None:
        """The index was replaced, or another process has stored more: compare again what it has."""
        self._comparison += 1
        self._tails.clear()
        self._stored, self._stored_before = SourceSizes(1, {}), 0
        self._complete_before = 1
