"""What a sweep starts next, by its budget, its end by the clock, and whether its script resumes."""

from datetime import timedelta

import msgspec
import pytest

from backprop.lifecycle.sweep import planning
from backprop.lifecycle.sweep.journal import Confirming
from backprop.lifecycle.sweep.rule import CONFIRMED_SHARE, Finish, Promote, Repeat, StartTrial
from backprop.lifecycle.sweep.spec import Confirm
from backprop.lifecycle.sweep.standing import Standing, budget_of, fold
from tests.unit.lifecycle.sweep.test_standing import NOW, SPEC, asked, checked, ended

replace = msgspec.structs.replace
PLANNED = Repeat(trial=0, seed=1, timebox_s=10.0)


def next_action(standing: Standing, **changes: object) -> object:
    standing = replace(standing, spec=replace(standing.spec, **changes))
    return planning.next_action(standing, budget_of(standing, {}, SPEC.budget_s), NOW, has_proposals=True)


def test_the_first_trial_is_halved_to_see_whether_it_resumes():
    """And nothing else is started before that is known: a script that starts over would waste the budget."""
    action = next_action(fold(SPEC, ()))
    assert isinstance(action, StartTrial)
    assert action.timebox_s == SPEC.rung_s / 2
    assert next_action(fold(SPEC, (asked(),))) is None


@pytest.mark.parametrize("is_anew", [True, False])
def test_without_that_check_a_trial_has_a_whole_rung(is_anew: bool):
    """Where it has passed, or where each rung trains anew in any case."""
    action = next_action(fold(SPEC, ()) if is_anew else checked(), from_scratch=is_anew)
    assert isinstance(action, StartTrial)
    assert action.timebox_s == SPEC.rung_s


@pytest.mark.parametrize(("left_s", "timebox_s"), [(100.0, 10.0), (7.0, 7.0)])
def test_no_session_is_planned_beyond_the_end_by_the_clock(left_s: float, timebox_s: float):
    """The last ones are shorter."""
    action = next_action(checked(), until=NOW + timedelta(seconds=left_s))
    assert isinstance(action, StartTrial)
    assert action.timebox_s == timebox_s


def test_it_ends_when_no_session_would_tell_anything():
    """Less than half of a rung is left until --until: finish as soon as those that are active have ended."""
    until = NOW + timedelta(seconds=4)
    assert isinstance(next_action(checked(), until=until), Finish)
    assert next_action(checked(asked()), until=until) is None
    assert not planning.is_over(replace(SPEC, until=until), NOW)
    assert planning.is_over(replace(SPEC, until=until), until)


def test_repeats_come_one_after_the_other_within_the_slots():
    """Two slots: the third waits; when all are trained the sweep has finished."""
    active = [asked(number, run_id=f"r{number}") for number in range(2)]
    confirming = Confirming(at=NOW, planned=(PLANNED,), reason="over")
    assert next_action(checked(active[0], confirming)) == PLANNED
    assert next_action(checked(*active, confirming)) is None
    done = [entry for number, one in enumerate(active) for entry in (one, ended(number))]
    over = next_action(checked(*done, Confirming(at=NOW, planned=(), reason="over")))
    assert isinstance(over, Finish)


def test_a_share_of_the_budget_is_kept_for_repeats():
    """A search that may confirm its best ends earlier; once it confirms, all is given."""
    standing = checked(*(entry for number in range(7) for entry in (asked(number), ended(number))))  # 70 s of 100
    assert isinstance(next_action(standing), Promote)
    confirm = Confirm(top=1, seeds=2)
    assert SPEC.budget_s * (1 - CONFIRMED_SHARE) < 70
    assert isinstance(next_action(standing, confirm=confirm), Finish)
    confirmed = replace(standing, spec=replace(SPEC, confirm=confirm))
    assert planning.repeats(confirmed, budget_of(confirmed, {}, SPEC.budget_s), NOW)
    assert planning.repeats(standing, budget_of(standing, {}, SPEC.budget_s), NOW) == ()
