"""What is left of a submission, whatever became of its sessions."""

from datetime import datetime, timezone

import msgspec
import pytest

from backprop.lifecycle.continuation import newest_job, remaining, unwanted
from backprop.records import RunSpec, Status, StopReason
from backprop.store.journal.entries import (
    Entry,
    NotContinued,
    Refused,
    SessionEnded,
    SessionStarted,
    StopRequested,
    Submitted,
)
from backprop.store.journal.fold import fold
from tests.records import LIMITS

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
SPEC = RunSpec(id="r", command=("python", "x.py"), cwd="/", created_at=AT, host="h", user="u", limits=LIMITS)
SUBMITTED = Submitted(at=AT, session=1, host="h", limits=LIMITS, job="7", checkpoint="/named")


def sessions(*ends: tuple[Status, float, StopReason | None], first: int = 1, job: str | None = "7") -> list[Entry]:
    """Sessions that ended so, after so many seconds, because somebody asked for it."""
    entries: list[Entry] = []
    for number, (status, elapsed_s, asked) in enumerate(ends, start=first):
        entries.append(
            SessionStarted(
                at=AT, session=number, timebox_s=600, grace_s=30, host="h", supervisor_pid=1, boot_id=None, job=job
            )
        )
        if asked is not None:
            entries.append(StopRequested(at=AT, session=number, by=asked, detail=""))
        ended = SessionEnded(at=AT, session=number, status=status, reason=None, exit_code=0, elapsed_s=elapsed_s)
        entries.append(ended)
    return entries


TIMEBOXED = (Status.TIMEBOXED, 600.0, StopReason.TIMEBOX)
PREEMPTED = (Status.STOPPED, 200.0, StopReason.SIGNAL)
LOST = (Status.INTERRUPTED, 100.0, None)


@pytest.mark.parametrize(
    ("ends", "of", "left"),
    [
        ([], 1, (600, 1)),
        ([TIMEBOXED], 1, None),
        ([TIMEBOXED], 3, (600, 2)),
        ([TIMEBOXED, TIMEBOXED], 3, (600, 3)),
        ([TIMEBOXED, TIMEBOXED, TIMEBOXED], 3, None),
        ([PREEMPTED], 1, (400, 1)),
        ([LOST], 1, (500, 1)),
        ([PREEMPTED, LOST], 1, (300, 1)),
        ([PREEMPTED, (Status.TIMEBOXED, 400.0, StopReason.TIMEBOX)], 2, (600, 2)),
        ([PREEMPTED, (Status.TIMEBOXED, 400.0, StopReason.TIMEBOX), LOST], 2, (500, 2)),
        ([(Status.INTERRUPTED, 599.5, None)], 1, None),
        ([(Status.STOPPED, 5.0, StopReason.USER)], 3, None),
        ([(Status.STOPPED, 5.0, StopReason.CTRL_C)], 3, None),
        ([(Status.STOPPED, 5.0, StopReason.GOVERNOR)], 3, None),
        ([(Status.COMPLETED, 5.0, None)], 3, None),
        ([(Status.FAILED, 5.0, None)], 3, None),
    ],
)
def test_what_is_left(ends: list, of: int, left: tuple[float, int] | None):
    """The rest of a timebox that Slurm broke off, further timeboxes that were asked for, and nothing else."""
    entries = [msgspec.structs.replace(SUBMITTED, sessions=of), *sessions(*ends)]
    found = remaining(fold(SPEC, entries), entries)
    assert (None if found is None else (found.timebox_s, found.timebox)) == left
    assert found is None or found.is_first == (not ends)


FAILED = (Status.FAILED, 100.0, None)


@pytest.mark.parametrize(
    ("ends", "left"),
    [
        ([], (600, 2)),
        ([FAILED], (500, 1)),
        ([FAILED, FAILED], (400, 0)),
        ([FAILED, FAILED, FAILED], None),
        ([FAILED, PREEMPTED], (300, 1)),
        ([PREEMPTED, FAILED], (300, 1)),
        ([FAILED, TIMEBOXED], (600, 1)),
        ([FAILED, FAILED, TIMEBOXED, FAILED], None),
    ],
)
def test_what_is_left_of_its_retries(ends: list, left: tuple[float, int] | None):
    """They are of the whole request, as on one machine: neither a preemption nor a further timebox brings them back."""
    entries = [msgspec.structs.replace(SUBMITTED, sessions=2, retries=2), *sessions(*ends)]
    found = remaining(fold(SPEC, entries), entries)
    assert (None if found is None else (found.timebox_s, found.retries)) == left
    given_up = [*entries, NotContinued(at=AT, reason="it failed twice at step 3")]
    assert not ends or remaining(fold(SPEC, given_up), given_up) is None


def test_what_could_not_be_started_is_not_tried_again():
    """The program will not be there the next time."""
    entries = [msgspec.structs.replace(SUBMITTED, retries=2), *sessions(FAILED)]
    entries[-1] = msgspec.structs.replace(entries[-1], exit_code=127)
    assert remaining(fold(SPEC, entries), entries) is None


@pytest.mark.parametrize("ends", [[], [(Status.TIMEBOXED, 0.8, StopReason.TIMEBOX)]])
def test_a_timebox_under_a_second_is_a_session(ends: list):
    """Only the rest of one that was broken off is not worth another."""
    limits = msgspec.structs.replace(LIMITS, timebox_s=0.8)
    entries = [msgspec.structs.replace(SUBMITTED, limits=limits, sessions=2), *sessions(*ends)]
    found = remaining(fold(SPEC, entries), entries)
    assert found is not None
    assert found.timebox_s == 0.8


def test_nothing_was_submitted():
    """A run of this machine has no assignment."""
    assert remaining(fold(SPEC, []), []) is None


def test_only_the_newest_submission_counts():
    """A resume is a request of its own: what earlier ones used, or left, is not its business."""
    resumed = msgspec.structs.replace(SUBMITTED, session=3, sessions=1, checkpoint="/other")
    entries = [SUBMITTED, *sessions(PREEMPTED, LOST), resumed]
    found = remaining(fold(SPEC, entries), entries)
    assert found is not None
    assert (found.submitted, found.timebox_s, found.timebox, found.is_first) == (resumed, 600, 1, True)


def test_a_job_that_lines_up_again_is_the_same_request():
    """What it writes when it puts itself back neither begins anew nor forgets what was used."""
    again = msgspec.structs.replace(SUBMITTED, session=2, is_again=True, checkpoint=None)
    entries = [SUBMITTED, *sessions(PREEMPTED), again]
    found = remaining(fold(SPEC, entries), entries)
    assert found is not None
    assert (found.submitted, found.timebox_s, found.is_first) == (SUBMITTED, 400, False)


def test_the_first_to_ask_for_a_stop_counts():
    """A signal of Slurm's after `backprop stop` does not make it go on."""
    asked = StopRequested(at=AT, session=1, by=StopReason.USER, detail="")
    entries = [SUBMITTED, asked, *sessions(PREEMPTED)]
    assert remaining(fold(SPEC, entries), entries) is None


REFUSED = Refused(at=AT, reason="not enough RAM", figures={})
AGAIN = msgspec.structs.replace(SUBMITTED, session=2, is_again=True)


def stop(session: int) -> StopRequested:
    return StopRequested(at=AT, session=session, by=StopReason.USER, detail="`backprop stop` by ada")


@pytest.mark.parametrize(
    "told",
    [
        [SUBMITTED, REFUSED],
        [SUBMITTED, *sessions(PREEMPTED), AGAIN, REFUSED],
        [SUBMITTED, *sessions(PREEMPTED), NotContinued(at=AT, reason="not put back into line")],
        [SUBMITTED, stop(1)],
        [SUBMITTED, *sessions(PREEMPTED), stop(1)],
        [SUBMITTED, *sessions(LOST), stop(1)],
        [SUBMITTED, *sessions(LOST), AGAIN, stop(2)],
        [msgspec.structs.replace(SUBMITTED, sessions=3), *sessions(TIMEBOXED), stop(2)],
    ],
)
def test_what_was_refused_or_is_not_wanted(told: list[Entry]):
    """Where the governor, or the user, said no, nothing is left: neither of the last session nor of the coming one."""
    assert remaining(fold(SPEC, told), told) is None
    resumed = [*told, msgspec.structs.replace(SUBMITTED, session=1 + len(fold(SPEC, told).sessions))]
    assert remaining(fold(SPEC, resumed), resumed) is not None  # that was said of an earlier request
    assert unwanted(fold(SPEC, resumed), resumed) is None


def test_a_job_that_was_refused_its_turn_by_a_signal_may_line_up_again():
    """What it writes when it puts itself back counts more than the refusal before it."""
    told = [SUBMITTED, REFUSED, msgspec.structs.replace(AGAIN, session=1)]
    found = remaining(fold(SPEC, told), told)
    assert found is not None
    assert found.is_first


def test_a_job_that_was_taken_for_dead_goes_on():
    """Whoever looks may be wrong about a job that Slurm is putting back: what it writes then does not end it."""
    told = [msgspec.structs.replace(SUBMITTED, sessions=2), *sessions(TIMEBOXED), AGAIN]
    told.append(msgspec.structs.replace(REFUSED, is_presumed=True))
    found = remaining(fold(SPEC, told), told)
    assert found is not None
    assert found.timebox == 2


def test_a_stop_of_a_session_that_never_began():
    """The session that gets its number is not stopped by it."""
    never_began = [SUBMITTED, stop(1), Refused(at=AT, reason="left the line", figures={})]
    resumed = [*never_began, SUBMITTED, *sessions(PREEMPTED)]
    run = fold(SPEC, resumed)
    assert run.last_session is not None
    assert run.last_session.stopped_by is StopReason.SIGNAL
    assert remaining(run, resumed) is not None


def test_a_run_that_went_on_here():
    """Nothing is left of what was submitted, and a job that comes to life late finds that the run is not its own."""
    moved = [SUBMITTED, *sessions(PREEMPTED), *sessions(TIMEBOXED, first=2, job=None)]
    assert newest_job([SUBMITTED, *sessions(PREEMPTED)]) == "7"
    assert newest_job(moved) is None
    assert remaining(fold(SPEC, moved), moved) is None
