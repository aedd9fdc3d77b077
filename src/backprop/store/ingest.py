"""Brings one run's journal and trainer output into the index, and keeps experiments.json in step with it.

The supervisor has a recorder while the trainer runs; commands that read use another for each run that the index may
not have in full. Both may work at once: see store/index.py. The index is a cache: a full disk or a busy database
delays what views show, never training.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from backprop.records import Checkpoint, Run, RunSpec, RunView, Session, Source, Usage
from backprop.store import annotations, experiments_json
from backprop.store.home import Home, HomeBusyError
from backprop.store.index import Index, SourceSizes, open_index, reopen_if_replaced, set_aside_if_damaged
from backprop.store.journal import file as journals
from backprop.store.journal.file import Journal
from backprop.store.journal.fold import RunReader, fold_on
from backprop.store.output import protocol
from backprop.store.output.line_times import OffsetSample
from backprop.store.output.tail import READ_BYTES, LineBlock, Tail, size_bytes
from backprop.store.output_clocks import OutputClocks
from backprop.store.reported_checkpoints import ReportedCheckpoints
from backprop.store.rundir import RunDir
from backprop.store.usage import blocks as usage_blocks

SUPERVISOR_BUSY_TIMEOUT_S = 0.2  # a supervisor that waits for the database cannot climb the stop ladder
VIEWER_BUSY_TIMEOUT_S = 10.0
Say = Callable[[str], None]
Changed = Callable[[Run, int], None]

WHOLE_PATIENCE_S = 10.0  # how long a resume may wait for the index to be filled
_GROWTH = 3  # index and its log grow by at most so many bytes for a byte of output: 20 bytes a point, twice
_LATE = 10  # sessions whose output is looked at again, though it was stored to its end: a copy of it may have been late
_USAGE_GROWTH = 10_000  # and by so many for all that a run used: a row for each quantity
# errors of a cache that lose nothing: the same is tried again at the next call, or by the next command that reads
_TRY_LATER = (sqlite3.OperationalError, OSError, HomeBusyError)
_T = TypeVar("_T")


class IngestResult(NamedTuple):
    """What one call of `Recorder.ingest` read."""

    batches: tuple[protocol.Batch, ...] = ()  # empty: nothing new
    is_stored: bool = True  # False: the index could not take all of it; the next call reads it again
    is_behind: bool = False  # there is more to read already
    checkpoints: tuple[Checkpoint, ...] = ()  # reported in the batches, as they lie on disk


_NOT_STORED = IngestResult(is_stored=False)


class _IndexConnection:
    """The index of a run's home: opened when it is first needed, and again when its file is deleted or replaced."""

    def __init__(self, home: Home, rundir: RunDir, say: Say, on_open: Callable[[], None]) -> None:
        """on_open: called whenever another file may have taken the place of the one before."""
        self._home = home
        self._rundir = rundir
        self._say = say
        self._on_open = on_open
        self._index: Index | None = None
        self._is_borrowed = False
        self.openings = 0  # so that a caller sees that the file was replaced between two calls

    def borrow(self, index: Index) -> None:
        self._index = index
        self._is_borrowed = True

    def give_back(self) -> None:
        self._index = None
        self._is_borrowed = False

    def open(self) -> Index:
        """The index. Raises FileNotFoundError when the run was removed, else as `open_index`."""
        if (self._index is None or self._index.is_replaced()) and not self._rundir.path.exists():
            raise FileNotFoundError(self._rundir.path)  # a removed run must not be put into a new index
        if self._index is None:
            self._index = open_index(self._home, SUPERVISOR_BUSY_TIMEOUT_S, self._say)
        elif not reopen_if_replaced(self._home, self._index, self._say):
            return self._index
        self.openings += 1
        self._on_open()
        return self._index

    def attempt(self, action: Callable[[], _T], otherwise: _T) -> _T:
        """What `action` returns; `otherwise` when the index cannot be used now. A damaged one is set aside."""
        try:
            return action()
        except _TRY_LATER:
            return otherwise
        except sqlite3.DatabaseError as error:
            self.give_up(error)
            return otherwise

    def give_up(self, error: sqlite3.DatabaseError) -> None:
        """Set a damaged file aside, so that the next `open` creates another."""
        if self._index is not None:
            set_aside_if_damaged(self._home, self._index, error, self._say)
            self.close()

    def close(self) -> None:
        if self._index is not None and not self._is_borrowed:
            self._index.close()
            self._index = None


class Recorder:
    """Records one run. Not safe for use from several threads."""

    def __init__(
        self,
        home: Home,
        rundir: RunDir,
        spec: RunSpec,
        journal: Journal,
        say: Say,
        changed: Changed | None = None,
        reader: RunReader | None = None,
    ) -> None:
        """changed: called with the run and the size of its journal when its state is to be published.

        reader: of the same journal, which may have been read already.
        """
        self._changed = changed
        self._home = home
        self._rundir = rundir
        self._spec = spec
        self._journal = journal
        self._say = say
        self._connection = _IndexConnection(home, rundir, say, self._forget_index)
        self._reader = RunReader(rundir.journal_path, spec) if reader is None else reader
        self._is_on_slurm = spec.slurm is not None  # as far as the journal was read
        self._snapshot_is_due = False
        self._has_told_of_closed = False
        self._recorded_bytes = 0  # of the journal
        self._annotated = 0  # stamp of the annotations that are recorded
        self._is_over = False  # as far as it is recorded
        self.is_state_stored = False  # in the index, at the last try
        self._complete_before = 1  # the index has all output of the sessions before this one
        self._tails: dict[tuple[int, Source], Tail] = {}
        self._delivered: dict[tuple[int, Source], int] = {}  # bytes of each source that a supervisor was given
        # bytes in the index when the sessions were last compared, and of all sessions before those
        self._stored = SourceSizes(1, {})
        self._stored_before = 0
        # what the journal says of the output of these sessions is read when it is needed
        self._unread_sessions = 0 if reader is None else self.read_run()[0].newest_number
        entries = self._reader.read_new()
        self._clocks = OutputClocks(rundir, journal, entries)
        self._reported = ReportedCheckpoints(spec, journal, entries, lambda: self.read_run()[0])

    def use(self, index: Index) -> "Recorder":
        """Use a connection that the caller opened and will close.

        When the file was replaced, the same object connects to the new one.
        """
        self._connection.borrow(index)
        return self

    def give_back(self) -> None:
        """Use a connection of our own again."""
        self._connection.give_back()

    def look_for_checkpoints_in(self, folders: Callable[[], Sequence[str]]) -> None:
        """Look for checkpoints with a relative path in the folders that the processes of a living trainer are in.

        folders: called when one is reported.
        """
        self._reported.trainer_folders = folders

    def close(self) -> None:
        """Close the connection, unless it is the caller's."""
        self._connection.close()

    def _forget_index(self) -> None:
        """The index was replaced, or another process has stored more: compare again what it has."""
        self._tails.clear()
        self._stored, self._stored_before = SourceSizes(1, {}), 0
        self._complete_before = 1

    def read_run(self) -> tuple[Run, int]:
        """The run as its journal has it, with entries that a full disk kept out; and the journal's size in bytes."""
        run, size = self._reader.read()
        run = fold_on(run, self._journal.unwritten)
        self._is_on_slurm = run.is_on_slurm
        return run, size

    def begin(self) -> None:
        """Mark the run for refresh, so that the next command reads it again even if we are killed. Raises OSError.

        Call it again once the journal has the start: another machine may have reconciled the run in between.
        """
        self._home.mark_for_refresh(self._spec.id)

    def record_state(self, *, publish: bool, reason: str | None = None) -> bool:
        """Store the run's state; with `publish`, in experiments.json too. False when that must be tried again.

        reason: of its state, when the caller knows more than the journal.
        """
        self._snapshot_is_due |= publish
        self.is_state_stored = False
        return self._connection.attempt(lambda: self._record_state(publish=publish, reason=reason), otherwise=False)

    def _record_state(self, *, publish: bool, reason: str | None) -> bool:
        run, size = self.read_run()
        if publish and self._changed is not None:
            self._changed(run, size)
        if reason is not None:
            run = msgspec.structs.replace(run, reason=reason)
        index = self._connection.open()
        is_exact = reason is None and not self._journal.unwritten
        index.put_run(run, size, self._reader.checksum if is_exact else lambda *_: None)
        self._record_annotations(index)
        self._recorded_bytes, self._is_over = size, run.status.is_final and not self._journal.unwritten
        self.is_state_stored = True
        if self._snapshot_is_due:
            experiments_json.put(self._home, index, self._spec.id, self._say)
            self._snapshot_is_due = False
        return True

    def _record_annotations(self, index: Index) -> None:
        """Store what users say about the run, where its folder has other files than the index knows.

        Never over what another process has stored meanwhile: it may have seen more.
        """
        is_stored = False
        while not is_stored:
            known = index.annotations_stamp(self._spec.id)  # first: then what is listed is no less
            names = annotations.names(self._rundir)
            self._annotated = annotations.stamp(names)
            is_stored = known == self._annotated or index.put_annotations(
                self._spec.id, known, self._annotated, annotations.read(self._rundir, names, self._say)
            )

    def ingest(self, session: int, at_s: float, *, is_over: bool = False, is_supervisor: bool = False) -> IngestResult:
        """Read and store the next block of lines of each of a session's sources.

        at_s: seconds that the session has been training so far, or trained in all.
        is_over: the trainer is gone, so that what follows the last newline is a line too.
        is_supervisor: the caller has polled since the session began: what is new was written since its last call.
        """
        if is_supervisor:  # whether or not it can be stored just now
            with suppress(OSError):  # of a disk that fails for a moment
                self._clocks.observe(session, at_s)
        return self._ingest_before(session) or self._ingest_all(
            session, at_s, is_over=is_over, is_supervisor=is_supervisor
        )

    def _ingest_before(self, session: int) -> IngestResult | None:
        """Store the next block of earlier sessions that the index lacks: points are kept in the order they are stored.

        None when the index has all of them.
        """
        unread = self._connection.attempt(lambda: self._unread_before(session), otherwise=None)
        if unread is None:
            return _NOT_STORED
        for earlier in unread:
            result = self._ingest_all(earlier.number, earlier.elapsed_s or 0.0, is_over=True, is_supervisor=False)
            if result.batches or not result.is_stored:
                return IngestResult(is_stored=False, is_behind=result.is_stored)
        self._complete_before = max(session, self._complete_before)
        return None

    def sessions_to_read(self) -> list[Session]:
        """The sessions that the index may not have whole."""
        since = self._connection.attempt(lambda: self._connection.open().whole_before(self._spec.id), otherwise=1)
        return list(self.read_run()[0].sessions_since(since))

    def _unread_before(self, session: int) -> list[Session]:
        self._connection.open()
        if session <= self._complete_before:
            return []
        unread = self._unread(self._source_sizes())
        return [one for one in unread if self._complete_before <= one.number < session]

    def _ingest_all(self, session: int, at_s: float, *, is_over: bool, is_supervisor: bool) -> IngestResult:
        opening = self._connection.openings
        read = partial(self._ingest_source, session, at_s, opening, is_over=is_over, is_supervisor=is_supervisor)
        results = [self._connection.attempt(partial(read, source), _NOT_STORED) for source in Source]
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
        self, session: int, at_s: float, opening: int, source: Source, *, is_over: bool, is_supervisor: bool
    ) -> IngestResult:
        """Read and store the next block of one source. opening: number of the connection that has earlier sessions."""
        size = size_bytes(self._rundir.source_path(session, source))
        index = self._connection.open()
        if self._connection.openings != opening:  # replaced: the new one may lack the sessions before
            return IngestResult(is_stored=False, is_behind=True)
        tail = self._tail(index, session, source, is_supervisor=is_supervisor)
        block = tail.read(is_over=is_over)
        if block is None:
            return IngestResult()
        if session <= self._unread_sessions:
            self._read_all_entries()
        if source is Source.USAGE:
            if not is_supervisor and not self._has_room(index, _USAGE_GROWTH):
                return _NOT_STORED
            return self._store_usage(index, session, tail, block)
        timeline = self._clocks.timeline(session, source, block.start)
        if not is_supervisor:
            timeline.add(OffsetSample(offset=size, since_s=0.0, until_s=at_s))
            # the supervisor must know what its trainer reports; commands that read leave the rest of the disk to others
            if not self._has_room(index, _GROWTH * len(block.data)):
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

    def _has_room(self, index: Index, size_bytes: int) -> bool:
        """Whether the index may grow by so much."""
        return index.is_in_memory or self._home.has_room(size_bytes)

    def _is_known_elsewhere(self, index: Index) -> bool:
        """Another process stored a block first, or the index is new: then it is given this run. False if it cannot."""
        self._forget_index()
        return index.journal_size(self._spec.id) is not None or self.record_state(publish=False)

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

    def record_output(self, sizes: SourceSizes | None = None) -> bool:
        """Store all output of all sessions; for a run whose trainer is gone. False when that must be tried again.

        sizes: where the caller has just looked.
        """
        unread = self._connection.attempt(lambda: self._unread(sizes or self._source_sizes()), otherwise=None)
        if unread is None:
            return False
        for session in unread:
            while True:
                result = self.ingest(session.number, session.elapsed_s or 0.0, is_over=True)
                if not result.is_stored:
                    return False
                if not result.batches:
                    break
        return True

    def finish(self, *, publish: bool = True) -> bool:
        """Store all there is of a run that has ended; with `publish`, update experiments.json, too.

        False when the next command must try again; also when the journal lacks the end because the disk was full.
        """
        self.record_state(publish=False)  # first: there may be no room for the curves
        sizes = self._connection.attempt(self._source_sizes, otherwise=None)
        if sizes is None:
            return False
        has_output = self.record_output(sizes)
        is_stored = self.record_state(publish=True) if publish else self.is_state_stored
        is_complete = is_stored and has_output and self._is_over
        if not (is_complete and self._set_whole(sizes, is_published=publish)):
            return False
        with suppress(OSError):  # then the next command reads the run again, and finds nothing new
            self._home.mark_refreshed(self._spec.id)
            if self._has_news():  # the marker just removed may be of those
                self._home.mark_here(self._spec.id)
                return False
        return True

    def _has_news(self) -> bool:
        """Whether a job has started something, or a user has annotated the run, and that is not recorded yet."""
        try:
            if annotations.stamp(annotations.names(self._rundir)) != self._annotated:
                return True
            return self._is_on_slurm and _size_at_server(self._rundir.journal_path) != self._recorded_bytes
        except OSError:  # not known
            return True

    def _source_sizes(self) -> SourceSizes:
        """Bytes of each source of the sessions that the index may not have whole. Says which are not to be read.

        Raises as `_IndexConnection.open`.
        """
        since = self._connection.open().whole_before(self._spec.id)
        numbers = [session.number for session in self.read_run()[0].sessions_since(since)]
        closed: list[str] = []
        sizes = self._rundir.source_sizes(numbers, closed)
        if closed and not self._has_told_of_closed:
            self._has_told_of_closed = True
            self._say(
                f"warning: run {self._spec.id} is shown without what is in {', '.join(sorted(closed))}: "
                f"another user owns it. To change that, as root: chown -R {os.geteuid()} {self._rundir.path}"
            )
        return SourceSizes(since, sizes)

    def _unread(self, sizes: SourceSizes) -> list[Session]:
        """The sessions with output that the index does not have yet. Raises as `_IndexConnection.open`."""
        index, since = self._connection.open(), sizes.since
        self._stored = stored = SourceSizes(since, index.offsets(self._spec.id, since))
        self._stored_before = index.stored_bytes(self._spec.id, before_session=since)
        behind = {key[0] for key, size in sizes.bytes.items() if size > stored.bytes.get(key, 0)}
        return [session for session in self.read_run()[0].sessions_since(since) if session.number in behind]

    def _set_whole(self, sizes: SourceSizes, *, is_published: bool) -> bool:
        """False when the index was replaced since the output was stored: the new one may have the run without it.

        is_published: the run's entry is in experiments.json; if not, the next rebuild of that file adds it.
        """

        def store() -> bool:
            index = self._connection.open()
            newest = sorted(session.number for session in self.read_run()[0].latest)[-_LATE:]
            if not index.set_whole(self._spec.id, self._recorded_bytes, sizes, min(newest, default=1)):
                return False
            if not is_published:
                index.set_snapshot_due()
            return True

        return self._connection.attempt(store, otherwise=False)

    def whole_view(self, patience_s: float = WHOLE_PATIENCE_S) -> RunView | None:
        """The run with all output of its trainer; for a run whose trainer is gone.

        None when the index cannot take all of it within that time: the disk is full, or other processes keep writing.
        """
        give_up_at = time.monotonic() + patience_s
        while True:
            sizes = self._connection.attempt(self._source_sizes, otherwise=None)
            if sizes is not None and self.record_state(publish=False) and self.record_output(sizes):
                view = self.view()
                if view is not None and self._has_output(sizes):
                    return view
            if time.monotonic() > give_up_at:
                return None
            time.sleep(0.05)

    def _has_output(self, sizes: SourceSizes) -> bool:
        """Whether the index still has what was stored: it may have been emptied or replaced since."""
        return self._connection.attempt(
            lambda: self._connection.open().has_output(self._spec.id, sizes), otherwise=False
        )

    def view(self) -> RunView | None:
        """The run as the index has it; None when the index cannot be read now."""
        return self._connection.attempt(lambda: self._connection.open().get(self._spec.id), otherwise=None)

    def newest_view(self) -> RunView:
        """The run's state from its journal, the rest from the index as far as it has it. Raises OSError."""
        run, _ = self.read_run()
        view = self.view()
        if view is None:
            return RunView(run=run, run_dir=str(self._rundir.path))
        return msgspec.structs.replace(view, run=run)

    def runs_of_same_script(self, limit: int) -> list[tuple[Run, Usage]]:
        """The newest runs of the run's script with what they used, itself included; none when that cannot be read."""
        script = self._spec.script
        if script is None:
            return []
        return self._connection.attempt(lambda: self._connection.open().runs_of_script(script, limit), otherwise=[])

    def saved_over_by(self, checkpoint: Checkpoint) -> str | None:
        """Another run that has saved to the same path since; None also when the index cannot be read now."""
        return self._connection.attempt(
            lambda: self._connection.open().saved_over_by(self._spec.id, checkpoint), otherwise=None
        )


def _size_at_server(path: Path) -> int:
    """Size of a file in bytes. Opens it, because only then does a shared file system ask its server."""
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_size
