"""What follows a session, decided from the journal: another timebox, a retry, or the end. Pure."""

from collections.abc import Sequence
from enum import Enum

from backprop.errors import ExitCode
from backprop.lifecycle.owned_run import Request
from backprop.records import (
    Checkpoint,
    Record,
    Run,
    Session,
    Status,
    StopReason,
)
from backprop.store.journal.entries import (
    Entry,
    NotContinued,
    Queued,
    Refused,
    SessionStarted,
    StopRequested,
    Submitted,
)

MAX_BACKOFF_S = 60.0


class Attempt(Record, frozen=True):
    """How a session ended, as far as it matters for what comes next."""

    status: Status
    exit_code: int | None
    elapsed_s: float
    step: int | None  # the last that it reported
    newest: Checkpoint | None  # that looks whole, of all sessions so far
    is_over_own_limit: bool = False  # stopped because it used more RAM or GPU memory than it may

    @property
    def is_failure(self) -> bool:
        """A crash, or out of memory: another try from the newest checkpoint may get further."""
        return self.status is Status.FAILED or self.is_over_own_limit


class Kind(Enum):
    """What follows a session."""

    END = "end"
    RETRY = "retry"  # again, in what is left of its timebox
    TURN = "turn"  # another timebox


class Next(Record, frozen=True):
    """What follows a session, and what there is to say about it."""

    kind: Kind = Kind.END
    told: str | None = None
    delay_s: float = 0.0
    timebox_s: float = 0.0


def after(request: Request, attempts: Sequence[Attempt]) -> Next:
    """What follows the last of these attempts, the first being that of this request's first session."""
    last = attempts[-1]
    if last.status is Status.TIMEBOXED:
        turns = sum(attempt.status is Status.TIMEBOXED for attempt in attempts)
        if turns >= request.sessions:
            return Next()
        told = f"session {turns + 1} of {request.sessions}"
        return Next(kind=Kind.TURN, told=told, timebox_s=request.limits.timebox_s)
    if last.is_failure and request.retries and last.exit_code != ExitCode.NOT_EXECUTED:
        return _after_failure(request, attempts)
    return Next()


def _after_failure(request: Request, attempts: Sequence[Attempt]) -> Next:
    last, before = attempts[-1], attempts[-2] if len(attempts) > 1 else None
    used = sum(attempt.is_failure for attempt in attempts[:-1])
    if used >= request.retries:
        return Next(told=f"gave up after {used} {'retry' if used == 1 else 'retries'}")
    is_stuck = before is not None and before.is_failure and _is_same_place(before, last)
    if is_stuck:
        return Next(told=f"not retried: it failed twice at step {last.step} with no new checkpoint in between")
    left_s = request.limits.timebox_s - _spent_s(attempts)
    if left_s < _WORTH_A_RETRY_S:
        return Next(told="no time left in its timebox for a retry")
    delay_s = _backoff_s(attempts)
    told = f"retry {used + 1} of {request.retries} in {delay_s:g} s, with {left_s:.0f} s left in its timebox"
    return Next(kind=Kind.RETRY, told=told, delay_s=delay_s, timebox_s=left_s)


def _is_same_place(one: Attempt, other: Attempt) -> bool:
    return one.step is not None and one.step == other.step and one.newest == other.newest


def _spent_s(attempts: Sequence[Attempt]) -> float:
    """How much of the present timebox is gone: the failures since the last one that was used up."""
    spent_s = 0.0
    for attempt in attempts:
        spent_s = spent_s + attempt.elapsed_s if attempt.is_failure else 0.0
    return spent_s


def _backoff_s(attempts: Sequence[Attempt]) -> float:
    """1, 2, 4 ... seconds for failures in a row without a new checkpoint."""
    in_a_row = 0
    for one, other in zip(reversed(attempts[:-1]), reversed(attempts), strict=False):
        if not one.is_failure or one.newest != other.newest:
            break
        in_a_row += 1
    return min(MAX_BACKOFF_S, 2.0 ** min(in_a_row, 10))


_WORTH_A_RETRY_S = 1.0  # less of a timebox is no use to anybody


class Assignment(Record, frozen=True):
    """The next session of a submission."""

    submitted: Submitted
    timebox_s: float  # what is left of it
    turn: int  # the how manieth timebox of the request this is, from 1
    is_first: bool  # nothing of it was done yet: it begins from the checkpoint that was named
    retries: int  # that are left of it, after this session


def remaining(run: Run, entries: Sequence[Entry]) -> Assignment | None:
    """What is left to do; None when nothing is, or when somebody wants no more of it. Pure.

    A session that was broken off by Slurm or by the death of its node is gone on with in the rest of its timebox; one
    that failed, too, while retries are left. One that the user, the governor or the trainer itself ended is the last.
    Nor does one begin that was refused.
    """
    submitted, since = _newest(entries)
    if submitted is None or _is_given_up(since) or unwanted(run, entries) is not None:
        return None
    done = [session for session in run.sessions if session.number >= submitted.session]
    turns = sum(session.status is Status.TIMEBOXED for session in done)
    spent_s = _used_s(done)
    retries = submitted.retries - sum(session.status is Status.FAILED for session in done)
    if done and not _goes_on(done[-1], may_retry=retries >= 0):
        return None
    left_s = submitted.limits.timebox_s - spent_s
    if turns >= submitted.sessions or left_s < _WORTH_A_RETRY_S:
        return None
    return Assignment(submitted=submitted, timebox_s=left_s, turn=turns + 1, is_first=not done, retries=max(0, retries))


def unwanted(run: Run, entries: Sequence[Entry]) -> StopRequested | None:
    """The user's word that the last session of a submission, or the one that was to come, shall be followed by none."""
    last = run.newest_number
    return next(
        (
            entry
            for entry in _newest(entries)[1]
            if isinstance(entry, StopRequested) and entry.by is StopReason.USER and entry.session in {last, last + 1}
        ),
        None,
    )


def newest_job(entries: Sequence[Entry]) -> str | None:
    """The Slurm job that has the run, or had it last; None: it has been on a machine of the user's since."""
    return next((e.job for e in reversed(entries) if isinstance(e, (Submitted, SessionStarted, Queued))), None)


def _newest(entries: Sequence[Entry]) -> tuple[Submitted | None, Sequence[Entry]]:
    """The newest submission, and all that was told since; none for a run that went to a machine of the user's."""
    for place in reversed(range(len(entries))):
        entry = entries[place]
        if isinstance(entry, (SessionStarted, Queued)) and entry.job is None:
            break
        if isinstance(entry, Submitted) and not entry.is_again:
            return entry, entries[place + 1 :]
    return None, ()


def _is_given_up(since: Sequence[Entry]) -> bool:
    """It was refused, or not continued, and has not lined up again."""
    for entry in reversed(since):
        if isinstance(entry, Submitted):
            return False
        if isinstance(entry, NotContinued) or (isinstance(entry, Refused) and not entry.is_presumed):
            return True
    return False


def _goes_on(last: Session, *, may_retry: bool) -> bool:
    if last.status is Status.FAILED:
        return may_retry and last.exit_code != ExitCode.NOT_EXECUTED
    if last.status in {Status.TIMEBOXED, Status.INTERRUPTED}:
        return True
    return last.status is Status.STOPPED and last.stopped_by is StopReason.SIGNAL


def _used_s(done: Sequence[Session]) -> float:
    """How much of the present timebox is gone: in the sessions since the last one that was used up."""
    spent_s = 0.0
    for session in done:
        spent_s = 0.0 if session.status is Status.TIMEBOXED else spent_s + (session.elapsed_s or 0.0)
    return spent_s
