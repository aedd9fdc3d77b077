"""Control requests to an active run: stop, pause, resume; and to one that has ended: another session.

The command line, the live view and the page all use these. A request is an entry in the run's journal, which its
supervisor handles within a quarter of a second; a request does not wait for that, `wait_for` does.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime, timezone
from typing import NamedTuple

from backprop import engines, host
from backprop.engines.base import Phase
from backprop.errors import BackpropError, BusyError, NoRoomError, NoSuchRunError, UsageError
from backprop.lifecycle import indexing, recovery
from backprop.lifecycle.run_state import RunState, SupervisorInfo, current_supervisor, look, wait_for
from backprop.records import Pauser, Run, RunSpec, Say, StopReason
from backprop.store.holder import signal_holder
from backprop.store.home import Home
from backprop.store.journal.entries import (
    MoveRequested,
    PauseRequested,
    Refused,
    Renamed,
    ResumeRequested,
    StopRequested,
)
from backprop.store.journal.file import Journal
from backprop.store.rundir import NO_ROOM

STOP_MARGIN_S = 10.0  # beyond the grace, for a supervisor on a busy machine
STOP_NOW_S = 5.0  # how long a supervisor may take to handle a `stop --now` before it counts as dead
END_S = 45.0  # the same for an engine to end it by force: Slurm's KillWait is 30 s
PAUSE_S = 10.0  # the same for a pause, and for its end
_START_S = 120.0  # an orphan that is saving gets its grace before the next session starts
_LOOK_S = 0.25
# nothing in the folder of the run is taken for a module of ours, and its trainer's environment stays as it is
_PROGRAM = "import sys; sys.path[:] = [p for p in sys.path if p]; from backprop.__main__ import main; main()"


def supervisor_to_stop(home: Home, run: Run) -> SupervisorInfo | None:
    """As `current_supervisor`; also for a Slurm job that is about to be requeued for another session."""
    answering = current_supervisor(run)
    if answering is not None or not run.is_on_slurm:
        return answering
    last = run.last_session
    if last is None or not recovery.is_about_to_requeue(home.rundir(run.spec.id), run):
        return None
    return SupervisorInfo(last.number + 1, last.supervisor_pid, last.host, 0.0, is_queued=True, is_on_slurm=True)


def _who_answers(
    home: Home, spec: RunSpec, answering: Callable[[Run], SupervisorInfo | None] = current_supervisor
) -> tuple[RunState, SupervisorInfo]:
    """A run as it is now, and the supervisor that answers for it. Waits while its process is between two sessions.

    A request would apply to neither of them. answering: gives the supervisor of a run. Raises UsageError when it has
    none, BusyError when the next session does not begin for long.
    """
    deadline = time.monotonic() + recovery.BETWEEN_SESSIONS_S
    while True:
        seen = look(home, spec)
        found = answering(seen.run)
        if found is not None:
            return seen, found
        if not recovery.is_held(home.rundir(spec.id)):
            raise not_running(seen.run)
        if time.monotonic() > deadline:
            raise BusyError(f"run {spec.id} has ended a session, and its process has begun no other yet; try again.")
        time.sleep(_LOOK_S)


def request_stop(
    home: Home, run: Run, *, now: bool = False, by: str = "backprop stop", dequeue: bool = True
) -> SupervisorInfo:
    """Ask a run to stop gracefully, or with `now` to be killed; a queued run leaves the queue. Does not wait.

    by: what the user typed or pressed. dequeue: False while Slurm does not respond, so that each of many runs does not
    wait for it again: a queued one handles the request when its job starts. Returns the supervisor that will handle it.
    Raises UsageError when the run is not active, and BusyError when Slurm, where it may be queued, does not respond, or
    when its process, which is between two sessions, does not come to the next: only for that it waits.
    """
    seen, answering = _who_answers(home, run.spec, lambda seen: supervisor_to_stop(home, seen))
    standing, detail = seen.run, asked_by(by)
    path = home.rundir(run.spec.id).journal_path
    is_here = not standing.is_on_slurm and answering.host == host.name()
    try:
        asked = StopRequested(at=_now(), session=answering.session, by=StopReason.USER, detail=detail, now=now)
        _append(home, standing, asked)
    except NoRoomError:  # who stopped it is not recorded then, but it stops
        if not (is_here and signal_holder(path, answering.pid, signal.SIGTERM)):
            raise
    if standing.is_on_slurm and dequeue:
        try:
            _dequeue_job(home, standing, detail)
        except BackpropError as error:
            raise BusyError(
                f"run {run.spec.id} was asked to stop, and will do so when its job starts: {error}"
            ) from error
    elif is_here:
        signal_holder(path, answering.pid, signal.SIGCONT)  # it may be suspended by Ctrl-Z
    if Pauser.SLURM in seen.pausers and not now and not look(home, run.spec).has_ended:
        raise BusyError(
            f"run {run.spec.id} was asked to stop, and will do so when Slurm resumes it: it is suspended, by "
            f"`scontrol suspend` or for another job. To kill it: backprop stop {run.spec.id} --now"
        )
    return answering


def _dequeue_job(home: Home, run: Run, detail: str) -> None:
    """Cancel a Slurm job that has not started; one that has started reads the request itself. Raises BackpropError.

    A job that Slurm requeued is pending, too, though its journal calls it running, because its supervisor was killed. A
    job that requeues itself may have looked for requests already, and is pending in a moment: Slurm takes seconds for
    that, in which it may call the job failed.
    """
    cluster = engines.cluster()
    cluster.invalidate()
    if run.waiter is None and cluster.observe(run).phase is not Phase.PENDING:
        return
    deadline = time.monotonic() + recovery.REQUEUE_S
    while True:
        seen = cluster.withdraw(run)
        may_come_back = seen.is_failure and recovery.is_being_requeued(home.rundir(run.spec.id), run)
        if seen.phase is Phase.ENDED and not may_come_back:
            break
        if time.monotonic() > deadline or look(home, run.spec).run.waiter is None:
            return
        time.sleep(_LOOK_S)
    _record_dequeued(home, run.spec, f"{detail} while queued")


def _record_dequeued(home: Home, spec: RunSpec, reason: str) -> None:
    """Record that a Slurm job left the queue, unless another process holds the run, or it has ended."""
    rundir = home.rundir(spec.id)
    with closing(Journal(rundir.journal_path)) as journal:
        if not journal.try_lock():
            return
        run = look(home, spec).run
        if run.waiter is not None:
            is_filed = journal.append(Refused(at=_now(), reason=reason, figures={}, by=StopReason.USER))
        else:
            is_filed = recovery.reconcile(rundir, spec, journal, 0.0, _say_nothing, reason)
        journal.forget_requests()
        if is_filed:
            recovery.notify_end(home, rundir, spec)


def _say_nothing(text: str) -> None:
    """The end is in the journal, which the one who asked for it reads."""


def request_pause(home: Home, run: Run, *, by: str = "backprop pause") -> None:
    """Ask a run to pause until `request_resume`. Does not wait for it, except between two sessions for the next.

    Raises UsageError when it cannot be paused: it is not running, is being stopped, or trains on several nodes;
    BusyError when it is queued, paused already, or has been between two sessions for too long.
    """
    now, answering = _who_answers(home, run.spec)
    run_id = run.spec.id
    if now.run.waiter is not None:
        raise BusyError(f"run {run_id} is queued: there is nothing to pause yet. To stop it: backprop stop {run_id}")
    nodes = 1 if now.run.last_session is None else now.run.last_session.nodes
    if nodes > 1:
        raise UsageError(f"run {run_id} trains on {nodes} nodes, which cannot be paused together. Stop it instead.")
    if now.is_paused_by_user:
        raise BusyError(f"run {run_id} is already paused: {now.run.reason}. Resume with: backprop resume {run_id}")
    if Pauser.CTRL_Z in now.pausers:
        raise BusyError(f"run {run_id} is already suspended by Ctrl-Z in its terminal.")
    if Pauser.SLURM in now.pausers:
        raise BusyError(f"run {run_id} is already suspended by Slurm.")
    if now.is_being_stopped:
        raise UsageError(f"run {run_id} is being stopped and can no longer be paused.")
    _append(home, now.run, PauseRequested(at=_now(), session=answering.session, detail=asked_by(by)))


def request_move(home: Home, run: Run, priority: int | None, *, by: str = "backprop queue move") -> None:
    """Ask a run that is queued on this machine to take another place, by the priority of its ticket. Does not wait.

    priority: None: it has no ticket there. Raises UsageError for a run that is not queued, or not here; BusyError for
    one that waits for something else before it joins the queue.
    """
    standing = look(home, run.spec).run
    waiter, run_id = standing.waiter, run.spec.id
    if waiter is None:
        raise UsageError(f"run {run_id} is not queued ({standing.status.value}).")
    if standing.is_on_slurm:
        raise UsageError(f"run {run_id} is in the queue of Slurm, which has its own priorities.")
    if waiter.host != host.name():
        raise UsageError(f"run {run_id} is in the queue of {waiter.host}: each machine has its own.")
    if priority is None:
        raise BusyError(f"run {run_id} has not joined the queue yet: {standing.reason}.")
    asked = MoveRequested(at=_now(), session=waiter.session, priority=priority, detail=asked_by(by))
    _append(home, standing, asked)


def request_resume(home: Home, run: Run, *, by: str = "backprop resume", has_options: bool = False) -> None:
    """Ask a run that a user paused to resume; waits as a pause does. What the governor paused stays so until it cools.

    A run that is about to be paused is paused, and resumes at once. Raises BusyError when no user has paused it: the
    message says who has, and what helps. has_options: meant for another session, so that a paused run is not resumed:
    raises UsageError.
    """
    now, answering = _who_answers(home, run.spec)
    run_id = run.spec.id
    if now.is_paused_by_user or now.is_asked_to_pause:
        if has_options:
            how = "paused" if now.is_paused_by_user else "asked to pause"
            raise UsageError(
                f"run {run_id} is {how}, and keeps its own settings: backprop resume {run_id}, without options."
            )
        _append(home, now.run, ResumeRequested(at=_now(), session=answering.session, detail=asked_by(by)))
    elif Pauser.CTRL_Z in now.pausers:
        raise BusyError(f"run {run_id} is suspended by Ctrl-Z in its terminal: type fg there.")
    elif Pauser.SLURM in now.pausers:
        raise BusyError(
            f"run {run_id} is suspended, and continues when Slurm resumes it: scontrol resume {now.run.job}"
        )
    elif Pauser.GOVERNOR in now.pausers:
        raise BusyError(
            f"run {run_id} is paused by the governor ({now.run.reason}) and resumes by itself when it is cool enough."
        )
    else:
        raise BusyError(recovery.busy_message(now.run))


def rename(home: Home, run: Run, name: str) -> None:
    """Give a run another name, whatever it is doing. Raises BackpropError where that cannot be written down."""
    _append(home, look(home, run.spec).run, Renamed(at=_now(), name=name))


def start_resume(home: Home, run_id: str, minutes: float | None = None) -> str:
    """Start another session of a run that has ended, in the background; the message of `backprop resume -d`.

    Blocks until the trainer is launched, or the run queued. Raises BackpropError with its message where it refuses.
    """
    limit = () if minutes is None else ("--max-run-minutes", f"{minutes:g}")
    try:
        spec = look(home, home.rundir(run_id).read_spec()).run.spec
    except FileNotFoundError as error:
        raise NoSuchRunError(f"run {run_id} was removed.") from error
    done = call(home, ("resume", run_id, "--again", "--detach", *limit), spec.cwd)
    if done.code:
        raise BackpropError(done.message or f"`backprop resume {run_id}` failed with exit code {done.code}.")
    return done.message


def command_line(words: Sequence[str]) -> list[str]:
    """The command `backprop` with these words, as another process executes it."""
    return [sys.executable, "-c", _PROGRAM, *words]


class Called(NamedTuple):
    """What came of a command."""

    code: int
    message: str  # what it said on stderr


def call(home: Home, words: Sequence[str], cwd: str, **variables: str) -> Called:
    """Run `backprop` with these words, as a user of this home would in the folder `cwd`: its settings lie there.

    variables: of its environment, besides those of this process.

    For a command that starts a run in the background: it blocks until the trainer is launched, or the run queued.
    Raises BackpropError after two minutes, or where no process can be started.
    """
    try:
        done = subprocess.run(
            command_line(words),
            cwd=cwd if os.path.isdir(cwd) else home.path,  # noqa: PTH112
            env={**os.environ, "BACKPROP_HOME": str(home.path), **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_START_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BackpropError(f"`backprop {' '.join(words[:2])}` has not started it within {_START_S:g} s.") from error
    except OSError as error:
        raise BackpropError(f"`backprop {' '.join(words[:2])}` {host.why_not_started(error)}.") from error
    message = "\n".join(line.removeprefix("backprop: ") for line in done.stderr.splitlines())
    return Called(done.returncode, message)


def stop_now(home: Home, run: Run, say: Say, *, by: str = "backprop stop --now") -> RunState:
    """Kill a run, and its supervisor too if that does not answer. How it ended, after some seconds at most.

    by: what the user typed or pressed. Raises UsageError when it is not active, BusyError when it is still running: the
    message says where.
    """
    answering = request_stop(home, run, now=True, by=by)
    ended = wait_for(home, run, lambda standing: standing.has_ended, STOP_NOW_S)
    if ended is None:
        ended = _end_without_supervisor(home, run.spec, answering, say)
    if ended is None:
        who = "Slurm" if answering.is_on_slurm else f"its supervisor, process {answering.pid} on {answering.host},"
        raise BusyError(
            f"run {run.spec.id} has not stopped yet: {who} is not responding."
            + (f" On that machine: backprop stop {run.spec.id} --now" if answering.host != host.name() else "")
        )
    return ended


def _end_without_supervisor(home: Home, spec: RunSpec, asked: SupervisorInfo, say: Say) -> RunState | None:
    """Kill the supervisor that was asked and does not answer, and let recovery end what is left; None: not from here.

    Only one that holds the run's lock still: of one that is dead, another process may have the number by now.
    """
    if not asked.is_on_slurm and asked.host != host.name():
        return None
    standing = look(home, spec)
    engine = engines.of(standing.run, home)
    # before the index is opened: a process that hangs may do so in the middle of a transaction
    if not standing.has_ended and engine.observe(standing.run).phase is Phase.RUNNING:
        who = current_supervisor(standing.run)
        if who is None or who.session != asked.session:
            return None  # another session has started since, which was not asked to stop
        say("the supervisor is not responding; killing it")
        engine.cancel(standing.run)
    deadline = time.monotonic() + END_S
    with closing(indexing.open_home(home, say)) as index:
        while time.monotonic() < deadline:
            indexing.refresh(home, index, home.rundir(spec.id), say)
            standing = look(home, spec)
            if standing.has_ended:
                return standing
            time.sleep(_LOOK_S)
    return None


# -- the journal


def not_running(run: Run) -> UsageError:
    """The error to raise where only a run that is running can be asked."""
    return UsageError(f"run {run.spec.id} is not running ({run.status.value}).")


def _append(
    home: Home, run: Run, entry: StopRequested | PauseRequested | ResumeRequested | MoveRequested | Renamed
) -> None:
    """Raises NoSuchRunError, or BackpropError when it cannot be written: a full disk, a read-only home."""
    spec = run.spec
    rundir = home.rundir(spec.id)
    try:
        with closing(Journal(rundir.journal_path)) as journal:
            # the requests of a run that is not running are not taken, and no other process writes to its journal then
            is_free = isinstance(entry, Renamed) and (run.status.is_final or run.waiter is not None)
            if run.is_on_slurm and not (is_free and journal.try_lock()):
                journal.ask(entry)
            elif not journal.append(entry):
                raise NoRoomError(f"the disk is full: the request cannot be written to {rundir.path}.")
    except FileNotFoundError as error:
        raise NoSuchRunError(f"run {spec.id} was removed.") from error
    except OSError as error:
        kind = NoRoomError if error.errno in NO_ROOM else BackpropError
        raise kind(f"the request cannot be written to {rundir.path}: {error.strerror}.") from error


def asked_by(by: str) -> str:
    """What the user typed or pressed, and who that is."""
    return f"`{by}` by {host.user()}"


def _now() -> datetime:
    return datetime.now(timezone.utc)
