"""The stop ladder: when a trainer is warned, interrupted, terminated and killed, and how. Times in monotonic seconds.

warn        control.json asks to stop: a trainer that reads it finishes its step, saves and exits
interrupt   SIGINT to the training processes: `except KeyboardInterrupt` and `finally` run
terminate   SIGTERM to the tree
kill        SIGKILL to the tree

When each rung is due is decided by the functions on `Ladder`, which are pure. `StopEscalation` acts on it.
"""

import os
import signal
from enum import IntEnum

from backprop.records import Record, StopReason, in_minutes
from backprop.store.journal.entries import Signalled, StopRequested
from backprop.store.output.tail import Tail
from backprop.supervisor import outcome
from backprop.supervisor.context import SessionContext
from backprop.supervisor.control_file import ControlFile
from backprop.supervisor.pauses import Pauses
from backprop.supervisor.process.trainer_process import Trainer

TERMINATE_AFTER = 2 / 3  # of the grace
MAX_NOTICE = 1 / 3  # of the timebox, or of the grace when the stop was requested
MIN_NOTICE_S = 0.5  # steps and saves appear up to two looks longer to us than they are
_OTHERS_AFTER_S = 2.0  # when Slurm ends a job, it reaches some nodes later than others
_TASKS_KILLED_WITHIN_S = 5.0  # the time srun needs, if no node is lost


class Rung(IntEnum):
    """How far a stop has escalated."""

    NONE = 0
    WARN = 1
    INTERRUPT = 2
    TERMINATE = 3
    KILL = 4


_MAY_SAVE = (Rung.INTERRUPT, Rung.TERMINATE)


class Ladder(Record, frozen=True):
    """When each rung is due, in monotonic seconds."""

    warn_at: float
    interrupt_at: float
    terminate_at: float
    kill_at: float

    def due(self, now: float) -> Rung:
        """The highest rung that is due by now."""
        if now >= self.kill_at:
            return Rung.KILL
        if now >= self.terminate_at:
            return Rung.TERMINATE
        if now >= self.interrupt_at:
            return Rung.INTERRUPT
        return Rung.WARN if now >= self.warn_at else Rung.NONE

    def next_after(self, now: float) -> float:
        """When the next rung is due; infinity when none is left."""
        instants = (self.warn_at, self.interrupt_at, self.terminate_at, self.kill_at)
        return min((instant for instant in instants if instant > now), default=float("inf"))


def at_timebox(deadline: float, timebox_s: float, grace_s: float, notice_s: float | None) -> Ladder:
    """The ladder of an undisturbed session: it is interrupted at `deadline` and killed `grace_s` later.

    notice_s: how long the trainer needs to finish a step and save; None when it does not read control.json.
    """
    notice = 0.0 if notice_s is None else min(max(notice_s, MIN_NOTICE_S), timebox_s * MAX_NOTICE)
    return Ladder(
        warn_at=deadline - notice,
        interrupt_at=deadline,
        terminate_at=deadline + grace_s * TERMINATE_AFTER,
        kill_at=deadline + grace_s,
    )


def after_training(deadline: float, grace_s: float, finish_s: float) -> Ladder:
    """The ladder of a session whose training has finished: the script may run for `finish_s` longer.

    It is killed when both that and the grace are over; the last third of a grace is left for its end.
    """
    interrupt_at = deadline + max(0.0, finish_s - grace_s * (1 - TERMINATE_AFTER))
    kill_at = deadline + max(grace_s, finish_s)
    return Ladder(
        warn_at=interrupt_at,
        interrupt_at=interrupt_at,
        terminate_at=interrupt_at + (kill_at - interrupt_at) * TERMINATE_AFTER,
        kill_at=kill_at,
    )


def at_request(now: float, grace_s: float, notice_s: float | None, current: Ladder) -> Ladder:
    """The ladder after a request to stop at `now`. No rung is later than it was."""
    notice = 0.0 if notice_s is None else min(max(notice_s, MIN_NOTICE_S), grace_s * MAX_NOTICE)
    return Ladder(
        warn_at=min(now, current.warn_at),
        interrupt_at=min(now + notice, current.interrupt_at),
        terminate_at=min(now + grace_s * TERMINATE_AFTER, current.terminate_at),
        kill_at=min(now + grace_s, current.kill_at),
    )


def warned(now: float, grace_s: float, current: Ladder) -> Ladder:
    """The ladder of a trainer that is warned now: its notice counts from now, at the expense of a late grace.

    A script that starts to read control.json when its time is almost over gets as long to save as any other.
    """
    notice = min(current.interrupt_at - current.warn_at, grace_s * MAX_NOTICE)
    interrupt_at = min(max(current.interrupt_at, now + notice), current.terminate_at)
    return Ladder(
        warn_at=current.warn_at,
        interrupt_at=interrupt_at,
        terminate_at=current.terminate_at,
        kill_at=current.kill_at,
    )


def at_interrupt(now: float, grace_s: float) -> Ladder:
    """The ladder of a trainer that is interrupted only now."""
    return Ladder(warn_at=now, interrupt_at=now, terminate_at=now + grace_s * TERMINATE_AFTER, kill_at=now + grace_s)


def at_once(now: float) -> Ladder:
    """The ladder of a kill: every rung is due now."""
    return Ladder(warn_at=now, interrupt_at=now, terminate_at=now, kill_at=now)


def shifted(ladder: Ladder, seconds: float) -> Ladder:
    """The same ladder later: time spent paused does not count."""
    return Ladder(
        warn_at=ladder.warn_at + seconds,
        interrupt_at=ladder.interrupt_at + seconds,
        terminate_at=ladder.terminate_at + seconds,
        kill_at=ladder.kill_at + seconds,
    )


class StopEscalation:
    """Stops one session's trainer: climbs the ladder rung by rung, at its timebox or when a stop is requested.

    A requested stop is in the journal before any signal is sent.
    """

    def __init__(self, context: SessionContext, trainer: Trainer, pauses: Pauses, control: ControlFile) -> None:
        """To be made at the launch, when the timebox begins."""
        timebox_s, grace_s = context.limits.timebox_s, context.limits.grace_s
        self._context = context
        self._trainer = trainer
        self._pauses = pauses
        self._control = control
        self._deadline = context.clock.now() + timebox_s  # when the timebox ends
        self._rest_at = 0.0  # when processes that only wait for others are interrupted as well
        self._runs_on = False  # after its training, beyond the timebox
        self._errors = Tail(context.rundir.err_path(context.number), 0)
        self._task_failed_at: float | None = None  # on several nodes: when one trainer was seen to have failed
        self._are_others_ended = False  # the other trainers got SIGTERM for that
        self.ladder = at_timebox(self._deadline, timebox_s, grace_s, None)
        self.rung = Rung.NONE
        self.request: StopRequested | None = None  # the first one
        self.is_kill_requested = False  # by that or a later one

    @property
    def reason(self) -> StopReason | None:
        """Why the session is being stopped; None when it is not."""
        return None if self.request is None else self.request.by

    def left_s(self, now: float) -> float:
        """Time until the trainer is interrupted. Time to finish after training counts only once the timebox is over."""
        ends_at = self.ladder.interrupt_at
        return (min(ends_at, self._deadline) if now < self._deadline else ends_at) - now

    def shift(self, paused_s: float) -> None:
        """Move the end of the timebox and every rung by the length of a pause, and inform the trainer."""
        self._deadline += paused_s
        self.ladder = shifted(self.ladder, paused_s)
        self.write_control()

    def write_control(self) -> None:
        """Inform the trainer of its deadline, and from the first rung on that it is to stop."""
        self._control.write(self.left_s(self._context.clock.now()), self.reason if self.rung >= Rung.WARN else None)

    # -- requests

    def ask(self, by: StopReason, detail: str, *, now: bool = False) -> None:
        """Record a request to stop in the journal, then follow it. now: kill at once."""
        stop = StopRequested(at=self._context.clock.wall(), session=self._context.number, by=by, detail=detail, now=now)
        self._context.write(stop)
        self.follow(stop)

    def follow(self, stop: StopRequested) -> None:
        """Set the ladder for a request that is in the journal. The first request is the reason that is recorded."""
        if self._pauses.is_paused:
            self._pauses.end()  # a paused process cannot react
        self.request = self.request or stop
        self.is_kill_requested |= stop.now
        now = self._context.clock.now()
        if stop.by is StopReason.TIMEBOX:
            return  # the ladder is set for it already
        if stop.now:
            self.ladder = at_once(now)
        else:
            notice_s = self._context.meter.progress.notice_s
            self.ladder = at_request(now, self._context.limits.grace_s, notice_s, self.ladder)

    def set_timebox(self, now: float) -> None:
        """Set the ladder for the end of the timebox, from the latest progress, unless another stop was requested."""
        limits, progress = self._context.limits, self._context.meter.progress
        if self.rung >= Rung.INTERRUPT or self.reason not in {None, StopReason.TIMEBOX}:
            return
        if progress.has_finished_training:
            self.ladder = after_training(self._deadline, limits.grace_s, limits.time_to_finish_s)
        elif self.request is None and self._runs_on:  # another training began after the timebox
            self.ladder = at_request(now, limits.grace_s, progress.notice_s, self.ladder)
        elif self.request is None:
            self.ladder = at_timebox(self._deadline, limits.timebox_s, limits.grace_s, progress.notice_s)

    def announce_overrun(self) -> None:
        """Say once that the timebox is over, and that the script may finish what follows its training."""
        now = self._context.clock.now()
        has_finished = self._context.meter.progress.has_finished_training  # else it was warned late, and saves
        if self._runs_on or not has_finished or self._pauses.is_paused:
            return
        if self._deadline <= now < self.ladder.interrupt_at:
            self._runs_on = True
            left = in_minutes(self.ladder.interrupt_at - now)
            self._context.observer.message(
                f"the timebox is over; training has finished, and the script may run for another {left}"
            )

    # -- escalation

    def is_over(self) -> bool:
        """Whether the root has ended, and all that were interrupted with it: some launchers do not wait for them."""
        return self._trainer.is_over() and not (self.rung in _MAY_SAVE and self._trainer.is_ending())

    def escalate(self) -> None:
        """Climb every rung that is due."""
        if self._pauses.is_paused:
            return  # the ladder is shifted when the trainer continues
        now, grace_s = self._context.clock.now(), self._context.limits.grace_s
        due = self.ladder.due(now)
        is_late = due > Rung.INTERRUPT and self.rung < Rung.INTERRUPT
        if is_late and not self.is_kill_requested:
            # we were suspended, or the machine was: a trainer that was never asked gets its whole grace
            self.ladder = at_interrupt(now, grace_s)
            due = Rung.INTERRUPT
        if due >= Rung.WARN and self.rung is Rung.NONE:
            self.ladder = warned(now, grace_s, self.ladder)
            due = self.ladder.due(now)
        while self.rung < due:
            self.rung = Rung(self.rung + 1)
            if self.rung is Rung.WARN:
                if self.request is None:
                    self.ask(StopReason.TIMEBOX, f"timebox of {in_minutes(self._context.limits.timebox_s)} ended")
                self.write_control()
            elif self.rung is Rung.KILL:
                self._kill()
            elif due < Rung.KILL and self.rung is Rung.INTERRUPT:
                self._rest_at = now + (self.ladder.terminate_at - now) / 2
                self._interrupt()
            elif due < Rung.KILL:
                self._terminate()

    def interrupt_rest(self) -> None:
        """Interrupt processes that only waited for others: once these have ended, or halfway to SIGTERM."""
        trainer = self._trainer
        if self.rung is not Rung.INTERRUPT or self._pauses.is_paused or not trainer.has_more_to_ask:
            return
        is_free = trainer.has_launchers_to_ask and not trainer.is_ending()
        if is_free or self._context.clock.now() >= self._rest_at:
            self._interrupt()

    def end_other_tasks(self) -> None:
        """On several nodes: when one trainer has failed, end the others, which may wait for it forever.

        Not while the session is being stopped: then each ends at its own time, which srun reports as a failure.
        """
        now, others_at = self._context.clock.now(), (self._task_failed_at or 0.0) + _OTHERS_AFTER_S
        if self._context.spec.nodes == 1 or self.request is not None or self._pauses.is_paused:
            return
        if self._task_failed_at is None:
            self._task_failed_at = now if self._has_task_failed() else None
        elif now >= others_at + self._context.limits.grace_s:
            self._kill()
        elif now >= others_at and not self._are_others_ended:
            self._are_others_ended = True
            self._terminate()

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the whole tree, and record who got it."""
        self._record(number, self._trainer.signal(number))

    def forget_if_needless(self) -> None:
        """After the end: forget the stop where training had come to its own end before it."""
        if outcome.is_own_end(
            self._trainer.code,
            self.reason,
            was_signalled=self.rung > Rung.WARN,
            is_finished=self._context.meter.progress.is_finished,
        ):
            self.request = None

    def _interrupt(self) -> None:
        pids = self._trainer.interrupt(self._context.rundir.announced_path(self._context.number))
        if pids:
            self._record(signal.SIGINT, pids)

    def _terminate(self) -> None:
        if self._context.spec.nodes == 1:
            self.send(signal.SIGTERM)
            return
        from backprop.engines.slurm import client as slurm_client

        slurm_client.terminate_tasks(os.environ.get("SLURM_JOB_ID", ""))
        self._record(signal.SIGTERM, ())

    def _kill(self) -> None:
        if self._context.spec.nodes > 1:
            self._trainer.terminate_root(_TASKS_KILLED_WITHIN_S)  # srun then kills on all nodes
        self._record(signal.SIGKILL, self._trainer.kill())

    def _record(self, number: signal.Signals, pids: tuple[int, ...]) -> None:
        context = self._context
        context.write(Signalled(at=context.clock.wall(), session=context.number, signal=number.name, pids=pids))

    def _has_task_failed(self) -> bool:
        while (stretch := self._errors.read()) is not None:
            self._errors.move_to(stretch.end)
            if outcome.reports_failed_task(stretch.data):
                return True
        return False
