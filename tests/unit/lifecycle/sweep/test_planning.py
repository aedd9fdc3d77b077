"""What comes next in a sweep: by its journal, what is left of its budget, and the clock."""

from datetime import timedelta

import msgspec
import pytest

from backprop.lifecycle.sweep.journal import Checked, Confirming, SweepEntry
from backprop.lifecycle.sweep.planning import is_over, left_for, next_action, repeats
from backprop.lifecycle.sweep.rule import Budget, Finish, Promote, Repeat, StartTrial
from backprop.lifecycle.sweep.spec import Confirm, SweepSpec
from backprop.lifecycle.sweep.standing import budget_of, fold
from backprop.records import Run, Status
from tests.records import SPEC as RUN_SPEC
from tests.unit.lifecycle.sweep.test_standing import NOW, SPEC, a_session, asked, ended, promoted

CHECKED = Checked(at=NOW, trial=0)
CONFIRMED = msgspec.structs.replace(SPEC, confirm=Confirm(top=2, seeds=2), seed_param="seed")


def until(seconds: float, spec: SweepSpec = SPEC) -> SweepSpec:
    return msgspec.structs.replace(spec, until=NOW + timedelta(seconds=seconds))


def following(
    spec: SweepSpec, *entries: SweepEntry, has_proposals: bool = True
) -> StartTrial | Promote | Finish | Repeat | None:
    """The next action, with the budget that the journal leaves."""
    standing = fold(spec, entries)
    return next_action(standing, budget_of(standing, {}, spec.budget_s), NOW, has_proposals=has_proposals)


# -- the check of whether the script continues from its checkpoint


def test_the_first_trial_trains_half_of_its_rung_first():
    """Of its time, or of its steps, rounded down; alone, until the check has passed."""
    assert following(SPEC) == StartTrial(timebox_s=5.0)
    by_steps = msgspec.structs.replace(SPEC, rung_steps=101)
    assert following(by_steps) == StartTrial(timebox_s=5.0, until_step=50)
    assert following(SPEC, asked()) is None
    assert following(SPEC, asked(), CHECKED) == StartTrial(timebox_s=10.0)
    assert following(by_steps, asked(), CHECKED) == StartTrial(timebox_s=10.0, until_step=101)


def test_what_trains_anew_needs_no_check():
    """Its first rung is whole, and the next trial need not wait."""
    anew = msgspec.structs.replace(SPEC, from_scratch=True)
    assert following(anew) == StartTrial(timebox_s=10.0)
    assert following(anew, asked()) == StartTrial(timebox_s=10.0)


def test_a_promotion_without_a_check_is_whole():
    """The first trials completed, so that nothing was checked: no session of a later rung is halved."""
    done = [entry for number in range(3) for entry in (asked(number), ended(number, value=number / 10))]
    action = following(SPEC, *done)
    assert isinstance(action, Promote)
    assert (action.trial, action.timebox_s) == (2, 30.0)


# -- the clock


def test_no_session_ends_after_the_time_that_was_set():
    """It is shortened, as long as half of a first rung is left; then the sweep is over, once nothing is active."""
    assert following(until(8), CHECKED) == StartTrial(timebox_s=8.0)
    assert following(until(5), CHECKED) == StartTrial(timebox_s=5.0)
    finish = following(until(4.9), CHECKED)
    assert isinstance(finish, Finish)
    assert finish.reason == f"no session would end before {(NOW + timedelta(seconds=4.9)).astimezone():%H:%M}"
    assert following(until(4.9), CHECKED, asked()) is None
    assert following(until(8), CHECKED, asked()) == StartTrial(timebox_s=8.0)  # the other slot is free


def test_a_promotion_is_shortened_to_the_time_that_was_set():
    done = [entry for number in range(3) for entry in (asked(number), ended(number, value=number / 10))]
    action = following(until(12), CHECKED, *done)
    assert isinstance(action, Promote)
    assert action.timebox_s == 12.0


@pytest.mark.parametrize(("seconds", "is_true"), [(1, False), (0, True), (-1, True)])
def test_a_sweep_is_over_when_its_time_has_come(seconds: float, is_true: bool):
    assert is_over(until(seconds), NOW) is is_true
    assert not is_over(SPEC, NOW)


def test_the_last_part_before_that_time_trains_the_best_trial_on():
    """What both slots may train until then counts as what is left: 24 s, of which another trial would leave too little."""
    done = [CHECKED, asked(0), ended(0), asked(1), ended(1, value=0.4)]
    action = following(until(12), *done)
    assert isinstance(action, Promote)
    assert (action.trial, action.timebox_s) == (0, 12.0)
    assert following(until(100), *done) == StartTrial(timebox_s=10.0)


# -- the budget


def test_a_third_of_the_budget_is_kept_for_repeats():
    """The search ends when two thirds are used."""
    spent = [entry for number in range(7) for entry in (asked(number), ended(number, value=None))]
    assert following(CONFIRMED, CHECKED, *spent) == Finish(reason="the budget is used up")
    assert isinstance(following(SPEC, CHECKED, *spent), StartTrial)
    one_less = following(CONFIRMED, CHECKED, *spent[:-2])
    assert isinstance(one_less, StartTrial)
    assert one_less.timebox_s == pytest.approx(200 / 3 - 60)


def test_a_grid_that_is_through_ends_the_search():
    assert following(SPEC, CHECKED, has_proposals=False) == Finish(reason="every trial was trained as far as possible")
    assert following(SPEC, CHECKED, asked(), has_proposals=False) is None


# -- repeats


def test_repeats_come_one_after_the_other():
    """As many at once as the sweep has slots; it is over when all have ended."""
    first, second = Repeat(trial=0, seed=1, timebox_s=10.0), Repeat(trial=0, seed=2, timebox_s=10.0)
    confirming = Confirming(at=NOW, planned=(first, second), reason="over")
    assert following(CONFIRMED, asked(), ended(), confirming) == first
    again = asked(1, repeats=0, seed=1)
    assert following(CONFIRMED, asked(), ended(), confirming, again) == second
    alone = msgspec.structs.replace(CONFIRMED, parallel=1)
    assert following(alone, asked(), ended(), confirming, again) is None
    last = asked(2, repeats=0, seed=2)
    assert following(CONFIRMED, asked(), ended(), confirming, again, last) is None
    over = following(CONFIRMED, asked(), ended(), confirming, again, last, ended(1), ended(2))
    assert over == Finish(reason="all repeats are trained")


def planned(spec: SweepSpec, *entries: SweepEntry, left_s: float = 1000.0) -> tuple[Repeat, ...]:
    return repeats(fold(spec, entries), Budget(total_s=left_s), NOW)


def test_the_best_are_repeated_for_as_long_as_the_longest_was_trained():
    """All for the same time: that of the two best, and not of a third."""
    done = [asked(0), ended(0, value=0.9), asked(1), ended(1, value=0.8, trained_s=25.0), asked(2), ended(2, value=0.1)]
    found = planned(CONFIRMED, *done, promoted(2), ended(2, rung=1, value=0.2, trained_s=40.0))
    assert [(one.trial, one.seed, one.timebox_s) for one in found] == [(0, 1, 25), (1, 1, 25), (0, 2, 25), (1, 2, 25)]
    assert planned(SPEC, *done) == ()
    assert planned(CONFIRMED) == ()
    assert planned(CONFIRMED, asked(0), ended(0, value=None)) == ()


def test_repeats_end_before_the_time_that_was_set():
    """Two slots until then, shared by four repeats."""
    done = [asked(0), ended(0, value=0.9), asked(1), ended(1, value=0.8)]
    assert {one.timebox_s for one in planned(until(14, CONFIRMED), *done)} == {7.0}
    assert {one.timebox_s for one in planned(CONFIRMED, *done, left_s=24.0)} == {6.0}


def test_one_that_completed_early_is_repeated_for_as_long_as_it_might_have_taken():
    """Another seed may need it: the first rung and the second, not the 12 s that it took."""
    done = [asked(0), ended(0), promoted(0), ended(0, rung=1, trained_s=12.0, status=Status.COMPLETED)]
    assert {one.timebox_s for one in planned(CONFIRMED, *done)} == {40.0}


def test_repeats_of_rungs_in_steps_take_as_long_as_the_steps_took():
    """All of its training; where each rung trains anew, that of its last rung only."""
    by_steps = msgspec.structs.replace(CONFIRMED, rung_steps=100)
    done = [asked(0), ended(0, trained_s=4.0), promoted(0), ended(0, rung=1, trained_s=9.0)]
    (first, _) = planned(by_steps, *done, left_s=18.0)
    assert (first.timebox_s, first.until_step) == (9.0, 300)
    (first, _) = planned(by_steps, *done, left_s=12.0)
    assert (first.timebox_s, first.until_step) == (6.0, 200)
    anew = msgspec.structs.replace(by_steps, from_scratch=True)
    done[-1] = ended(0, rung=1, trained_s=16.0)  # 4 s for the first rung, 12 s for the second
    (first, _) = planned(anew, *done, left_s=16.0)
    assert (first.timebox_s, first.until_step) == (8.0, 200)


# -- what another session of a trial may take


def test_what_is_left_for_a_trial_is_not_promised_to_others():
    """Its own promise is free again; what its sessions took is spent, and repeats that are planned keep theirs."""
    standing = fold(SPEC, [CHECKED, asked(0), asked(1)])
    trial = standing.trials[0]
    assert left_for(standing, trial, {}, NOW) == 90.0
    run = Run(spec=RUN_SPEC, status=Status.INTERRUPTED, latest=(a_session(status=Status.INTERRUPTED, elapsed_s=4.0),))
    assert left_for(standing, trial, {0: run}, NOW) == 86.0
    confirming = Confirming(at=NOW, planned=(Repeat(trial=0, seed=2, timebox_s=15.0),), reason="over")
    standing = fold(CONFIRMED, [CHECKED, asked(0), ended(0), confirming, asked(1, repeats=0, seed=1)])
    assert left_for(standing, standing.trials[1], {}, NOW) == 75.0


def test_what_is_left_for_a_trial_ends_at_the_time_that_was_set():
    standing = fold(until(20), [CHECKED, asked(0)])
    assert left_for(standing, standing.trials[0], {}, NOW) == 20.0


def test_what_is_left_for_a_trial_of_the_search_is_not_that_of_the_repeats():
    standing = fold(CONFIRMED, [CHECKED, asked(0)])
    assert left_for(standing, standing.trials[0], {}, NOW) == pytest.approx(200 / 3)
