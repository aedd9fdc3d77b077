"""What a sweep stands at, by its journal, and what becomes of a rung by the record of its run."""

import math
from datetime import datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.lifecycle.sweep.journal import (
    Added,
    Asked,
    Began,
    Checked,
    Confirming,
    Ended,
    Finished,
    Made,
    NotPromoted,
    Promoted,
    RungContinued,
    StopAsked,
    SweepEntry,
    SweepStopped,
    parse,
)
from backprop.lifecycle.sweep.rule import Repeat
from backprop.lifecycle.sweep.space import Parameter
from backprop.lifecycle.sweep.spec import SweepSpec
from backprop.lifecycle.sweep.standing import Facts, Standing, StepsSeen, budget_of, conclude, fold, value_of
from backprop.lifecycle.sweep.sweeper import start_advice
from backprop.records import Goal, Run, Session, Status, StopReason
from backprop.store.chunk_summary import ChunkSummary
from backprop.store.journal.entries import encode
from tests.records import SPEC as RUN_SPEC

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)
SPEC = SweepSpec(
    id="sw",
    name="digits",
    script="train.py",
    cwd="/",
    created_at=NOW,
    user="me",
    metric="score",
    goal=Goal.MAX,
    parameters=(Parameter(name="lr", low=0.0, high=1.0),),
    budget_s=100.0,
    rung_s=10.0,
    parallel=2,
)


def asked(trial: int = 0, timebox_s: float = 10.0, **changes: object) -> Asked:
    fields = {"run_id": f"r{trial}", "params": {"lr": "0.5"}, "source": "random", **changes}
    return Asked(at=NOW, trial=trial, timebox_s=timebox_s, **fields)  # type: ignore[arg-type]


def ended(trial: int = 0, rung: int = 0, value: float | None = 0.5, **changes: object) -> Ended:
    fields = {"status": Status.TIMEBOXED, "has_metric": value is not None, "can_resume": True, "trained_s": 10.0}
    return Ended(at=NOW, trial=trial, rung=rung, value=value, **{**fields, **changes})  # type: ignore[arg-type]


def promoted(trial: int = 0, rung: int = 1, **changes: object) -> Promoted:
    fields = {"request_id": f"r{trial}-{rung}", "timebox_s": 30.0, "reason": "best", **changes}
    return Promoted(at=NOW, trial=trial, rung=rung, **fields)  # type: ignore[arg-type]


def a_session(number: int = 1, request_id: str = "r0", **changes: object) -> Session:
    fields = {"status": Status.TIMEBOXED, "started_at": NOW, "timebox_s": 10.0, "grace_s": 1.0, "host": "h"}
    fields |= {"supervisor_pid": 1, "elapsed_s": 10.0, **changes}
    return Session(number=number, request_id=request_id, **fields)  # type: ignore[arg-type]


def points(best: float = 0.7, last: float | None = 0.6) -> ChunkSummary:
    return ChunkSummary(
        total=2, missing=0, low_step=1, high_step=2, first_s=0, last_s=1, last=last, last_step=2, least=0.1, greatest=best
    )  # fmt: skip


def facts(*sessions: Session, has_checkpoint: bool = True, **changes: object) -> Facts:
    run = Run(spec=RUN_SPEC, status=sessions[-1].status, latest=sessions)
    summaries = {session.number: points() for session in sessions}
    return Facts(run=run, **{"summaries": summaries, "has_checkpoint": has_checkpoint, **changes})  # type: ignore[arg-type]


def checked(*entries: SweepEntry) -> Standing:
    """A sweep whose check has passed."""
    return fold(SPEC, (*entries, Checked(at=NOW, trial=99)))


def conclusion(standing: Standing, found: Facts) -> list[SweepEntry]:
    return conclude(standing.spec, standing, standing.trials[0], found, NOW)


def test_a_trial_that_was_asked_for_has_done_nothing():
    """Its run was not seen yet; once it was, one that is gone was removed."""
    (trial,) = fold(SPEC, [asked()]).trials
    assert (trial.is_active, trial.is_made, trial.trained_s, trial.values, trial.status) == (True, False, 0.0, (), None)
    assert (trial.has_metric, trial.last.is_strict, trial.last.is_check) == (False, False, False)
    assert fold(SPEC, [asked()]).candidates[0].can_resume
    standing = fold(SPEC, [asked()])
    assert (standing.is_checked, standing.is_stop_asked) == (False, False)
    assert fold(SPEC, [StopAsked(at=NOW, by="me")]).is_stop_asked
    assert not fold(SPEC, [StopAsked(at=NOW, by="me"), Began(at=NOW, pid=1, host="h")]).is_stop_asked
    (trial,) = fold(SPEC, [asked(), Made(at=NOW, trial=0)]).trials
    assert trial.is_made


def test_a_trial_is_active_until_its_rung_has_ended():
    standing = fold(SPEC, [asked(), ended(), promoted(), asked(1), asked(2), ended(2)])
    assert [trial.number for trial in standing.active] == [0, 1]
    assert [one.active_rung for one in standing.candidates] == [1, 0, None]


def test_what_cannot_be_promoted_is_not_resumed():
    """And is active no more; a rung that goes on in another session is."""
    refused = NotPromoted(at=NOW, trial=0, request_id="r0-1", reason="no checkpoint")
    (trial,) = fold(SPEC, [asked(), ended(), promoted(), refused]).trials
    assert (trial.is_active, trial.can_resume, trial.reason) == (False, False, "no checkpoint")
    again = RungContinued(
        at=NOW, trial=0, rung=0, request_id="r0-1", timebox_s=1.0, reason="interrupted", is_check=True
    )
    (trial,) = fold(SPEC, [asked(), ended(), again]).trials
    assert (trial.is_active, trial.last.is_check, trial.last.is_strict) == (True, True, True)
    assert fold(SPEC, [asked(), ended(), promoted()]).trials[0].last.is_strict
    anew = msgspec.structs.replace(SPEC, from_scratch=True)
    assert not fold(anew, [asked(), ended(), promoted()]).trials[0].last.is_strict


def test_a_script_that_was_changed_is_seen():
    """By the checksums of what sessions executed; where there is none, nothing is known."""
    entries = [asked(), ended(script_sha256="a"), asked(1), ended(1), asked(2), ended(2, script_sha256="a")]
    assert fold(SPEC, entries).scripts == {"a"}
    assert fold(SPEC, [*entries, asked(3), ended(3, script_sha256="b")]).scripts == {"a", "b"}


def test_a_repeat_that_was_asked_for_is_planned_no_more():
    planned = tuple(Repeat(trial=0, seed=seed, timebox_s=10.0) for seed in (1, 2))
    confirming = Confirming(at=NOW, planned=planned, reason="over")
    assert fold(SPEC, [asked(), ended(), confirming, asked(1)]).planned == planned
    assert fold(SPEC, [asked(), ended(), confirming, asked(1, repeats=0, seed=1)]).planned == planned[1:]


def test_the_best_value_is_that_of_any_session_and_the_newest_one_must_be_finite():
    summaries = [points(best=0.7), points(best=0.9), points(best=0.8)]
    assert value_of(summaries, Goal.MAX) == 0.9
    lower = points()._replace(least=0.05)
    assert value_of([points(), lower, points()], Goal.MIN) == 0.05
    assert value_of([points(last=math.nan), points()], Goal.MAX) == 0.7
    assert value_of([points(), points(last=math.nan)], Goal.MAX) is None
    assert value_of([points(), points(last=None)], Goal.MAX) is None


def test_what_users_add_is_tried_in_their_order():
    """One by one; what a sampler proposed meanwhile takes none of it."""
    added = [Added(at=NOW, params={"lr": text}, by="me") for text in ("0.1", "0.2", "0.3")]
    assert fold(SPEC, [*added, asked()]).added == tuple(added)
    assert fold(SPEC, [*added, asked(source="added")]).added == tuple(added[1:])


def test_the_value_of_a_trial_is_that_of_its_last_rung():
    (trial,) = fold(SPEC, [asked(), ended(value=0.5), promoted(), ended(rung=1, value=0.9)]).trials
    assert (trial.value, trial.values) == (0.9, (0.5, 0.9))


# -- rungs in steps


def test_a_rung_in_steps_has_a_pace():
    """What its steps took, startup included; a trial that failed has none. The usual one is the median."""
    spec = msgspec.structs.replace(SPEC, rung_steps=100)
    standing = fold(
        spec,
        [
            *(asked(number) for number in range(4)),
            ended(0, trained_s=4.0),
            promoted(0),
            ended(0, rung=1, trained_s=9.0),
            ended(1, trained_s=5.0),
            ended(2, trained_s=1.0, status=Status.FAILED, value=None),
        ],
    )
    assert [one.pace_s for one in standing.candidates] == [3.0, 5.0, None, None]
    assert standing.rules.usual_s == 4.0
    assert fold(SPEC, [asked(), ended()]).rules.usual_s is None


def test_the_check_of_rungs_in_steps_goes_on_to_the_whole_rung():
    spec = msgspec.structs.replace(SPEC, rung_steps=100)
    standing = fold(spec, [asked(until_step=50)])
    [check] = conclusion(standing, facts(a_session()))
    assert isinstance(check, RungContinued)
    assert (check.is_check, check.until_step) == (True, 100)


def test_an_interrupted_rung_goes_on_to_its_step():
    spec = msgspec.structs.replace(SPEC, rung_steps=100)
    standing = fold(spec, [asked(until_step=100), Checked(at=NOW, trial=99)])
    [entry] = conclusion(standing, facts(a_session(status=Status.INTERRUPTED, elapsed_s=4.0)))
    assert isinstance(entry, RungContinued)
    assert (entry.until_step, entry.timebox_s) == (100, 6.0)


# -- the end of a rung


def test_a_rung_ends_with_the_best_value_so_far():
    """And the trial can be promoted, as long as it has a checkpoint."""
    (entry,) = conclusion(checked(asked()), facts(a_session()))
    assert isinstance(entry, Ended)
    assert (entry.value, entry.can_resume, entry.trained_s, entry.reason) == (0.7, True, 10.0, None)
    (entry,) = conclusion(checked(asked()), facts(a_session(), has_checkpoint=False))
    assert isinstance(entry, Ended)
    assert (entry.value, entry.can_resume) == (0.7, False)


def test_an_active_session_ends_no_rung():
    """Nor does one of another request."""
    running = facts(a_session(status=Status.RUNNING, elapsed_s=None))
    assert conclusion(checked(asked()), running) == []
    assert conclusion(checked(asked()), facts(a_session(request_id="other"))) == []


def test_a_value_that_is_not_finite_or_not_there_is_none():
    """With the reason."""
    for summaries, reason in (({1: points(last=None)}, "not finite"), ({}, "no metric score")):
        (entry,) = conclusion(checked(asked()), facts(a_session(), summaries=summaries))
        assert isinstance(entry, Ended)
        assert (entry.value, reason in (entry.reason or "")) == (None, True)


def test_a_failure_is_worst_and_the_end():
    """Also by the governor; with the last line of its traceback."""
    for session in (
        a_session(status=Status.FAILED, exit_code=1),
        a_session(status=Status.STOPPED, stopped_by=StopReason.GOVERNOR),
    ):
        (entry,) = conclusion(checked(asked()), facts(session, failure="ValueError: x"))
        assert isinstance(entry, Ended)
        assert (entry.status, entry.value, entry.can_resume) == (Status.FAILED, None, False)
        assert entry.reason == "ValueError: x"


def test_a_trial_that_was_retried_is_what_its_last_session_came_to():
    """All of them were asked for by one request."""
    failed = a_session(1, status=Status.FAILED, elapsed_s=2.0)
    (entry,) = conclusion(checked(asked()), facts(failed, a_session(2, elapsed_s=8.0)))
    assert isinstance(entry, Ended)
    assert (entry.status, entry.value, entry.trained_s) == (Status.TIMEBOXED, 0.7, 10.0)


def test_what_the_user_stops_or_completes_is_not_resumed():
    """Its value counts."""
    for session in (
        a_session(status=Status.COMPLETED),
        a_session(status=Status.STOPPED, stopped_by=StopReason.USER),
    ):
        (entry,) = conclusion(checked(asked()), facts(session))
        assert isinstance(entry, Ended)
        assert (entry.value, entry.can_resume) == (0.7, False)


def test_a_promoted_trial_that_did_not_read_its_checkpoint_has_no_value():
    """It was trained for less than the others of its rung."""
    standing = checked(asked(), ended(), promoted())
    for resumed_from, value in (("ckpt", 0.7), (None, None)):
        session = a_session(
            2, "r0-1", offered="ckpt", resumed_from=resumed_from, is_checkpoint_read=resumed_from is not None
        )
        (entry,) = conclusion(standing, facts(a_session(), session))
        assert isinstance(entry, Ended)
        assert (entry.rung, entry.value, entry.can_resume) == (1, value, value is not None)


@pytest.mark.parametrize("status", [Status.TIMEBOXED, Status.INTERRUPTED])
@pytest.mark.parametrize(
    ("resumed_from", "seen"),
    [("ckpt", StepsSeen(50, 1, 90)), ("ckpt", StepsSeen(50, 1, 20)), (None, StepsSeen(50, 1, 90))],
)
def test_a_promoted_trial_that_started_over_has_no_value(status: Status, resumed_from: str | None, seen: StepsSeen):
    """Even if it read the checkpoint; and if it was cut, what it saved is not continued: it is another training's."""
    session = a_session(
        2,
        "r0-1",
        status=status,
        elapsed_s=4.0,
        offered="ckpt",
        resumed_from=resumed_from,
        is_checkpoint_read=resumed_from is not None,
    )
    standing = checked(asked(), ended(), promoted())
    (entry,) = conclusion(standing, facts(a_session(), session, checked=seen))
    assert isinstance(entry, Ended)
    assert (entry.value, entry.can_resume) == (None, False)


def test_a_script_that_takes_a_checkpoint_by_an_option_is_told_which():
    """Where it did not read the one that it was offered."""
    session = a_session(2, "r0-1", offered="ckpt", is_checkpoint_read=False, resume_option="--ckpt={}")
    (entry,) = conclusion(checked(asked(), ended(), promoted()), facts(a_session(), session))
    assert isinstance(entry, Ended)
    assert (entry.reason or "").endswith("the beginning (it has --ckpt: try --resume-arg --ckpt={})")


def test_a_promoted_trial_that_came_no_further_than_its_checkpoint_has_no_value():
    session = a_session(2, "r0-1", offered="ckpt", resumed_from="ckpt")
    found = facts(a_session(), session, checked=StepsSeen(10, None, 10.0))
    (entry,) = conclusion(checked(asked(), ended(), promoted()), found)
    assert isinstance(entry, Ended)
    assert (entry.value, "came to step 10 only" in (entry.reason or "")) == (None, True)


def test_a_promoted_trial_that_was_cut_before_its_first_step_goes_on():
    """It had no time to read its checkpoint."""
    session = a_session(2, "r0-1", status=Status.INTERRUPTED, elapsed_s=1.0, offered="ckpt")
    standing = checked(asked(), ended(), promoted())
    (entry,) = conclusion(standing, facts(a_session(), session, checked=StepsSeen(50, None, None)))
    assert isinstance(entry, RungContinued)


# -- interruptions


def test_an_interrupted_rung_is_continued_twice():
    """In what is left of its timebox; then it counts as what it is."""
    standing = checked(asked())
    session = a_session(status=Status.INTERRUPTED, elapsed_s=4.0, reason="its supervisor died")
    (entry,) = conclusion(standing, facts(session))
    assert isinstance(entry, RungContinued)
    assert (entry.timebox_s, entry.is_strict, entry.rung) == (6.0, True, 0)
    sessions = [session]
    for number in (1, 2):
        assert isinstance(entry, RungContinued)
        standing = checked(asked(), *[entry] * number)
        sessions.append(a_session(number + 1, entry.request_id, status=Status.INTERRUPTED, elapsed_s=1.0, offered="c"))
        entries = conclusion(standing, facts(*sessions))
        assert isinstance(entries[0], RungContinued) is (number == 1)
    (last,) = entries
    assert isinstance(last, Ended)
    assert (last.value, "interrupted 3 times" in (last.reason or "")) == (None, True)


@pytest.mark.parametrize(
    ("timebox_s", "left_s", "goes_on"), [(10.0, 1.0, True), (10.0, 0.9, False), (100.0, 5.0, True), (100.0, 4.9, False)]
)
def test_the_last_seconds_of_a_rung_are_not_worth_a_session(timebox_s: float, left_s: float, goes_on: bool):
    """Less than one, or than a twentieth of it."""
    session = a_session(status=Status.INTERRUPTED, elapsed_s=timebox_s - left_s)
    (entry,) = conclusion(checked(asked(timebox_s=timebox_s)), facts(session))
    assert isinstance(entry, RungContinued if goes_on else Ended)
    (entry,) = conclusion(checked(asked(timebox_s=timebox_s)), facts(session, left_s=left_s))
    assert isinstance(entry, RungContinued if goes_on else Ended)


def test_a_read_that_nobody_saw_is_judged_by_the_steps():
    """A supervisor that is killed may not have recorded it yet: what is not known is not held against the trial."""
    standing = checked(asked(), ended(), promoted())
    changes = {"status": Status.INTERRUPTED, "elapsed_s": 4.0, "reason": "its supervisor died", "offered": "ckpt"}
    session = a_session(2, "r0-1", **changes)
    (entry,) = conclusion(standing, facts(a_session(), session, checked=StepsSeen(10, 11.0, 15.0)))
    assert isinstance(entry, RungContinued)
    (entry,) = conclusion(standing, facts(a_session(), session, checked=StepsSeen(10, 1.0, 15.0)))
    assert isinstance(entry, Ended)
    assert "went on at step 1" in (entry.reason or "")
    whole = a_session(2, "r0-1", offered="ckpt")  # where reads cannot be seen, as on macOS
    for steps, value in ((StepsSeen(10, 11.0, 15.0), 0.7), (StepsSeen(10, 1.0, 15.0), None)):
        (entry,) = conclusion(standing, facts(a_session(), whole, checked=steps))
        assert isinstance(entry, Ended)
        assert entry.value == value
    unread = a_session(2, "r0-1", is_checkpoint_read=False, **changes)
    (entry,) = conclusion(standing, facts(a_session(), unread, checked=StepsSeen(10, 11.0, 15.0)))
    assert isinstance(entry, Ended)
    assert "did not read the checkpoint" in (entry.reason or "")


def test_an_interruption_before_the_first_checkpoint_starts_over():
    """With all of the timebox, so that it can be compared."""
    session = a_session(status=Status.INTERRUPTED, elapsed_s=4.0)
    (entry,) = conclusion(checked(asked()), facts(session, has_checkpoint=False))
    assert isinstance(entry, RungContinued)
    assert (entry.timebox_s, entry.is_strict) == (10.0, False)
    (entry,) = conclusion(checked(asked()), facts(a_session(status=Status.INTERRUPTED, elapsed_s=0.0)))
    assert isinstance(entry, RungContinued)
    assert entry.timebox_s == 10.0


def test_what_the_sweeper_stopped_is_continued_as_often_as_it_is_stopped():
    """It is no failure of the trial."""
    stopped = SweepStopped(at=NOW, request_ids=("r0",), reason="Ctrl-C")
    session = a_session(status=Status.STOPPED, stopped_by=StopReason.USER, elapsed_s=4.0)
    (entry,) = conclusion(checked(asked(), stopped), facts(session))
    assert isinstance(entry, RungContinued)
    assert entry.timebox_s == 6.0


def test_what_was_stopped_at_its_end_can_go_on_to_the_next_rung():
    """Nothing that the trial did ended it."""
    stopped = SweepStopped(at=NOW, request_ids=("r0",), reason="Ctrl-C")
    session = a_session(status=Status.STOPPED, stopped_by=StopReason.USER, elapsed_s=9.9)
    (entry,) = conclusion(checked(asked(), stopped), facts(session))
    assert isinstance(entry, Ended)
    assert (entry.value, entry.can_resume) == (0.7, True)


@pytest.mark.parametrize(("left_s", "timebox_s"), [(20.0, 10.0), (6.0, 6.0), (0.1, None), (-3.0, None)])
def test_a_rung_that_starts_over_stays_in_the_budget(left_s: float, timebox_s: float | None):
    """What was trained in vain is spent."""
    session = a_session(status=Status.INTERRUPTED, elapsed_s=4.0)
    (entry,) = conclusion(checked(asked()), facts(session, has_checkpoint=False, left_s=left_s))
    if timebox_s is None:
        assert isinstance(entry, Ended)
        assert entry.value == 0.7
    else:
        assert isinstance(entry, RungContinued)
        assert entry.timebox_s == timebox_s


def test_an_interrupted_rung_for_which_no_time_is_left_can_go_on_to_the_next():
    session = a_session(status=Status.INTERRUPTED, elapsed_s=4.0)
    (entry,) = conclusion(checked(asked()), facts(session, left_s=0.1))
    assert isinstance(entry, Ended)
    assert (entry.value, entry.can_resume) == (0.7, True)


def test_a_repeat_that_cannot_be_as_long_as_the_others_has_no_value():
    """Its mean would be of unlike trainings."""
    standing = checked(asked(source="confirm", repeats=7, seed=1))
    session = a_session(status=Status.INTERRUPTED, elapsed_s=4.0)
    (entry,) = conclusion(standing, facts(session, has_checkpoint=False, left_s=0.0))
    assert isinstance(entry, Ended)
    assert (entry.value, "no time is left" in (entry.reason or "")) == (None, True)


# -- the check


def check_session(**changes: object) -> Session:
    return a_session(2, "r0-1", **{"offered": "ckpt", "resumed_from": "ckpt", **changes})


def test_the_first_half_of_the_first_rung_is_followed_by_a_check():
    """A strict resume; not from scratch, and not once it has passed."""
    (entry,) = conclusion(fold(SPEC, [asked(timebox_s=5.0)]), facts(a_session()))
    assert isinstance(entry, RungContinued)
    assert (entry.is_check, entry.is_strict, entry.timebox_s, entry.rung) == (True, True, 5.0, 0)


@pytest.mark.parametrize(
    ("session", "seen", "is_passed"),
    [
        (check_session(), StepsSeen(50, 51, 90), True),
        (check_session(), StepsSeen(50, 50, 90), True),
        (check_session(), StepsSeen(50, 1, 90), False),
        (check_session(), StepsSeen(50, 1, 50), False),
        (check_session(), StepsSeen(50, None, None), False),
        (check_session(resumed_from=None, is_checkpoint_read=False), StepsSeen(50, 51, 90), False),
    ],
)
def test_the_check_wants_a_read_and_later_steps(session: Session, seen: StepsSeen, is_passed: bool):
    """Both: a script may read a checkpoint and start over all the same."""
    check = RungContinued(
        at=NOW, trial=0, rung=0, request_id="r0-1", timebox_s=5.0, reason="does it continue", is_check=True
    )
    entries = conclusion(fold(SPEC, [asked(), check]), facts(a_session(), session, checked=seen))
    assert [type(entry) for entry in entries] == [Checked, Ended]
    standing = fold(SPEC, [asked(), check, *entries])
    assert (standing.is_checked, standing.problem is None) == (is_passed, is_passed)


@pytest.mark.parametrize(
    ("sessions", "is_passed"),
    [
        ({1: (1, 50), 2: (1, 60)}, False),
        ({1: (1, 50), 2: (0, 20)}, False),
        ({1: (1, 50), 2: (40, 60)}, True),
        ({1: (1, 1), 2: (1, 3)}, True),  # it reports when an epoch begins
        ({2: (1, 3)}, True),
        ({1: (1, 50)}, True),
    ],
)
def test_a_checkpoint_that_is_saved_over_is_checked_by_the_steps_before(
    sessions: dict[int, tuple[int, int]], is_passed: bool
):
    """Its own step is not known any more: most scripts save to one file again and again."""
    check = RungContinued(
        at=NOW, trial=0, rung=0, request_id="r0-1", timebox_s=5.0, reason="does it continue", is_check=True
    )
    summaries = {n: points()._replace(low_step=low, high_step=high) for n, (low, high) in sessions.items()}
    found = facts(a_session(), check_session(), checked=StepsSeen(None, 1, 90), summaries=summaries)
    entries = conclusion(fold(SPEC, [asked(), check]), found)
    assert fold(SPEC, [asked(), check, *entries]).is_checked == is_passed


def test_a_script_that_completes_needs_no_check():
    """It will not be resumed."""
    entries = conclusion(fold(SPEC, [asked()]), facts(a_session(status=Status.COMPLETED)))
    assert [type(entry) for entry in entries] == [Checked, Ended]
    assert fold(SPEC, [asked(), *entries]).is_checked


# -- the whole


def test_the_budget_counts_what_ended_and_what_was_promised():
    """Of an active trial the sessions that have ended, and the rest of its timebox."""
    standing = checked(asked(), ended(), asked(1), promoted())
    run = Run(
        spec=RUN_SPEC,
        status=Status.RUNNING,
        latest=(a_session(), a_session(2, "r0-1", status=Status.RUNNING, elapsed_s=None)),
    )
    budget = budget_of(standing, {0: run}, 100.0)
    assert (budget.spent_s, budget.committed_s, budget.left_s) == (10.0, 40.0, 50.0)


def test_the_budget_grows_while_a_session_trains():
    """What it has used so far is spent, and no longer promised. What comes next is decided without it."""
    standing = fold(SPEC, [asked(timebox_s=30.0)])
    active = a_session(status=Status.RUNNING, elapsed_s=None, launched_at=NOW)
    run = Run(spec=RUN_SPEC, status=Status.RUNNING, latest=(active,))
    budget = budget_of(standing, {0: run}, 100.0, NOW + timedelta(seconds=12))
    assert (budget.spent_s, budget.committed_s) == (12.0, 18.0)
    late = budget_of(standing, {0: run}, 100.0, NOW + timedelta(seconds=31))  # in its grace period
    assert (late.spent_s, late.committed_s) == (31.0, 0.0)
    known = budget_of(standing, {0: run}, 100.0)
    assert (known.spent_s, known.committed_s, known.left_s) == (0.0, 30.0, budget.left_s)


def test_the_same_error_of_the_first_three_trials():
    """Not of later ones, and after a new begin only of those that follow."""
    failed = [
        entry
        for trial in range(3)
        for entry in (asked(trial), ended(trial, value=None, status=Status.FAILED, reason="ValueError"))
    ]
    assert fold(SPEC, failed).same_failure == "ValueError"
    assert fold(SPEC, failed[:4]).same_failure is None
    for third in (ended(2, value=None, reason="ValueError"), ended(2, value=None, status=Status.FAILED)):
        assert fold(SPEC, [*failed[:5], third]).same_failure is None
    assert fold(SPEC, [asked(9), ended(9), *failed]).same_failure is None
    again = [*failed, Finished(at=NOW, reason="x", exit_code=66), Began(at=NOW, pid=1, host="h")]
    assert fold(SPEC, again).same_failure is None
    assert fold(SPEC, again).finished is None
    finished = Finished(at=NOW, reason="x")
    assert fold(SPEC, [*failed, finished, Began(at=NOW, pid=1, host="h")]).finished == finished


@pytest.mark.parametrize(
    ("reasons", "is_same"),
    [
        (("lr=0.03 is bad", "lr=1e-05 is bad", "lr=2 is bad"), True),
        (("<Net at 0x7f01>", "<Net at 0x7fab>", "<Net at 0x1>"), True),
        (("lr=0.03 is bad", "lr=0.03 is bad", "momentum=0.03 is bad"), False),
    ],
)
def test_the_same_error_may_name_other_numbers(reasons: tuple[str, ...], is_same: bool):
    """Its message often holds a parameter, or an address."""
    entries = [
        entry
        for trial, reason in enumerate(reasons)
        for entry in (asked(trial), ended(trial, value=None, status=Status.FAILED, reason=reason))
    ]
    assert fold(SPEC, entries).same_failure == (reasons[0] if is_same else None)


def test_the_same_error_of_ten_trials_in_a_row():
    """Whatever came before: the script was broken meanwhile. A broken one costs no budget, and would have no end."""
    entries: list[SweepEntry] = [asked(), ended()]
    for trial in range(1, 10):
        entries += [asked(trial), ended(trial, value=None, status=Status.FAILED, reason="SyntaxError")]
    assert fold(SPEC, entries).same_failure is None
    entries += [asked(10), ended(10, value=None, status=Status.FAILED, reason="SyntaxError")]
    assert fold(SPEC, entries).same_failure == "SyntaxError"
    assert fold(SPEC, [*entries, asked(11), ended(11)]).same_failure is None


def test_trials_without_the_metric_since_the_sweep_began():
    """One that ended with that is resumed: the script may have been mended."""
    first = [entry for trial in range(3) for entry in (asked(trial), ended(trial, value=None))]
    assert fold(SPEC, first).trained_without_metric == 3
    again = [*first, Finished(at=NOW, reason="x", exit_code=65), Began(at=NOW, pid=1, host="h")]
    assert fold(SPEC, again).trained_without_metric == 0


def test_a_failed_trial_that_reported_the_metric_has_it():
    """No sentence says that no trial did."""
    failed = ended(value=None, status=Status.FAILED, has_metric=True)
    others = [entry for trial in (1, 2, 3) for entry in (asked(trial), ended(trial, value=None))]
    assert fold(SPEC, [asked(), failed, *others]).trained_without_metric == 0


def test_trials_without_the_metric():
    """As long as none has it."""
    assert fold(SPEC, [asked(), ended(value=None), asked(1)]).trained_without_metric == 1
    failed = ended(1, value=None, status=Status.FAILED)
    assert fold(SPEC, [asked(), ended(value=None), asked(1), failed]).trained_without_metric == 1
    assert fold(SPEC, [asked(), ended(value=None), asked(1), ended(1)]).trained_without_metric == 0


def started(count: int, start_s: float) -> Standing:
    """A sweep of trials whose first rungs took 10 s."""
    trials = [(asked(number), ended(number, start_s=start_s)) for number in range(count)]
    return fold(SPEC, [entry for pair in trials for entry in pair])


@pytest.mark.parametrize(
    ("total", "first_s", "last_s", "start_s"),
    [(4, 6.0, 9.0, 5.0), (2, 6.0, 9.0, 3.0), (3, 0.5, 1.0, 0.25), (2, 1.0, 9.0, 0.0), (1, 6.0, 6.0, None)],
)
def test_a_start_is_measured_in_the_first_rung(total: int, first_s: float, last_s: float, start_s: float | None):
    """Its first value comes as long after the start as the values are apart."""
    summary = points()._replace(total=total, first_s=first_s, last_s=last_s)
    standing = fold(SPEC, [asked(), Checked(at=NOW, trial=0)])
    (entry,) = conclusion(standing, facts(a_session(), summaries={1: summary}))
    assert isinstance(entry, Ended)
    assert entry.start_s == start_s


def test_the_value_of_a_rung_is_that_of_all_its_sessions_or_of_those_before_as_well():
    """From scratch, sessions of shorter rungs are other trainings. A start is measured in the first rung only."""
    session = a_session(2, "r0-1", offered="ckpt", resumed_from="ckpt")
    found = facts(a_session(), session, summaries={1: points(0.9), 2: points(0.7)})
    for is_from_scratch, value in ((False, 0.9), (True, 0.7)):
        spec = msgspec.structs.replace(SPEC, from_scratch=is_from_scratch)
        (entry,) = conclusion(fold(spec, [asked(), ended(), promoted(), Checked(at=NOW, trial=99)]), found)
        assert isinstance(entry, Ended)
        assert (entry.rung, entry.value, entry.start_s) == (1, value, None)


def test_starts_are_known_after_three_trials():
    assert started(2, start_s=8.0).start is None
    assert started(3, start_s=8.0).start == (8.0, 10.0)
    assert started(3, start_s=0.0).start == (0.0, 10.0)


@pytest.mark.parametrize(("start_s", "is_slow"), [(4.0, False), (8.0, True)])
def test_long_starts_are_told(start_s: float, is_slow: bool):
    """With what to do; shorter ones are nothing to speak of."""
    advice = start_advice(started(3, start_s)) or ""
    assert ("8 of the 10 s" in advice, "--rung" in advice) == (is_slow, is_slow)


def test_repeats_rank_before_single_values():
    """The best of many on one seed is luck."""
    entries = [asked(), ended(value=0.9), asked(1), ended(1, value=0.8)]
    assert getattr(fold(SPEC, entries).best, "number", None) == 0
    for number, (trial, seed, value) in enumerate(((0, 1, 0.5), (1, 1, 0.7), (0, 2, 0.5), (1, 2, 0.8)), start=2):
        entries += [asked(number, repeats=trial, seed=seed, source="confirm"), ended(number, value=value)]
    standing = fold(SPEC, entries)
    assert [(one.trial, one.values) for one in standing.repeated] == [(1, {1: 0.7, 2: 0.8}), (0, {1: 0.5, 2: 0.5})]
    assert standing.best is not None
    assert standing.best.number == 1
    assert len(standing.searched) == 2
    assert standing.ties == [0]  # two seeds tell nothing


def test_the_best_has_repeats_that_did_not_fail():
    """However the trial whose repeats failed was ranked before."""
    entries = [asked(), ended(value=0.9), asked(1), ended(1, value=0.8)]
    entries += [asked(2, repeats=0, seed=1, source="confirm"), asked(3, repeats=1, seed=1, source="confirm")]
    entries += [ended(2, value=None, status=Status.FAILED), ended(3, value=0.1)]
    assert getattr(fold(SPEC, entries).best, "number", None) == 1
    assert getattr(fold(SPEC, entries[:-1]).best, "number", None) == 0


def test_a_repeat_has_the_value_of_its_seed():
    """Whatever ends first; one that cannot go on has failed."""
    entries = [asked(), ended(value=0.9)]
    entries += [asked(number, repeats=0, seed=number, source="confirm") for number in (1, 2, 3)]
    entries += [ended(2, value=0.5), NotPromoted(at=NOW, trial=3, request_id="r3", reason="no checkpoint")]
    (one,) = fold(SPEC, entries).repeated
    assert one.values == {2: 0.5, 3: None}


EVERY = st.sampled_from(
    [
        asked(), asked(1), ended(), ended(1, value=None, status=Status.FAILED, reason="e"), promoted(), promoted(1), Made(at=NOW, trial=0),
        Began(at=NOW, pid=1, host="h"), Added(at=NOW, params={"lr": "0.1"}, by="me"), StopAsked(at=NOW, by="me"),
        RungContinued(at=NOW, trial=0, rung=0, request_id="r0-1", timebox_s=1.0, reason="interrupted"),
        NotPromoted(at=NOW, trial=0, request_id="r0-1", reason="gone"), Checked(at=NOW, trial=0, problem="no"),
        Confirming(at=NOW, planned=(Repeat(trial=0, seed=1, timebox_s=1.0),), reason="budget"),
        asked(2, repeats=0, seed=1, source="confirm"), asked(3, source="added"),
        SweepStopped(at=NOW, request_ids=("r0",), reason="x"), Finished(at=NOW, reason="x"),
    ]
)  # fmt: skip


@given(st.lists(EVERY, max_size=30))
def test_any_journal_gives_a_standing(entries: list[SweepEntry]):
    """As it is read back from its file."""
    read, _ = parse(b"".join(encode(entry) + b"\n" for entry in entries))
    assert read == entries
    standing = fold(SPEC, read)
    assert len({trial.number for trial in standing.trials}) == len(standing.trials)
    assert all(trial.asked for trial in standing.trials)
    assert standing.best is None or standing.best.value is not None or standing.repeated
    assert budget_of(standing, {}, 10.0).spent_s >= 0


@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=5), st.sampled_from(Goal))
def test_a_value_is_finite_or_none(pairs: list[tuple[float, float]], goal: Goal):
    """Whatever was reported."""
    found = [points(best, last) for best, last in pairs if math.isfinite(best)]
    value = value_of(found, goal)
    assert value is None or math.isfinite(value)


@pytest.mark.parametrize(
    ("changes", "more", "left_s"),
    [
        ({}, {}, 4.0),
        ({"elapsed_s": 18.0}, {}, 2.0),  # the rung may take 20 s in all
        ({"elapsed_s": 19.5}, {}, None),
        ({}, {"left_s": 3.0}, 3.0),
        ({}, {"left_s": 0.5}, None),
        ({"stopped_by": StopReason.STEP}, {}, None),
        ({"status": Status.COMPLETED, "stopped_by": None}, {}, None),
        ({}, {"has_checkpoint": False}, None),
        ({}, {"checked": StepsSeen(100, None, None)}, None),
    ],
)
def test_a_rung_that_was_slower_than_expected_goes_on_to_its_step(
    changes: dict[str, object], more: dict[str, object], left_s: float | None
):
    """Its value is compared with those of trials that came to the step; --rung limits how long that may take."""
    spec = msgspec.structs.replace(SPEC, rung_steps=100)
    standing = fold(spec, [asked(), ended(), promoted(until_step=300, timebox_s=4.0), Checked(at=NOW, trial=99)])
    came_to = {"elapsed_s": 5.0, "stopped_by": StopReason.TIMEBOX, "offered": "ckpt", "resumed_from": "ckpt"}
    session = a_session(2, "r0-1", **{**came_to, **changes})
    (entry,) = conclusion(standing, facts(a_session(), session, **{"checked": StepsSeen(100, 101.0, 250.0), **more}))
    if left_s is None:
        assert isinstance(entry, Ended)
    else:
        assert isinstance(entry, RungContinued)
        assert (entry.until_step, entry.timebox_s, entry.is_strict) == (300, left_s, True)
