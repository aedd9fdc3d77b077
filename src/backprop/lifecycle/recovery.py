"""Runs whose supervisor died: end what it left running, and record how they ended. Nothing depends on a last word."""

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from backprop import engines, host
from backprop.engines.base import Phase
from backprop.errors import BusyError
from backprop.lifecycle import continuation
from backprop.records import Run, RunSpec, Say, Session, Status, StopReason
from backprop.store.files import NotAFileError, foreign_owner
from backprop.store.home import Home
from backprop.store.journal import file as journals
from backprop.store.journal.entries import Entry, Refused, SessionEnded, StopRequested, Submitted, TrainerLaunched
from backprop.store.journal.file import Journal
from backprop.store.journal.fold import RunReader, fold
from backprop.store.rundir import RunDir

if TYPE_CHECKING:
    from psutil import Process

CLAIM_PATIENCE_S = 1.0  # how long a view may hold a run's lock while it reconciles it
BETWEEN_SESSIONS_S = 30.0  # in which a process that has ended one begins or queues the next, or ends
REQUEUE_S = 20.0  # until Slurm has requeued a job, from when its journal says that this is to be asked for


def reconcile(
    rundir: RunDir, spec: RunSpec, journal: Journal, patience_s: float | None, say: Say, why: str | None = None
) -> bool:
    """Record the end of a run whose supervisor died, after ending what it left running. The journal must be locked.

    patience_s: how long an orphaned trainer may take to finish its save; None: the session's grace. why: how the death
    of the supervisor is known, if not by the lock. False for a run that has ended: nothing was to be done.
    """
    entries = journals.read(rundir.journal_path)[0]
    run = fold(spec, entries)
    if run.status.is_final:
        return False
    session = run.last_session
    if session is not None and session.status.is_final:
        reason = why or "its supervisor died while it was queued for another session"
        journal.append(Refused(at=datetime.now(timezone.utc), reason=reason, figures={}, is_presumed=True))
    elif session is None:
        journal.append(_ended(0, why or "its supervisor died before the trainer was started", 0.0))
    else:
        death = _end_orphans(rundir, session, session.grace_s if patience_s is None else patience_s, say)
        _remove_leftovers(rundir, session, entries)
        journal.take_requests()
        kill = _kill_request(journals.read(rundir.journal_path)[0], session.number)
        journal.append(_ended(session.number, why or death, _elapsed_s(rundir, session), kill))
    return True


def _kill_request(entries: Sequence[Entry], session: int) -> StopRequested | None:
    """The user's `stop --now` of a session."""
    asked = (one for one in entries if isinstance(one, StopRequested) and one.session == session)
    return next((one for one in asked if one.now and one.by is StopReason.USER), None)


def _ended(session: int, reason: str, elapsed_s: float, kill: StopRequested | None = None) -> SessionEnded:
    """How a session ends whose supervisor is dead. kill: then its user wanted that."""
    return SessionEnded(
        at=datetime.now(timezone.utc),
        session=session,
        status=Status.INTERRUPTED if kill is None else Status.STOPPED,
        reason=reason if kill is None else f"{kill.detail}; {reason}",
        exit_code=None,
        elapsed_s=elapsed_s,
        stopped_by=None if kill is None else kill.by,
    )


def _end_orphans(rundir: RunDir, session: Session, patience_s: float, say: Say) -> str:
    """End what a dead supervisor left running on this machine; how it died, as far as that is known."""
    from backprop.supervisor import roster
    from backprop.supervisor.process import tree

    boot_id = host.boot_id()
    if session.boot_id is not None and boot_id is not None and session.boot_id != boot_id:
        return "the machine was restarted"

    def orphans() -> "list[Process]":
        return tree.orphans(str(rundir.path), roster.living(rundir.roster_path, session.number, boot_id))

    if orphans():
        left = f"ending what it left running (at most {patience_s + 1:.0f} s)"
        say(f"the supervisor of run {rundir.run_id} died; {left} ...")
        tree.end_orphans(orphans, patience_s)
    blindness = host.table_problem()
    unseen = "" if blindness is None else f"; cannot look for what it left running: {blindness}"
    return f"its supervisor (pid {session.supervisor_pid}) died{unseen}"


def _remove_leftovers(rundir: RunDir, session: Session, entries: Sequence[Entry]) -> None:
    """Remove what a session leaves behind besides processes: its roster and its memory cgroup."""
    from backprop.supervisor.process import memory_cgroup

    with suppress(OSError):
        rundir.roster_path.unlink()
    for entry in entries:
        if isinstance(entry, TrainerLaunched) and entry.session == session.number and entry.cage is not None:
            memory_cgroup.remove_leftover(entry.cage)


def _elapsed_s(rundir: RunDir, session: Session) -> float:
    """Training time of a session whose end was not seen: until its last output or heartbeat. An estimate."""
    signs = (rundir.out_path(session.number), rundir.err_path(session.number), rundir.control_path)
    last = max((path.stat().st_mtime for path in signs if path.exists()), default=0.0)
    until = min(datetime.fromtimestamp(last, timezone.utc), datetime.now(timezone.utc))  # clocks may differ
    return session.trained_s(until)


def claim(home: Home, run: Run, say: Say, reader: RunReader | None = None) -> Journal:
    """The run's journal, locked for this process, with nothing left running. Raises BusyError.

    run: as it was when the user decided. BusyError where another process runs it now, or has done so since.
    reader: of its journal, where the caller has one.
    """
    rundir = home.rundir(run.spec.id)
    reader = RunReader(rundir.journal_path, run.spec) if reader is None else reader
    journal = Journal(rundir.journal_path)
    try:
        _wait_for_lock(journal, run, reader)
    except BusyError:
        journal.close()
        raise
    now, _ = reader.read()
    is_readable = run.status is not Status.UNREADABLE
    if (
        is_readable and now.is_on_slurm and not now.status.is_final
    ):  # while a job is queued, no process has the journal locked
        journal.close()
        raise BusyError(busy_message(now))
    if not now.status.is_final and reconcile(rundir, run.spec, journal, None, say):
        notify_end(home, rundir, run.spec)
        now, _ = reader.read()
    if is_readable and now.session_count != run.session_count:
        journal.close()
        raise BusyError(f"run {run.spec.id} has just been resumed by another process.")
    journal.forget_requests()
    return journal


def _wait_for_lock(journal: Journal, run: Run, reader: RunReader) -> None:
    """Take the run's lock. Raises BusyError where another process has it for long, and does not just end the run."""
    began = time.monotonic()
    while not journal.try_lock():
        waited_s = time.monotonic() - began
        if waited_s > CLAIM_PATIENCE_S:
            if run.status is Status.UNREADABLE:
                raise BusyError(busy_message(run))
            now, _ = reader.read()
            if not now.status.is_final or now.session_count != run.session_count:
                raise BusyError(busy_message(now))
            if waited_s > BETWEEN_SESSIONS_S:
                raise BusyError(f"run {run.spec.id} has ended, and another process still holds it; try again.")
        time.sleep(0.02)


def remove(home: Home, run: Run, say: Say) -> None:
    """Remove the record of a run that has ended, readable or not. Raises BusyError, UsageError or OSError."""
    rundir = home.rundir(run.spec.id)
    with ExitStack() as held:
        try:
            held.enter_context(closing(claim(home, run, say)))
        except OSError as error:
            is_lost = run.status.is_final and isinstance(error, NotAFileError)
            if run.status is not Status.UNREADABLE and not is_lost and foreign_owner(rundir.path) is None:
                raise
            if is_held(rundir):
                raise BusyError(busy_message(run)) from None
        rundir.remove()
    home.mark_refreshed(rundir.run_id)


def is_held(rundir: RunDir) -> bool:
    """Whether some process holds the run: whether its journal, as far as we can open it, is locked."""
    try:
        with closing(Journal(rundir.journal_path, is_read_only=True)) as journal:
            return journal.is_owned()
    except OSError:
        return False


def busy_message(run: Run) -> str:
    """Why an active run cannot be claimed, and what to do."""
    if run.job is not None:
        return f"run {run.spec.id} belongs to Slurm job {run.job}. Stop it first: backprop stop {run.spec.id}"
    if run.waiter is not None:
        who = f"process {run.waiter.supervisor_pid} on {run.waiter.host}"
        return f"run {run.spec.id} is queued by {who}. Stop it first: backprop stop {run.spec.id}"
    session = run.last_session
    who = "" if session is None else f", supervised by process {session.supervisor_pid} on {session.host}"
    return f"run {run.spec.id} is running{who}. Stop it first: backprop stop {run.spec.id}"


def is_being_requeued(rundir: RunDir, run: Run) -> bool:
    """Slurm reports a job as FAILED for a moment while it requeues it."""
    if run.waiter is None or run.waiter.job is None:
        return False
    entries, _ = journals.read(rundir.journal_path)
    newest = next((entry for entry in reversed(entries) if isinstance(entry, Submitted)), None)
    if newest is None or not newest.is_again:
        return False
    return (datetime.now(timezone.utc) - newest.at).total_seconds() < REQUEUE_S


def is_about_to_requeue(rundir: RunDir, ended: Run) -> bool:
    """Whether a Slurm job has ended a session, and is to be requeued for the next, or has been since `ended` was read.

    True, too, while Slurm does not answer. Blocks for some seconds at most, and only where another session is due.
    """
    entries, _ = journals.read(rundir.journal_path)
    if continuation.remaining(ended, entries) is None:
        return not fold(ended.spec, entries).status.is_final
    if engines.cluster().observe(ended).phase is not Phase.ENDED:
        return True
    # Slurm reports a job as FAILED for a moment while it requeues it, which the journal has said before
    return not fold(ended.spec, journals.read(rundir.journal_path)[0]).status.is_final


def notify_end(home: Home, rundir: RunDir, spec: RunSpec) -> None:
    """Notify of a run's end in place of a supervisor that is dead, or never was."""
    if rundir.notify_path.exists():
        from backprop.lifecycle.notifier import Notifier

        entries, size = journals.read(rundir.journal_path)
        Notifier(rundir, home.index_path).ended(fold(spec, entries), size)
