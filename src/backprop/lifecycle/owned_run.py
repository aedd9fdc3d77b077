"""A run that this process owns: it holds the lock of its journal, and records the run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from backprop.records import (
    Limits,
    Notification,
    Record,
    Revision,
    RunSpec,
    Say,
)
from backprop.store.annotations import Annotation
from backprop.store.annotations import write as write_annotation
from backprop.store.code import snapshot
from backprop.store.home import Home
from backprop.store.journal.file import Journal
from backprop.store.journal.fold import RunReader
from backprop.store.recorder import Recorder
from backprop.store.rundir import RunDir

if TYPE_CHECKING:
    from backprop.lifecycle.notifier import Notifier


@dataclass(frozen=True)
class OwnedRun:
    """A run whose journal this process has locked, and what records it."""

    home: Home
    rundir: RunDir
    spec: RunSpec  # what its sessions execute
    journal: Journal
    recorder: Recorder
    is_new: bool  # made a moment ago: if it cannot start, it is taken back


def own(
    home: Home,
    rundir: RunDir,
    spec: RunSpec,
    journal: Journal,
    say: Say,
    *,
    is_new: bool,
    is_in_job: bool = False,
    reader: RunReader | None = None,
) -> OwnedRun:
    """The run whose journal this process has just locked. is_in_job: see `Notifier`. reader: see `Recorder`."""
    notifier = _notifier(home, rundir, is_in_job=is_in_job)
    changed = None if notifier is None else notifier.changed
    # as it is recorded: what this session is to execute instead counts when it begins
    recorder = Recorder(home, rundir, rundir.read_spec(), journal, say, changed, reader)
    return OwnedRun(home, rundir, spec, journal, recorder, is_new)


class Request(Record, frozen=True):
    """What the user asked of a run."""

    limits: Limits
    checkpoint: str | None  # to begin with
    gpu_probe: str = "auto"
    wait_s: float | None = None  # longest wait in the queue for each session; None: no limit
    retries: int = 0
    sessions: int = 1
    job: str | None = None  # the Slurm job in which it is executed
    revision: Revision | None = None  # what the run executes from now on; None: the same as before
    only_once: tuple[str, ...] = ()  # arguments of its first timebox
    request_id: str | None = None  # repeated, it starts nothing


def make_run(
    home: Home, spec: RunSpec, patch: bytes | None, say: Say, annotations: Sequence[Annotation] = ()
) -> tuple[RunDir, Journal]:
    """A new run directory, whole from the moment it can be seen, and its locked journal. Raises BackpropError."""
    if home.has_old_runs_only():
        from backprop.store import legacy_import

        legacy_import.take_over(home, say)
    draft = home.begin(spec, patch)
    if spec.snapshot_of is not None or annotations:
        try:
            for annotation in annotations:
                write_annotation(draft, annotation)
            if spec.snapshot_of is not None:
                snapshot.take(Path(spec.snapshot_of), draft.snapshot_path)
        except OSError as error:
            draft.discard()
            raise home.unusable(error) from error
        except BaseException:
            draft.discard()
            raise
    journal = Journal(draft.journal_path)
    journal.try_lock()  # no other process can hold it: the folder is not visible yet
    return home.publish(draft, spec.id), journal


def remember_notifications(rundir: RunDir, notifications: Sequence[Notification], say: Say) -> None:
    """Keep with a run who to notify from now on."""
    if notifications or rundir.notify_path.exists():
        from backprop.lifecycle import notifier

        try:
            notifier.put(rundir, notifications)
        except OSError as error:  # the run matters more
            say(f"warning: notifications are off for this run: {error.strerror}")


def notify_end(owned: OwnedRun, *, is_in_job: bool) -> None:
    """Notify of a run's end, unless more is to come.

    A job unlocks the run before that: it waits until all are notified, and whoever resumes the run does not.
    """
    if is_in_job:
        owned.journal.close()
    if (notifier := _notifier(owned.home, owned.rundir, is_in_job=is_in_job)) is not None:
        notifier.ended(*owned.recorder.read_run())


def _notifier(home: Home, rundir: RunDir, *, is_in_job: bool) -> "Notifier | None":
    """None for a run with no notifications."""
    if not rundir.notify_path.exists():
        return None
    from backprop.lifecycle.notifier import Notifier

    return Notifier(rundir, home.index_path, is_in_job=is_in_job)
