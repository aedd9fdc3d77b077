"""What follows a session: another timebox, a retry, or the end. Pure.

There are two policies, because they are asked by processes that know different things. `after` is asked by the process
that supervised the sessions, for what it does next on its machine. A retry depends on what no journal entry records:
the last step, the newest valid checkpoint, and whether the run went over its own memory limit. `remaining` is asked by
processes that saw none of the sessions (a requeued Slurm job, a front that follows it, any view), so it decides by the
journal alone. Both count the timeboxes used up, and the time used of the present one, in the same way.
"""

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
_WORTH_A_RETRY_S = 1.0  # less of a timebox is not worth a session


class Attempt(Record, frozen=True):
    """How a session ended, as far as it matters for what comes next."""

    status: Status
    exit_code: int | None
    elapsed_s: float
    step: int | None  # the last that it reported
    newest: Checkpoint | None  # the newest that looks valid, of all sessions so far
    is_over_own_limit: bool = False  # stopped for using more RAM or GPU memory than its limit

    @property
    def is_failure(self) -> bool:
        """A crash, or out of memory: a retry from the newest checkpoint may get further."""
        return self.status is Status.FAILED or self.is_over_own_limit


class NextAction(Enum):
    """What follows a session."""

    END = "end"
    RETRY = "retry"  # again, in what is left of its timebox
    TIMEBOX = "timebox"  # another one


class Next(Record, frozen=True):
    """What follows a session, and a message about it."""

    kind: NextAction = NextAction.END
    message: str | None = None
    delay_s: float = 0.0
    timebox_s: float = 0.0


def after(request: Request, attempts: Sequence[Attempt]) -> Next:
    """What follows the last of these attempts, the first being that of this request's first session."""
    last = attempts[-1]
    if last.status is Status.TIMEBOXED:
        used_up, _ = _used(attempts)
        if used_up >= request.sessions:
            return Next()
        message = f"session {used_up + 1} of {request.sessions}"
        return Next(kind=NextAction.TIMEBOX, message=message, timebox_s=request.limits.timebox_s)
    if last.is_failure and request.retries and last.exit_code != ExitCode.NOT_EXECUTED:
        return _after_failure(request, attempts)
    return Next()


def _after_failure(request: Request, attempts: Sequence[Attempt]) -> Next:
    last, before = attempts[-1], attempts[-2] if len(attempts) > 1 else None
    used = sum(attempt.is_failure for attempt in attempts[:-1])
    if used >= request.retries:
        return Next(message=f"gave up after {used} {'retry' if used == 1 else 'retries'}")
    is_stuck = before is not None and before.is_failure and _is_same_place(before, last)
    if is_stuck:
        return Next(message=f"not retried: it failed twice at step {last.step} with no new checkpoint in between")
    left_s = request.limits.timebox_s - _used(attempts)[1]
    if left_s < _WORTH_A_RETRY_S:
        return Next(message="no time left in its timebox for a retry")
    delay_s = _backoff_s(attempts)
    message = f"retry {used + 1} of {request.retries} in {delay_s:g} s, with {left_s:.0f} s left in its timebox"
    return Next(kind=NextAction.RETRY, message=message, delay_s=delay_s, timebox_s=left_s)


def _is_same_place(one: Attempt, other: Attempt) -> bool:
    return one.step is not None and one.step == other.step and one.newest == other.newest


def _used(sessions: Sequence[Attempt] | Sequence[Session]) -> tuple[int, float]:
    """How many timeboxes are used up, and seconds used of the present one: in the sessions since the last of those."""
    used_up, used_s = 0, 0.0
    for session in sessions:
        if session.status is Status.TIMEBOXED:
            used_up, used_s = used_up + 1, 0.0
        else:
            used_s += session.elapsed_s or 0.0
    return used_up, used_s


def _backoff_s(attempts: Sequence[Attempt]) -> float:
    """1, 2, 4 ... seconds for failures in a row without a new checkpoint."""
    in_a_row = 0
    for one, other in zip(reversed(attempts[:-1]), reversed(attempts), strict=False):
        if not one.is_failure or one.newest != other.newest:
            break
        in_a_row += 1
    return min(MAX_BACKOFF_S, 2.0 ** min(in_a_row, 10))


class Assignment(Record, frozen=True):
    """The next session of a submission."""

    submitted: Submitted
    timebox_s: float  # what is left of the timebox
    timebox: int  # its 1-based index among those of the request
    is_first: bool  # no session of it has begun: it starts from the checkpoint of the request
    retries: int  # left after this session


def remaining(run: Run, entries: Sequence[Entry]) -> Assignment | None:
    """The next session of the newest submission; None when there is none to come.

    A session that Slurm or the loss of its node cut off is continued in the rest of its timebox, and so is one that
    failed, while retries are left. One that the user, the governor or the trainer itself ended is the last, and after a
    refusal none follows.
    """
    submitted, since = _newest(entries)
    if submitted is None or _is_given_up(since) or unwanted(run, entries) is not None:
        return None
    done = [session for session in run.sessions if session.number >= submitted.session]
    used_up, used_s = _used(done)
    retries = submitted.retries - sum(session.status is Status.FAILED for session in done)
    if done and not _is_continued(done[-1], may_retry=retries >= 0):
        return None
    left_s = submitted.limits.timebox_s - used_s
    if used_up >= submitted.sessions or (used_s and left_s < _WORTH_A_RETRY_S):
        return None
    return Assignment(
        submitted=submitted, timebox_s=left_s, timebox=used_up + 1, is_first=not done, retries=max(0, retries)
    )


def unwanted(run: Run, entries: Sequence[Entry]) -> StopRequested | None:
    """The user's request to stop in the last session of a submission, or before the next: no other follows."""
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
    """The newest submission, and the entries since; none for a run that has since been on a machine of the user's."""
    for place in reversed(range(len(entries))):
        entry = entries[place]
        if isinstance(entry, (SessionStarted, Queued)) and entry.job is None:
            break
        if isinstance(entry, Submitted) and not entry.is_again:
            return entry, entries[place + 1 :]
    return None, ()


def _is_given_up(since: Sequence[Entry]) -> bool:
    """Whether it was refused, or not continued, and has not been requeued since."""
    for entry in reversed(since):
        if isinstance(entry, Submitted):
            return False
        if isinstance(entry, NotContinued) or (isinstance(entry, Refused) and not entry.is_presumed):
            return True
    return False


def _is_continued(last: Session, *, may_retry: bool) -> bool:
    if last.status is Status.FAILED:
        return may_retry and last.exit_code != ExitCode.NOT_EXECUTED
    if last.status in {Status.TIMEBOXED, Status.INTERRUPTED}:
        return True
    return last.status is Status.STOPPED and last.stopped_by is StopReason.SIGNAL
