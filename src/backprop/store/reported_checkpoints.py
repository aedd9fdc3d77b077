"""Checkpoints as they lie on disk when they are first reported: their path, size, time and manifest.

A report is measured once. The measurement is kept in the journal, so that a rebuilt index has the same.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from backprop.records import Checkpoint, Measure, Run, RunSpec, Source
from backprop.store import checkpoints
from backprop.store.journal.entries import CheckpointMeasured, Entry
from backprop.store.journal.file import Journal
from backprop.store.output import protocol


class ReportedCheckpoints:
    """Finds and measures what the trainer of one run reports."""

    def __init__(self, spec: RunSpec, journal: Journal, entries: Iterable[Entry], read_run: Callable[[], Run]) -> None:
        """entries: those already in the journal. read_run: reads the run from it again, and has us `learn` the news."""
        self._spec = spec
        self._journal = journal
        self._read_run = read_run
        self._known: dict[tuple[int, Source, int], tuple[str, Measure]] = {}  # path and measure
        self._cwds: dict[int, str] = {}
        # called when a relative path is reported: the folders that the processes of a living trainer are in
        self.trainer_folders: Callable[[], Sequence[str]] = tuple
        self.learn(entries)

    def learn(self, entries: Iterable[Entry]) -> None:
        """Take over what was measured, where nothing is known. entries: of the journal, oldest first."""
        for entry in entries:
            if isinstance(entry, CheckpointMeasured):  # the first measure counts
                self._known.setdefault((entry.session, entry.source, entry.offset), (entry.path, entry.measure))

    def measured(self, session: int, source: Source, batch: protocol.Batch) -> list[tuple[int, Checkpoint]]:
        """The checkpoints reported in a batch: (offset of the report, checkpoint).

        A path that is reported several times is measured once: what lies there is what was saved last.
        """
        newest = {saved.path: (offset, saved) for offset, saved in batch.checkpoints}.values()
        is_any_relative = any(
            not saved.path.startswith(os.sep) and (session, source, offset) not in self._known
            for offset, saved in newest
        )
        folders = self.trainer_folders() if is_any_relative else ()
        return [(offset, self._checkpoint(session, source, offset, saved, folders)) for offset, saved in newest]

    def _checkpoint(
        self, session: int, source: Source, offset: int, saved: protocol.CheckpointSaved, folders: Sequence[str]
    ) -> Checkpoint:
        key = session, source, offset
        if key not in self._known:
            path = self._find(saved.path, session, folders)
            measure = checkpoints.measure(path)
            self._journal_measure(*key, path, measure)
            self._read_run()  # another process may have measured it just before
            self._known.setdefault(key, (path, measure))
        path, measure = self._known[key]
        return Checkpoint(
            path=path,
            step=saved.step,
            session=session,
            measure=measure,
            is_emergency=saved.is_emergency,
            is_kept=saved.is_kept,
            is_weights_only=saved.is_weights_only,
        )

    def _journal_measure(self, session: int, source: Source, offset: int, path: str, measure: Measure) -> None:
        """Write it into the journal; for a Slurm job only the job itself does, which measures all of its reports."""
        if self._journal.is_locked or not self._read_run().is_on_slurm:
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

    def _find(self, path: str, session: int, folders: Sequence[str]) -> str:
        """The absolute path of a reported one: in a current folder of a trainer process, else in the session's.

        Of several, the one saved last: the others belong to earlier trainings, or to other ones.
        """
        if not path.startswith(os.sep):
            candidates = [os.path.join(folder, path) for folder in folders]  # noqa: PTH118  as it was reported
            with suppress(OSError, ValueError):
                if existing := [one for one in candidates if os.path.lexists(one)]:
                    return max(existing, key=lambda one: checkpoints.measure(one).saved_at)
        return str(Path(self._working_folder(session)) / path)  # any ".." stays: behind a link it leads elsewhere

    def _working_folder(self, session: int) -> str:
        """The folder that this session was started in: each may have another."""
        if session not in self._cwds:
            since = self._read_run().sessions_since(session)
            self._cwds |= {one.number: one.cwd for one in since if one.cwd is not None}
        return self._cwds.get(session, self._spec.cwd)
