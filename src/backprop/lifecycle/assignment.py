"""What is left to do of what was submitted: the journal tells, whoever executes it and however often it is begun."""

from collections.abc import Sequence

from backprop.errors import ExitCode
from backprop.records import Record, Run, Session, Status, StopReason
from backprop.store.journal.file import Entry, NotContinued, Queued, Refused, SessionStarted, StopAsked, Submitted

_WORTH_A_SESSION_S = 1.0  # less of a timebox is no use to anybody


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
    spent_s = _spent_s(done)
    retries = submitted.retries - sum(session.status is Status.FAILED for session in done)
    if done and not _goes_on(done[-1], may_retry=retries >= 0):
        return None
    left_s = submitted.limits.timebox_s - spent_s
    if turns >= submitted.sessions or left_s < _WORTH_A_SESSION_S:
        return None
    return Assignment(submitted=submitted, timebox_s=left_s, turn=turns + 1, is_first=not done, retries=max(0, retries))


def unwanted(run: Run, entries: Sequence[Entry]) -> StopAsked | None:
    """The user's word that the last session of a submission, or the one that was to come, shall be followed by none."""
    last = run.newest_number
    return next(
        (
            entry
            for entry in _newest(entries)[1]
            if isinstance(entry, StopAsked) and entry.by is StopReason.USER and entry.session in {last, last + 1}
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


def _spent_s(done: Sequence[Session]) -> float:
    """How much of the present timebox is gone: in the sessions since the last one that was used up."""
    spent_s = 0.0
    for session in done:
        spent_s = 0.0 if session.status is Status.TIMEBOXED else spent_s + (session.elapsed_s or 0.0)
    return spent_s
