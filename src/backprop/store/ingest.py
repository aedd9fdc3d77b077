"""Brings one run's journal and trainer output into the index, and keeps experiments.json in step with it.

The supervisor's recorder works while the trainer runs; whoever looks uses another one for a run that is not settled.
Both may work at once: see store/index.py. The index is a cache: a full disk or a busy database delays what views
show, never what training does.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import msgspec

from backprop.records import Checkpoint, Measure, Run, RunSpec, RunView, Session, Source
from backprop.store import checkpoints, experiments_json
from backprop.store.home import Home, HomeBusyError
from backprop.store.index import Index, open_index, reopen_if_replaced, set_aside_if_damaged
from backprop.store.journal import file as journals
from backprop.store.journal.entries import CheckpointMeasured, OutputSeen
from backprop.store.journal.file import Journal
from backprop.store.journal.fold import RunReader, fold_on
from backprop.store.output import protocol
from backprop.store.output.line_times import OffsetClock, OffsetSample
from backprop.store.output.tail import READ_BYTES, Tail, size_bytes
from backprop.store.output_order import OrderNotes
from backprop.store.rundir import RunDir

SUPERVISOR_BUSY_TIMEOUT_S = 0.2  # a supervisor that waits for the database cannot climb the stop ladder
VIEWER_BUSY_TIMEOUT_S = 10.0
Say = Callable[[str], None]
Changed = Callable[[Run, int], None]

# what may go wrong with a cache without anything being lost: it is done at the next call, or the next look
WHOLE_PATIENCE_S = 10.0  # how long a resume may wait for the index to be filled
_GROWTH = 3  # by how much the index and its log grow for a byte of output, at the most: 20 bytes a point, twice
_LATER = (sqlite3.OperationalError, OSError, HomeBusyError)


class IngestResult(NamedTuple):
    """What one look at what the trainer wrote brought."""

    batches: tuple[protocol.Batch, ...]  # empty: nothing new
    is_stored: bool  # False: the index could not take all of it, and the next look brings that again
    is_behind: bool = False  # there is more to read already
    checkpoints: tuple[Checkpoint, ...] = ()  # that were reported in it, as they lie on disk


class Recorder:
    """Records one run. For use by one thread."""

    def __init__(
        self, home: Home, rundir: RunDir, spec: RunSpec, journal: Journal, say: Say, changed: Changed | None = None
    ) -> None:
        """changed: called with the run and the size of its journal when its state is to be published."""
        self._changed = changed
        self._home = home
        self._rundir = rundir
        self._spec = spec
        self._journal = journal
        self._say = say
        self._index: Index | None = None
        self._is_lent = False
        self._reader = RunReader(rundir.journal_path, spec)
        self._openings = 0  # of the index: it may be a new one each time
        self._is_on_slurm = spec.slurm is not None  # as far as the journal was read
        self._snapshot_is_due = False
        self._recorded_bytes = 0  # of the journal
        self._is_over = False  # as far as it is recorded
        self.is_state_stored = False  # in the index, at the last try
        self._whole_to = 1  # the index has all of the sessions before this one
        self._tails: dict[tuple[int, Source], Tail] = {}
        self._seen: set[tuple[int, Source]] = set()  # that were looked at before, whether or not from their beginning
        self._stored: dict[
            tuple[int, Source], int
        ] = {}  # bytes that the index had, as of the last look at all sessions
        self._measures: dict[tuple[int, Source, int], tuple[str, Measure]] = {}  # path and measure
        self._folders: Callable[[], Sequence[str]] = tuple
        self._cwds: dict[int, str] = {}
        self._witnesses: dict[tuple[int, Source], OffsetClock] = {}
        self._orders: dict[int, OrderNotes] = {}  # of the session that goes on
        notes: dict[tuple[int, Source], list[OffsetSample]] = {}
        for entry in journals.read(rundir.journal_path)[0]:
            if isinstance(entry, CheckpointMeasured):  # the first measure counts
                self._measures.setdefault((entry.session, entry.source, entry.offset), (entry.path, entry.measure))
            elif isinstance(entry, OutputSeen):
                notes.setdefault((entry.session, entry.source), []).append(entry.growth)
        self._witnesses.update((key, OffsetClock(growths)) for key, growths in notes.items())

    def use(self, index: Index) -> "Recorder":
        """Work on a connection that somebody else opened and will close.

        Where the file was replaced, the same object connects to the new one.
        """
        self._index = index
        self._is_lent = True
        return self

    def look_for_checkpoints_in(self, folders: Callable[[], Sequence[str]]) -> None:
        """Look for checkpoints with a relative path in the folders that the processes of a living trainer are in.

        folders: called when one is reported.
        """
        self._folders = folders

    def close(self) -> None:
        """Close the connection, unless it is lent."""
        if self._index is not None and not self._is_lent:
            self._index.close()
            self._index = None

    def _open(self) -> Index:
        """The index; opened again if the file was deleted or set aside meanwhile."""
        if (self._index is None or self._index.is_replaced()) and not self._rundir.path.exists():
            raise FileNotFoundError(self._rundir.path)  # removed: nobody makes anew what belongs to that
        if self._index is None:
            self._index = open_index(self._home, SUPERVISOR_BUSY_TIMEOUT_S, self._say)
        elif not reopen_if_replaced(self._home, self._index, self._say):
            return self._index
        self._openings += 1
        self._forget_offsets()
        self._whole_to = 1
        return self._index

    def _give_up_index(self, error: sqlite3.DatabaseError) -> None:
        """It was damaged under our feet: the next call begins another one."""
        if self._index is not None:
            set_aside_if_damaged(self._home, self._index, error, self._say)
            self.close()

    def read_run(self) -> tuple[Run, int]:
        """The run as its journal tells it, also what that has no room for; and how many bytes of journal that is."""
        run, size = self._reader.read()
        run = fold_on(run, self._journal.unwritten)
        self._is_on_slurm = run.is_on_slurm
        return run, size

    def begin(self) -> None:
        """Make sure that whoever looks next looks at this run, whatever happens to us. Raises OSError.

        To be called again when the journal says what has begun: another machine may have settled the run between.
        """
        self._home.mark_for_refresh(self._spec.id)

    def record_state(self, *, publish: bool, reason: str | None = None) -> bool:
        """Store the run's state; with `publish`, in experiments.json too. False when that must be tried again.

        reason: why it is as it is, where somebody knows better than its journal.
        """
        self._snapshot_is_due |= publish
        self.is_state_stored = False
        try:
            run, size = self.read_run()
            if publish and self._changed is not None:
                self._changed(run, size)
            if reason is not None:
                run = msgspec.structs.replace(run, reason=reason)
            index = self._open()
            index.put_run(run, size)
            self._recorded_bytes, self._is_over = size, run.status.is_final and not self._journal.unwritten
            self.is_state_stored = True
            if self._snapshot_is_due:
                experiments_json.put(self._home, index, self._spec.id, self._say)
                self._snapshot_is_due = False
        except _LATER:
            return False
        except sqlite3.DatabaseError as error:
            self._give_up_index(error)
            return False
        return True

    def look(self, session: int, at_s: float, *, is_over: bool = False, is_witness: bool = False) -> IngestResult:
        """Read and store the next stretch of each of a session's sources.

        at_s: how long the session has been training, or trained in all.
        is_over: nobody writes to them any more, so what follows the last newline is a line too.
        is_witness: we have been looking all the time, so that what is new was written since the last look.
        """
        if is_witness:  # whether or not it can be stored just now
            for source in Source:
                self._witness(session, source, at_s)
            self._note_order(session, at_s)
        return self._look_before(session) or self._look_at_all(session, at_s, is_over=is_over, is_witness=is_witness)

    def _look_before(self, session: int) -> IngestResult | None:
        """The next stretch of the sessions before, where the index lacks it: points are kept in the order they come.

        None when the index has all of them.
        """
        try:
            self._open()
            if session <= self._whole_to:
                return None
            run, _ = self.read_run()
            unread = self._unread(run)
        except _LATER:
            return IngestResult((), is_stored=False)
        except sqlite3.DatabaseError as error:
            self._give_up_index(error)
            return IngestResult((), is_stored=False)
        for earlier in unread:
            if self._whole_to <= earlier.number < session:
                look = self._look_at_all(earlier.number, earlier.elapsed_s or 0.0, is_over=True, is_witness=False)
                if look.batches or not look.is_stored:
                    return IngestResult((), is_stored=False, is_behind=look.is_stored)
        self._whole_to = session
        return None

    def _look_at_all(self, session: int, at_s: float, *, is_over: bool, is_witness: bool) -> IngestResult:
        opening = self._openings
        looks = [
            self._look_at(session, source, at_s, opening, is_over=is_over, is_witness=is_witness) for source in Source
        ]
        look = IngestResult(
            batches=tuple(batch for look in looks for batch in look.batches),
            is_stored=all(look.is_stored for look in looks),
            is_behind=any(look.is_behind for look in looks),
            checkpoints=tuple(checkpoint for look in looks for checkpoint in look.checkpoints),
        )
        if is_over and look.is_stored and not look.batches and session == self._whole_to:
            self._whole_to += 1
        return look

    def _look_at(
        self, session: int, source: Source, at_s: float, opening: int, *, is_over: bool, is_witness: bool
    ) -> IngestResult:
        try:
            path = self._rundir.source_path(session, source)
            size = size_bytes(path)
            index = self._open()
            if self._openings != opening:  # replaced since we saw that it has the sessions before
                return IngestResult((), is_stored=False, is_behind=True)
            tail = self._tails.get((session, source))
            if tail is None:
                is_first = is_witness and (session, source) not in self._seen
                self._seen.add((session, source))
                # a supervisor sees all of it, also what somebody who looked was faster to store
                offset = 0 if is_first else index.offset(self._spec.id, session, source)
                tail = self._tails[session, source] = Tail(path, offset)
            stretch = tail.read(is_over=is_over)
            if stretch is None:
                return IngestResult((), is_stored=True)
            witness = self._witnesses.setdefault((session, source), OffsetClock())
            witness.forget(stretch.start)  # somebody has stored it
            timeline = witness.timeline(stretch.start)
            if not is_witness:
                timeline.add(OffsetSample(offset=size, since_s=0.0, until_s=at_s))
            # a supervisor must see what its trainer tells; whoever only looks leaves the rest of the disk to others
            growth_bytes = _GROWTH * len(stretch.data)
            if not is_witness and not index.is_in_memory and not self._home.has_room(growth_bytes):
                return IngestResult((), is_stored=False)
            batch = protocol.digest(stretch.data, stretch.start)
            # a path reported over and over is measured once a look: what lies there is what was saved last
            newest = {saved.path: (offset, saved) for offset, saved in batch.checkpoints}.values()
            is_relative = any(
                not saved.path.startswith(os.sep) and (session, source, offset) not in self._measures
                for offset, saved in newest
            )
            folders = self._folders() if is_relative else ()
            measured = [(offset, self._measured(session, source, offset, saved, folders)) for offset, saved in newest]
            reported = tuple(checkpoint for _, checkpoint in measured)
            if index.add_output(
                self._spec.id,
                session,
                stretch.start,
                stretch.end,
                batch,
                measured,
                source,
                timeline=timeline,
                earlier_bytes=self._earlier_bytes(session),
            ):
                tail.move_to(stretch.end)
                is_behind = len(stretch.data) > READ_BYTES // 2
                return IngestResult((batch,), is_stored=True, is_behind=is_behind, checkpoints=reported)
            # somebody else was there first, or the index is new and has never heard of this run
            self._forget_offsets()
            self._whole_to = 1
            is_known = index.journal_size(self._spec.id) is not None
            is_stored = is_known or self.record_state(publish=False)
            return IngestResult((batch,), is_stored=is_stored, checkpoints=reported)
        except _LATER:
            return IngestResult((), is_stored=False)
        except sqlite3.DatabaseError as error:
            self._give_up_index(error)
            return IngestResult((), is_stored=False)

    def _note_order(self, session: int, at_s: float) -> None:
        """How far stdout and stderr have got: `logs` shows both in one."""
        if session not in self._orders:
            self._orders = {session: OrderNotes(self._rundir.order_path(session))}
        sizes = (size_bytes(self._rundir.out_path(session)), size_bytes(self._rundir.err_path(session)))
        self._orders[session].look(at_s, *sizes)

    def _earlier_bytes(self, session: int) -> int:
        """How much the index must have of the sessions before this one."""
        known = self._stored | {key: tail.offset for key, tail in self._tails.items()}
        return sum(size for (number, _), size in known.items() if number < session)

    def _forget_offsets(self) -> None:
        """The index is another one, or somebody else has moved it on."""
        self._tails.clear()
        self._stored.clear()

    def _witness(self, session: int, source: Source, at_s: float) -> None:
        """See how far the output has got; and tell the journal, now and then."""
        witness = self._witnesses.setdefault((session, source), OffsetClock())
        due = witness.looked(at_s, size_bytes(self._rundir.source_path(session, source)))
        if due is not None:
            self._journal.append(OutputSeen(at=datetime.now(timezone.utc), session=session, source=source, growth=due))

    def _measured(
        self, session: int, source: Source, offset: int, saved: protocol.CheckpointSaved, folders: Sequence[str]
    ) -> Checkpoint:
        """The checkpoint as it lies on disk when it is first heard of; the journal remembers.

        That of a Slurm job is written by the job alone: it has an index of its own, and so hears of all of them.
        """
        known = self._measures.get((session, source, offset))
        if known is None:
            path = self._found(saved.path, self._folder_of(session), folders)
            measure = checkpoints.measure(path)
            self._measures[session, source, offset] = known = (path, measure)
            if self._journal.is_locked or not self._is_on_slurm:
                self._journal.append(
                    CheckpointMeasured(
                        at=datetime.now(timezone.utc),
                        session=session,
                        source=source,
                        offset=offset,
                        path=path,
                        size_bytes=measure.size_bytes,
                        saved_at=measure.saved_at,
                        manifest=measure.manifest,
                    )
                )
        path, measure = known
        return Checkpoint(
            path=path,
            step=saved.step,
            session=session,
            measure=measure,
            is_emergency=saved.is_emergency,
            is_kept=saved.is_kept,
            is_weights_only=saved.is_weights_only,
        )

    def _found(self, path: str, session_folder: str, folders: Sequence[str]) -> str:
        """Where a reported checkpoint lies: in a folder that a process of the trainer is in now, else in the session's.

        Of several the one that was saved last: the others are of earlier, or of other, trainings.
        """
        if not path.startswith(os.sep):
            candidates = [os.path.join(folder, path) for folder in folders]  # noqa: PTH118  as it was reported
            with suppress(OSError, ValueError):
                if there := [one for one in candidates if os.path.lexists(one)]:
                    return max(there, key=lambda one: checkpoints.measure(one).saved_at)
        return str(Path(session_folder) / path)  # with its "..": behind a link that leads elsewhere

    def _folder_of(self, session: int) -> str:
        """The working folder that this session was started in: a later one may have another."""
        if session not in self._cwds:
            run, _ = self.read_run()
            self._cwds |= {one.number: one.cwd for one in run.sessions if one.cwd is not None}
        return self._cwds.get(session, self._spec.cwd)

    def record_output(self) -> bool:
        """Store all output of all sessions; for a run whose trainer is gone. False when that must be tried again."""
        run, _ = self.read_run()
        try:
            unread = self._unread(run)
        except _LATER:
            return False
        except sqlite3.DatabaseError as error:
            self._give_up_index(error)
            return False
        for session in unread:
            while True:
                look = self.look(session.number, session.elapsed_s or 0.0, is_over=True)
                if not look.is_stored:
                    return False
                if not look.batches:
                    break
        return True

    def finish(self, *, publish: bool = True) -> bool:
        """Store all there is of a run that has ended. False when that must be tried again: the next look will.

        Also when its journal does not tell its end, because the disk had no room for that: the next look files it.

        publish: bring experiments.json up to date, too.
        """
        self.record_state(publish=False)  # first: there may be no room for the curves
        sizes = self._source_sizes()
        has_output = self.record_output()
        if not (self.record_state(publish=publish) and has_output and self._is_over and self._set_whole(sizes)):
            return False
        if not publish and not self._set_snapshot_due():
            return False
        with suppress(OSError):  # then somebody looks once more, and finds nothing to do
            self._home.mark_refreshed(self._spec.id)
            if self._is_on_slurm and self._journal_bytes() != self._recorded_bytes:
                # a job has begun something meanwhile: its mark may be what we have just taken away
                self._home.mark_here(self._spec.id)
                return False
        return True

    def _source_sizes(self) -> dict[tuple[int, Source], int]:
        """Of all that its trainers wrote, in bytes."""
        run, _ = self.read_run()
        sizes = self._rundir.source_sizes()
        return {
            (session.number, source): sizes.get((session.number, source), 0)
            for session in run.sessions
            for source in Source
        }

    def _unread(self, run: Run) -> list[Session]:
        """The sessions that wrote what the index does not have yet. Raises what `_open` does."""
        sizes = self._rundir.source_sizes()
        self._stored = stored = self._open().offsets(self._spec.id)
        return [
            session
            for session in run.sessions
            if any(sizes.get((session.number, each), 0) > stored.get((session.number, each), 0) for each in Source)
        ]

    def _set_whole(self, sizes: Mapping[tuple[int, Source], int]) -> bool:
        """False when the index was replaced since the output was stored: the new one may know the run without it."""
        try:
            return self._open().set_whole(self._spec.id, self._recorded_bytes, sizes)
        except (*_LATER, sqlite3.DatabaseError):
            return False

    def _set_snapshot_due(self) -> bool:
        """The run's entry in experiments.json is left to whoever rebuilds the file. False when that is not stored."""
        try:
            self._open().set_snapshot_due()
        except (*_LATER, sqlite3.DatabaseError):
            return False
        return True

    def _journal_bytes(self) -> int:
        """Opened anew, because only then a shared file system asks its server."""
        with self._rundir.journal_path.open("rb") as journal:
            return os.fstat(journal.fileno()).st_size

    def whole_view(self, patience_s: float = WHOLE_PATIENCE_S) -> RunView | None:
        """The run with all that its trainer wrote; for a run whose trainer is gone.

        None when the index cannot take all of it within that time: others may be filling it, or the disk be full.
        """
        give_up_at = time.monotonic() + patience_s
        while True:
            sizes = self._source_sizes()
            if self.record_state(publish=False) and self.record_output():
                view = self.view()
                if view is not None and self._has_output(sizes):
                    return view
            if time.monotonic() > give_up_at:
                return None
            time.sleep(0.05)

    def _has_output(self, sizes: Mapping[tuple[int, Source], int]) -> bool:
        """Whether the index still holds what was stored: it may have been emptied or replaced since."""
        try:
            return self._open().has_output(self._spec.id, sizes)
        except (*_LATER, sqlite3.DatabaseError):
            return False

    def view(self) -> RunView | None:
        """The run as the index has it; None when the index cannot be read just now."""
        try:
            return self._open().get(self._spec.id)
        except (*_LATER, sqlite3.DatabaseError):
            return None

    def newest_view(self) -> RunView:
        """The run as its journal tells it, with what the index has of it. Raises OSError."""
        run, _ = self.read_run()
        view = self.view()
        if view is None:
            return RunView(run=run, run_dir=str(self._rundir.path))
        return msgspec.structs.replace(view, run=run)

    def saved_over_by(self, checkpoint: Checkpoint) -> str | None:
        """Another run that has saved to the same path since; None also when the index cannot be read just now."""
        try:
            return self._open().saved_over_by(self._spec.id, checkpoint)
        except (*_LATER, sqlite3.DatabaseError):
            return None
