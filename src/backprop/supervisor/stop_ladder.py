"""The stop ladder: when to warn, interrupt, terminate and kill. Pure; instants are monotonic seconds.

warn        control.json says stop: a trainer that listens finishes its step, saves and exits
interrupt   SIGINT to those who train: `except KeyboardInterrupt` and `finally` run
terminate   SIGTERM to the tree
kill        SIGKILL to the tree
"""

from enum import IntEnum

from backprop.records import Record

TERMINATE_AFTER = 2 / 3  # of the grace
MAX_NOTICE = 1 / 3  # of the timebox, or of the grace when the stop was not foreseen
MIN_NOTICE_S = 0.5  # a step and a save as we see them are up to two looks longer than they were


class Rung(IntEnum):
    """How far up the ladder a session is."""

    NONE = 0
    WARN = 1
    INTERRUPT = 2
    TERMINATE = 3
    KILL = 4


class Ladder(Record, frozen=True):
    """When each rung is due, in monotonic seconds."""

    warn_at: float
    interrupt_at: float
    terminate_at: float
    kill_at: float

    def due(self, now: float) -> Rung:
        """The highest rung that should have been climbed by now."""
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
    """The ladder of a session that is left alone: it ends at `deadline` and is gone `grace_s` later.

    notice_s: how long the trainer needs to finish a step and save; None when it does not listen.
    """
    notice = 0.0 if notice_s is None else min(max(notice_s, MIN_NOTICE_S), timebox_s * MAX_NOTICE)
    return Ladder(
        warn_at=deadline - notice,
        interrupt_at=deadline,
        terminate_at=deadline + grace_s * TERMINATE_AFTER,
        kill_at=deadline + grace_s,
    )


def after_training(deadline: float, grace_s: float, finish_s: float) -> Ladder:
    """The ladder of a session whose training has finished: what the script still does may take `finish_s` longer.

    It is gone when both that and the grace are over; the last third of a grace is left for how it is ended.
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
    """The ladder after somebody asked to stop at `now`. Never later than what was going to happen anyway."""
    notice = 0.0 if notice_s is None else min(max(notice_s, MIN_NOTICE_S), grace_s * MAX_NOTICE)
    return Ladder(
        warn_at=min(now, current.warn_at),
        interrupt_at=min(now + notice, current.interrupt_at),
        terminate_at=min(now + grace_s * TERMINATE_AFTER, current.terminate_at),
        kill_at=min(now + grace_s, current.kill_at),
    )


def warned(now: float, grace_s: float, current: Ladder) -> Ladder:
    """The ladder of a trainer that is warned now: its notice counts from here, at the cost of the grace if it is late.

    A script that begins to listen when its time is all but up gets as long to save as any other.
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
    """The ladder of somebody who will not wait."""
    return Ladder(warn_at=now, interrupt_at=now, terminate_at=now, kill_at=now)


def shifted(ladder: Ladder, seconds: float) -> Ladder:
    """The same ladder later: time spent paused does not count."""
    return Ladder(
        warn_at=ladder.warn_at + seconds,
        interrupt_at=ladder.interrupt_at + seconds,
        terminate_at=ladder.terminate_at + seconds,
        kill_at=ladder.kill_at + seconds,
    )
