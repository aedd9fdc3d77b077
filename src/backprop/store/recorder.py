"""Records one run in the index and in experiments.json: its state, what users say about it, and its output.

The supervisor has a recorder while the trainer runs; commands that read use another for each run that the index may
not have in full. Both may work at once: see store/index.py. The output: store/ingest.py.
"""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from backprop.records import Checkpoint, Run, RunSpec, RunView, Say, Usage
from backprop.store import annotations, experiments_json
from backprop.store.home import Home
from backprop.store.index import Index, SourceSizes
from backprop.store.index_connection import IndexConnection
from backprop.store.ingest import OutputIngest
from backprop.store.journal.file import Journal
from backprop.store.journal.fold import RunReader, fold_on
from backprop.store.rundir import RunDir

Changed = Callable[[Run, int], None]

_LATE = 10  # sessions whose output is looked at again, though it was stored to its end: a copy of it may have been late
WHOLE_PATIENCE_S = 10.0  # how long a resume may wait for the index to be filled


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
        self._connection = IndexConnection(home, rundir, say)
        self._reader = RunReader(rundir.journal_path, spec) if reader is None else reader
        self._is_on_slurm = spec.slurm is not None  # as far as the journal was read
        self._snapshot_is_due = False
        self._recorded_bytes = 0  # of the journal
        self._annotated = 0  # stamp of the annotations that are recorded
        self._is_over = False  # as far as it is recorded
        self.is_state_stored = False  # in the index, at the last try
        entries = self._reader.read_new()
        self.output = OutputIngest(
            spec=spec,
            journal=journal,
            entries=entries if reader is None else (),
            unread_sessions=0 if reader is None else self._reader.last_read[0].newest_number,
            connection=self._connection,
            read_run=lambda: self.read_run()[0],
            store_run=lambda: self.record_state(publish=False),
        )

    def use(self, index: Index) -> "Recorder":
        """Use the index that the caller opened and will close: see `IndexConnection.borrow`."""
        self._connection.borrow(index)
        return self

    def give_back(self) -> None:
        """Use a connection of our own again."""
        self._connection.give_back()

    def close(self) -> None:
        """Close the connection, unless it is the caller's."""
        self._connection.close()

    def read_run(self) -> tuple[Run, int]:
        """The run as its journal has it, with entries that a full disk kept out; and the journal's size in bytes."""
        self.output.learn(self._reader.read_new())
        run, size = self._reader.last_read
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

    def finish(self, *, publish: bool = True) -> bool:
        """Store all there is of a run that has ended; with `publish`, update experiments.json, too.

        False when the next command must try again; also when the journal lacks the end because the disk was full.
        """
        self.record_state(publish=False)  # first: there may be no room for the curves
        sizes = self._connection.attempt(self.output.source_sizes, otherwise=None)
        if sizes is None:
            return False
        has_output = self.output.ingest_all(sizes)
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
            sizes = self._connection.attempt(self.output.source_sizes, otherwise=None)
            if sizes is not None and self.record_state(publish=False) and self.output.ingest_all(sizes):
                view = self.view()
                if view is not None and self.output.is_stored(sizes):
                    return view
            if time.monotonic() > give_up_at:
                return None
            time.sleep(0.05)

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
