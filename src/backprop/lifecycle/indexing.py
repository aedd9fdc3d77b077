"""The index in step with the run directories: reconciled on read, so that nothing depends on a daemon.

`catch_up` is called before anything is shown. It stores what live trainers have written meanwhile, lets `recovery` end
the runs whose supervisor died, and takes in run directories that the index has never seen.
"""

import errno
import functools
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from typing import NamedTuple

import msgspec

from backprop import engines, host
from backprop.engines.base import Observation, Phase
from backprop.errors import BackpropError, NoRoomError
from backprop.lifecycle import recovery
from backprop.records import Limits, Run, RunSpec, Say, Session, Status
from backprop.store import experiments_json, legacy_import
from backprop.store.files import UnreadableError, unreadable
from backprop.store.home import Home, HomeBusyError
from backprop.store.index import (
    Index,
    IndexBrokenError,
    is_locked,
    lacks_room,
    open_index,
    reopen_if_replaced,
    set_aside_if_damaged,
)
from backprop.store.journal.entries import Refused
from backprop.store.journal.file import Journal
from backprop.store.journal.fold import RunReader
from backprop.store.recorder import Recorder
from backprop.store.rundir import RunDir

VIEWER_BUSY_TIMEOUT_S = 10.0
VIEW_PATIENCE_S = 3.0  # how long a view lets an orphaned trainer finish its save
_MANY = 20
_MAX_REPLACEMENTS = 5  # of the index during one catch-up
_OF_THE_HOME = {errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE}  # and of no single run
_LIVE_STRETCHES = 16  # a view reads at most so much (MB) of a live run: its supervisor does the rest
_SETTLED_AFTER_NS = 2_000_000_000  # file times are coarse: a folder that just changed may change again unnoticed


def open_caught_up(home: Home, say: Say) -> Index:
    """The home's index, in step with the run directories: a new one where it is damaged.

    An index in memory on a full or read-only disk, and where another process holds its lock: a hung supervisor can
    still be stopped. Raises ConfigError, HomeBusyError, OSError or sqlite3.DatabaseError.
    """
    index = _on_disk(home, say, _open_caught_up_on_disk)
    return open_in_memory(home, say) if index is None else index


def open_as_it_is(home: Home, say: Say) -> Index:
    """The same index without a look at any run: for a process that refreshes those it needs."""
    index = _on_disk(home, say, _open_unlocked)
    return Index(home.index_path, VIEWER_BUSY_TIMEOUT_S, is_in_memory=True) if index is None else index


def _on_disk(home: Home, say: Say, open_index: Callable[[Home, Say], Index]) -> Index | None:
    """The index on the disk; None where there is none to work with, and one in memory will do."""
    try:
        return open_index(home, say)
    except (NoRoomError, HomeBusyError, OSError, sqlite3.OperationalError) as error:
        if (why := why_in_memory(home, error)) is None:
            raise
    say(f"{why}: reading from the run directories instead.")
    return None


def _open_unlocked(home: Home, say: Say) -> Index:
    index = open_home(home, say)
    try:
        index.wait_for_turn()
    except BaseException:
        index.close()
        raise
    return index


def why_in_memory(home: Home, error: Exception) -> str | None:
    """Why views need an index in memory, by how the one on the disk failed; None where they do not."""
    if isinstance(error, NoRoomError) or lacks_room(error):
        if home.is_read_only():
            return f"the disk of {home.path} is read-only"
        return f"there is no room on the disk of {home.path}"
    if isinstance(error, HomeBusyError) or is_locked(error):
        return f"another process has locked the index of {home.path} for too long"
    return None


def open_in_memory(home: Home, say: Say) -> Index:
    """An index in memory, in step with the run directories."""
    return _caught_up(home, Index(home.index_path, VIEWER_BUSY_TIMEOUT_S, is_in_memory=True), say)


def is_usable(home: Home) -> bool:
    """Whether the index on the disk can be written to, so that none in memory is needed. Does not wait."""
    if not home.has_room():
        return False
    try:
        with closing(Index(home.index_path, 0.0)) as index:
            index.wait_for_turn()
    except sqlite3.OperationalError:
        return False
    except IndexBrokenError:  # whoever opens it makes it anew
        pass
    return True


def _open_caught_up_on_disk(home: Home, say: Say) -> Index:
    index = open_home(home, say)
    try:
        return _caught_up(home, index, say)
    except sqlite3.DatabaseError as error:
        if not set_aside_if_damaged(home, index, error, say):
            raise
    return _caught_up(home, open_home(home, say), say)


def _caught_up(home: Home, index: Index, say: Say) -> Index:
    """The same index, in step; it is closed when that fails."""
    try:
        catch_up(home, index, say)
    except BaseException:
        index.close()
        raise
    return index


def open_home(home: Home, say: Say) -> Index:
    """The home's index, after taking over what an older tool left. Raises ConfigError."""
    try:
        legacy_import.take_over(home, say)
        home.make()
        index = open_index(home, VIEWER_BUSY_TIMEOUT_S, say)
    except OSError as error:
        raise home.unusable(error) from error
    index.is_patient = True
    return index


def catch_up(home: Home, index: Index, say: Say) -> None:
    """Bring the index in step with the run directories. Blocks for seconds only where an orphan must be ended.

    An index that is replaced meanwhile lacks what was brought in before: then the new one is brought in step. Raises
    NoRoomError where the state of a run cannot be stored for want of room.
    """
    for _ in range(_MAX_REPLACEMENTS):
        reopen_if_replaced(home, index, say)
        if _catch_up_once(home, index, say):
            return


def _catch_up_once(home: Home, index: Index, say: Say) -> bool:
    """False when the index was replaced meanwhile: what holds for the first does not hold for the new one."""
    identity = index.identity
    modified_ns = home.runs_path.stat().st_mtime_ns
    # costs one stat when no run was made or removed since
    is_changed = index.seen_folder_ns() != modified_ns
    on_disk = set(home.run_ids()) if is_changed else set()
    unseen = _unseen(index, on_disk) if is_changed else set()
    behind = {*home.unsettled(), *unseen, *index.behind()}
    if behind:
        _wait_for_turn(index)
    are_many = len(behind) > _MANY  # their entries in experiments.json are written at once, when the index has them all
    if are_many:
        index.set_snapshot_due()
    is_stored = True
    for run_id in behind:
        with home.changing():
            is_stored &= _refresh(home, index, home.rundir(run_id), say, publish=not are_many).is_stored
    if index.identity != identity:
        return False
    if index.is_in_memory:
        return True
    if not is_stored and not home.has_room():
        raise home.unusable(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    known = experiments_json.run_ids(home.snapshot_path)
    if index.is_snapshot_due() or known is None or (is_changed and (known - on_disk or _lacks(known, index))):
        try:
            experiments_json.rebuild(home, index, say)
        except HomeBusyError:  # another process holds the home's lock: the next look tries again
            return True
        except OSError as error:
            if not lacks_room(error):
                raise
    # last: a process that dies before, or could not store all of it, has seen nothing
    is_quiet = time.time_ns() - modified_ns > _SETTLED_AFTER_NS
    if is_changed and is_quiet and not any(_is_missing(home, index, run_id) for run_id in unseen):
        index.set_seen_folder_ns(modified_ns)
    return True


def _wait_for_turn(index: Index) -> None:
    """Raise sqlite3.OperationalError where the index is locked for too long: each write would wait again."""
    try:
        index.wait_for_turn()
    except sqlite3.OperationalError as error:
        if is_locked(error):
            raise


def _lacks(known: set[str], index: Index) -> bool:
    """Whether experiments.json lacks runs that it has room for: it was written from an index that lacked them."""
    return len(known) < experiments_json.MAX_RUNS and bool(index.run_ids() - known)


def _unseen(index: Index, on_disk: set[str]) -> set[str]:
    """The runs on disk that the index does not know; those that it knows and are gone are removed from it."""
    known = index.run_ids()
    for run_id in known - on_disk:
        index.remove(run_id)
    return on_disk - known


def missing_runs(home: Home, index: Index) -> set[str]:
    """The runs on disk that the index lacks: another process is filling it, or it could not be written to."""
    if index.seen_folder_ns() == home.runs_path.stat().st_mtime_ns:
        return set()
    return {run_id for run_id in set(home.run_ids()) - index.run_ids() if _is_missing(home, index, run_id)}


def _is_missing(home: Home, index: Index, run_id: str) -> bool:
    """Whether the index lacks a run that it could have: not one that was left out or removed."""
    if index.journal_size(run_id) is not None:
        return False
    rundir = home.rundir(run_id)
    try:
        rundir.read_spec()
    except UnreadableError:
        return True
    except FileNotFoundError:
        return rundir.journal_path.exists()
    return True


def refresh(home: Home, index: Index, rundir: RunDir, say: Say, *, publish: bool = True) -> bool:
    """Bring one run up to date, recording its end if its supervisor is dead. True while a process holds it.

    True, too, between two sessions of one command: nothing is running, and yet more is to come.
    publish: what has ended is brought into experiments.json at once. Raises ConfigError where the home cannot be
    written to.
    """
    with home.changing():
        return _refresh(home, index, rundir, say, publish=publish).is_answered_for


class _Refreshed(NamedTuple):
    is_answered_for: bool = False
    is_stored: bool = True  # False: the index could not take the run's state


def _refresh(home: Home, index: Index, rundir: RunDir, say: Say, *, publish: bool) -> _Refreshed:
    try:
        spec, journal = _opened(rundir)
    except FileNotFoundError:
        home.mark_refreshed(rundir.run_id)  # removed meanwhile, or not a run
        return _Refreshed()
    except UnreadableError as error:
        return _Refreshed(_record_unreadable(index, rundir, str(error)))
    try:
        reader = RunReader(rundir.journal_path, spec, index.folded(spec.id))
        recorder = Recorder(home, rundir, spec, journal, say, reader=reader).use(index)
        recorder.output.look_for_checkpoints_in(
            functools.cache(lambda: _folders_of_trainer(rundir, recorder.read_run()[0].last_session))
        )
        if recorder.read_run()[0].is_on_slurm:
            is_answered_for = _refresh_job(home, rundir, spec, journal, recorder, say, publish=publish)
            return _Refreshed(is_answered_for, recorder.is_state_stored)
        is_free = journal.try_lock()
        if is_free and recorder.read_run()[0].is_on_slurm:  # it was submitted to Slurm just now
            return _Refreshed(is_answered_for=True)
        if is_free:
            is_filed = False
            if not recorder.read_run()[0].status.is_final:
                _begin(recorder, index)
                is_filed = recovery.reconcile(rundir, spec, journal, VIEW_PATIENCE_S, say)
            _finish(recorder, index, publish=publish)
            if is_filed:
                recovery.notify_end(home, rundir, spec)
        else:
            recorder.record_state(publish=False)
            _read_on(recorder)
    finally:
        journal.close()
    return _Refreshed(not is_free, recorder.is_state_stored)


def _folders_of_trainer(rundir: RunDir, session: Session | None) -> tuple[str, ...]:
    """Those that its living processes are in: a supervisor that was killed may have left some.

    session: the newest; one that has ended, or was begun before the machine was, or elsewhere, has none.
    """
    if session is None or session.status.is_final or session.boot_id not in {None, host.boot_id()}:
        return ()
    from backprop.supervisor.process import tree

    return tree.folders(tree.marked(str(rundir.path)))


def _begin(recorder: Recorder, index: Index) -> None:
    """Mark that a run is being reconciled. Where there is no room for that, the index does not call it whole either."""
    try:
        recorder.begin()
    except OSError as error:
        if not (index.is_in_memory and lacks_room(error)):
            raise


def _finish(recorder: Recorder, index: Index, *, publish: bool) -> None:
    """Store what there is of a run that has ended; in memory its state, and of its output only so much."""
    if index.is_in_memory:
        recorder.record_state(publish=False)
        _read_on(recorder)
    else:
        recorder.finish(publish=publish)


def _opened(rundir: RunDir) -> tuple[RunSpec, Journal]:
    """The spec of a run, and its journal. Raises UnreadableError, OSError, or FileNotFoundError where no run is."""
    try:
        spec = rundir.read_spec()
    except FileNotFoundError:
        if not rundir.journal_path.exists():
            raise
        raise UnreadableError(f"{rundir.spec_path.name} is missing") from None
    if spec.id != rundir.run_id:
        raise UnreadableError(f"it is a copy of run {spec.id}")
    if not os.path.lexists(rundir.journal_path) and rundir.spec_path.exists():
        raise UnreadableError(f"{rundir.journal_path.name} is missing")
    try:
        return spec, Journal(rundir.journal_path)
    except OSError as error:
        if error.errno == errno.EROFS:
            return spec, Journal(rundir.journal_path, is_read_only=True)
        if error.errno in _OF_THE_HOME:
            raise
        raise unreadable(rundir.journal_path, error) from error


def _record_unreadable(index: Index, rundir: RunDir, reason: str) -> bool:
    """Let views show a run whose record cannot be read, with what the index has of it. True while it is running."""
    if recovery.is_held(rundir):
        return True  # what its supervisor wrote into the index before is still true
    known = index.get(rundir.run_id, metrics=())
    run = Run(spec=_unreadable_spec(rundir), status=Status.UNREADABLE) if known is None else known.run
    if run.status is not Status.UNREADABLE or run.reason != reason:
        run = msgspec.structs.replace(run, status=Status.UNREADABLE, reason=reason, waiter=None)
        index.put_run(run, index.journal_size(rundir.run_id) or 0)
    return False


def _unreadable_spec(rundir: RunDir) -> RunSpec:
    """What is known of a run whose record was never read: its folder."""
    folder = rundir.path.lstat()
    return unknown_spec(rundir.run_id, min(max(0.0, folder.st_mtime), time.time()), str(folder.st_uid))


def unknown_spec(run_id: str, created_at_unix_s: float, user: str) -> RunSpec:
    """The spec of a run whose own is unknown."""
    return RunSpec(
        id=run_id,
        command=("?",),
        cwd="/",
        created_at=datetime.fromtimestamp(created_at_unix_s, timezone.utc),
        host="?",
        user=user,
        limits=Limits(timebox_s=0.0, grace_s=0.0, min_free_ram_bytes=0, min_free_disk_bytes=0),
    )


def _read_on(recorder: Recorder) -> None:
    """Store what a live run has written since: session after session, which is the order of its points."""
    stretches = 0
    for session in recorder.output.sessions_to_read():
        at_s = session.trained_s(datetime.now(timezone.utc))
        while True:
            look = recorder.output.ingest(session.number, at_s, is_over=session.status.is_final)
            stretches += len(look.batches)
            if not look.is_stored or stretches >= _LIVE_STRETCHES:
                return
            if not look.batches:
                break


def _refresh_job(
    home: Home, rundir: RunDir, spec: RunSpec, journal: Journal, recorder: Recorder, say: Say, *, publish: bool
) -> bool:
    """As `refresh`, for a run that Slurm executes: Slurm, not a lock, tells whether it is alive.

    A kernel lock does not work across machines on many file systems. Slurm is asked before the journal is read, so that
    a job that ends meanwhile is not taken for one that died.
    """
    before, _ = recorder.read_run()
    if before.status.is_final:
        recorder.finish(publish=publish)
        return recovery.is_about_to_requeue(rundir, before)
    cluster = engines.cluster()
    seen = cluster.observe(before)
    if (complaint := cluster.complaint()) is not None:
        say(complaint)
    now_unix_s = home.mark_here(spec.id)  # this machine may see it for the first time
    if before.waiter is not None and seen.is_unsatisfiable and journal.try_lock() and _is_withdrawn(before):
        recorder.begin()
        reason = f"Slurm can never schedule it: {seen.message}"
        journal.append(Refused(at=datetime.now(timezone.utc), reason=reason, figures={}))
        journal.forget_requests()
        recorder.finish(publish=publish)
        recovery.notify_end(home, rundir, spec)
        return False
    cluster.hurry(before, seen)
    cluster.release_forgotten(before, seen)
    has_ended = seen.phase is Phase.ENDED and (seen.is_known or not journal.has_recent_heartbeat(now_unix_s))
    if not has_ended or recovery.is_being_requeued(rundir, before) or not journal.try_lock():
        is_pending = seen.phase is Phase.PENDING and seen.message is not None
        recorder.record_state(publish=False, reason=f"Slurm: {seen.message}" if is_pending else None)
        _read_on(recorder)
        return True
    recorder.begin()
    if before.job is None:
        cluster.forget_unsubmitted(spec)
    is_filed = recovery.reconcile(rundir, spec, journal, 0.0, say, _why_it_ended(rundir, before, seen))
    recorder.finish(publish=publish)
    if is_filed:
        recovery.notify_end(home, rundir, spec)
    return False


def _why_it_ended(rundir: RunDir, run: Run, seen: Observation) -> str | None:
    """What Slurm reports; and the likely cause where Backprop never began in the job."""
    has_begun = run.waiter is None or run.job is None or rundir.job_log_path(run.job).exists()
    if has_begun or not seen.is_failure:
        return seen.message
    return f"{seen.message} before Backprop began in it: can its node see {rundir.path} and Backprop's own Python?"


def _is_withdrawn(run: Run) -> bool:
    """False when its job has begun meanwhile, or Slurm does not answer."""
    try:
        return engines.cluster().withdraw(run).phase is Phase.ENDED
    except BackpropError:
        return False


def forget(home: Home, index: Index, run_id: str, say: Say) -> None:
    """Take a run that was removed out of the index and of experiments.json; without room, the next look does."""
    try:
        index.remove(run_id)
        experiments_json.put(home, index, run_id, say)
    except (OSError, sqlite3.OperationalError) as error:
        if not lacks_room(error):
            raise
