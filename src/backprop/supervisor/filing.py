"""Records how a session ended: in the journal, the index, and what the process exits with."""

import signal
import time
from collections.abc import Set as AbstractSet
from contextlib import suppress

from backprop import host
from backprop.governor.run_policy import hard_ram_limit_bytes
from backprop.records import Record, StopReason
from backprop.store.journal.entries import SessionEnded
from backprop.store.journal.fold import fold
from backprop.supervisor import outcome
from backprop.supervisor.checkpoint_offer import resume_option
from backprop.supervisor.context import SessionContext
from backprop.supervisor.plan import Outcome
from backprop.supervisor.process.memory_cgroup import MemoryCgroup

_FINAL_TRIES_S = 5.0  # how long to retry while the home is busy or full


class SessionEnd(Record, frozen=True):
    """How a session ended, before it is recorded."""

    code: int  # of the trainer, minus the signal's number where one ended it
    reason: str | None  # None for a trainer that just finished
    elapsed_s: float  # without pauses
    stopped_by: StopReason | None = None
    leftovers: tuple[str, ...] = ()  # processes that the trainer left running when it exited by itself
    is_over_own_limit: bool = False  # the governor ended it for using more than its own limits allow


class OomCheck:
    """Did the kernel kill a process of the tree for lack of memory? To be made before the launch."""

    def __init__(self) -> None:
        self._began_at = time.monotonic()
        self._kills_before = host.oom_kill_count()

    def has_killed(self, pids: AbstractSet[int]) -> bool | None:
        """Whether it killed one of these since; None: it killed a process of this machine, but not known which."""
        if host.oom_kill_count() == self._kills_before:
            return False
        killed_pids = host.oom_killed_pids(self._began_at)
        return None if killed_pids is None else bool(killed_pids & pids)


def exceeded_cgroup_limit_bytes(context: SessionContext, cgroup: MemoryCgroup | None) -> int | None:
    """The limit of the tree's cgroup, if the kernel killed a process for exceeding it."""
    limit = context.limits.ram_limit_bytes
    if cgroup is None or limit is None or not cgroup.oom_kill_count():
        return None
    return hard_ram_limit_bytes(limit)


def code_and_last_line(context: SessionContext, code: int, *, was_killed: bool) -> tuple[int, str]:
    """The trainer's exit code and the last line of its stderr; on several nodes those of the task that failed first.

    code: of the trainer or srun. was_killed: we sent SIGKILL.
    """
    err_path, is_on_several = context.rundir.err_path(context.number), context.spec.nodes > 1
    if is_on_several and was_killed and code == outcome.shell_code(-signal.SIGKILL):
        return -signal.SIGKILL, ""  # by srun, for us
    failed = outcome.first_failed_task(err_path) if is_on_several and code else None
    return (code, outcome.last_line(err_path)) if failed is None else failed


def file(context: SessionContext, end: SessionEnd) -> Outcome:
    """Record how the session ended. Returns that with the exit code of this process."""
    is_written = context.write(
        SessionEnded(
            at=context.clock.wall(),
            session=context.number,
            status=outcome.status(end.code, end.stopped_by),
            reason=end.reason,
            exit_code=outcome.shell_code(end.code),
            elapsed_s=end.elapsed_s,
            stopped_by=end.stopped_by,
            resume_option=resume_option(context),
            has_finished_training=end.reason is not None and context.meter.progress.has_finished_training,
            leftovers=end.leftovers,
        )
    )
    if not is_written:  # a full disk: no trainer reads control.json any more, and its space is enough
        with suppress(OSError):
            context.rundir.control_path.unlink()
        context.journal.append()
    _file_in_index(context)
    return Outcome(
        session=fold(context.spec, context.entries).latest[-1],
        last_step=context.meter.progress.step,
        is_over_own_limit=end.is_over_own_limit,
    )


def _file_in_index(context: SessionContext) -> None:
    if not context.journal.is_in_place(context.rundir.journal_path):
        return  # it was removed, and with it all that could be completed later
    give_up_at = time.monotonic() + _FINAL_TRIES_S
    while not (context.journal.append() and context.recorder.finish()):
        if time.monotonic() > give_up_at:
            context.observer.message("the home folder is full or busy; `backprop list` completes this record later")
            return
        time.sleep(0.05)
