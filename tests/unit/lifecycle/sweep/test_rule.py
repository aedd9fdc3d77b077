"""Who trains next in a sweep."""

import math
import random
from collections.abc import Callable
from statistics import median

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.lifecycle.sweep.rule import (
    LEAST_SHARE,
    Budget,
    Finish,
    Promote,
    Repeat,
    Repeated,
    Rules,
    StartTrial,
    Trial,
    Wait,
    decide,
    ranked,
    ranked_repeats,
    repeats,
    ties,
)
from backprop.records import Goal

RULES = Rules(goal=Goal.MAX, rung_s=60, eta=3, max_rungs=3, parallel=2)
PLENTY = Budget(total_s=36_000)


def test_the_first_trial_gets_the_first_rung():
    """Nothing is known yet."""
    assert decide(RULES, [], PLENTY, has_proposals=True) == StartTrial(timebox_s=60)


def test_no_more_than_its_slots_are_used():
    """A queued or training trial has one."""
    active = [Trial(number=n, active_rung=0) for n in range(2)]
    assert decide(RULES, active, PLENTY, has_proposals=True) == Wait()
    assert isinstance(decide(RULES, active[:1], PLENTY, has_proposals=True), StartTrial)


def test_the_best_third_of_a_rung_is_promoted():
    """As soon as three are done, without waiting for the fourth."""
    done = [Trial(number=0, values=(0.1,)), Trial(number=1, values=(0.9,)), Trial(number=2, values=(0.5,))]
    assert isinstance(decide(RULES, done[:2], PLENTY, has_proposals=True), StartTrial)
    action = decide(RULES, [*done, Trial(number=3, active_rung=0)], PLENTY, has_proposals=True)
    assert action == Promote(trial=1, rung=1, timebox_s=180, reason="among the best 1/3 of its rung")


def test_smaller_is_better_for_a_loss():
    """The direction is that of the goal."""
    done = [Trial(number=n, values=(value,)) for n, value in enumerate((0.1, 0.9, 0.5))]
    rules = msgspec.structs.replace(RULES, goal=Goal.MIN)
    action = decide(rules, done, PLENTY, has_proposals=True)
    assert isinstance(action, Promote)
    assert action.trial == 0


def test_the_highest_rung_comes_first():
    """A trial that is nearly through is worth more than a new one."""
    done = [Trial(number=n, values=(0.5, 0.5 + n / 10)) for n in range(3)]
    done += [Trial(number=3 + n, values=(0.1,)) for n in range(9)]
    assert decide(RULES, done, PLENTY, has_proposals=True) == Promote(
        trial=2, rung=2, timebox_s=540, reason="among the best 1/3 of its rung"
    )


@pytest.mark.parametrize(
    "best",
    [
        Trial(number=0, values=(0.9,), can_resume=False),
        Trial(number=0, values=(0.9,), active_rung=1),
        Trial(number=0, values=(0.9, 0.9)),
    ],
)
def test_a_place_among_the_best_is_given_once(best: Trial):
    """Also where it cannot be used."""
    done = [best, Trial(number=1, values=(0.5,)), Trial(number=2, values=(0.4,))]
    assert isinstance(decide(RULES, done, PLENTY, has_proposals=True), StartTrial)


def test_a_failed_trial_is_never_promoted():
    """Not even if nothing else is left."""
    done = [Trial(number=n, values=(None,)) for n in range(3)]
    assert isinstance(decide(RULES, done, PLENTY, has_proposals=True), StartTrial)
    assert isinstance(decide(RULES, done, PLENTY, has_proposals=False), Finish)


def test_one_that_was_passed_over_goes_on_when_nothing_better_is_left():
    """A grid that is through: the best of the others."""
    done = [Trial(number=0, values=(0.9,), can_resume=False), *(Trial(number=n, values=(0.1 * n,)) for n in (1, 2))]
    action = decide(RULES, done, PLENTY, has_proposals=False)
    assert action == Promote(trial=2, rung=1, timebox_s=180, reason="the best that is left")


def test_the_last_session_is_shortened():
    """And says so."""
    done = [Trial(number=0, values=(0.9,))]
    assert decide(RULES, done, Budget(total_s=400, spent_s=300), has_proposals=True) == Promote(
        trial=0,
        rung=1,
        timebox_s=100,
        reason="the last part of the budget trains the best trial on · shortened to the 1.67 min that are left",
    )
    assert decide(RULES, [], Budget(total_s=40), has_proposals=True) == StartTrial(timebox_s=40)


def test_what_is_too_little_for_a_session_is_left():
    """The end comes when the last active one has ended: it may give time back."""
    budget = Budget(total_s=100, spent_s=20, committed_s=60)
    assert decide(RULES, [Trial(number=0, active_rung=0)], budget, has_proposals=True) == Wait()
    spent = Budget(total_s=100, spent_s=80)
    assert decide(RULES, [Trial(number=0, values=(1.0,))], spent, has_proposals=True) == Finish(
        reason="the budget is used up"
    )


def test_half_of_a_first_rung_is_enough_for_a_trial():
    assert decide(RULES, [], Budget(total_s=30), has_proposals=True) == StartTrial(timebox_s=30)
    assert isinstance(decide(RULES, [], Budget(total_s=29.9), has_proposals=True), Finish)


@pytest.mark.parametrize(("left_s", "action"), [(159.9, Promote), (160, StartTrial)])
def test_a_new_trial_leaves_a_third_of_the_budget_to_the_best(left_s: float, action: type):
    """Of 300 s: 100, where the next rung of the best takes 180."""
    found = decide(
        RULES, [Trial(number=0, values=(0.9,))], Budget(total_s=300, spent_s=300 - left_s), has_proposals=True
    )
    assert isinstance(found, action)


def test_a_rung_that_just_fits_is_not_shortened():
    done = [Trial(number=n, values=(n / 10,)) for n in range(3)]
    action = decide(RULES, done, Budget(total_s=180), has_proposals=True)
    assert action == Promote(trial=2, rung=1, timebox_s=180, reason="among the best 1/3 of its rung")


BY_STEPS = msgspec.structs.replace(RULES, rung_steps=100)


def test_rungs_in_steps():
    """A rung ends at eta times the step of the one before, and takes as long as its trial needs for the rest of them."""
    assert [BY_STEPS.until_step(rung) for rung in range(3)] == [100, 300, 900]
    assert decide(BY_STEPS, [], PLENTY, has_proposals=True) == StartTrial(timebox_s=60, until_step=100)
    slow = [Trial(number=0, values=(0.9,), pace_s=30.0), *(Trial(number=n, values=(0.1,), pace_s=5.0) for n in (1, 2))]
    action = decide(BY_STEPS, slow, PLENTY, has_proposals=True)
    assert action == Promote(trial=0, rung=1, timebox_s=120, reason="among the best 1/3 of its rung", until_step=300)
    anew = msgspec.structs.replace(BY_STEPS, is_anew=True)
    assert decide(anew, slow, PLENTY, has_proposals=True).timebox_s == 180  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("rung_s", "pace_s", "timebox_s"), [(60, 5.0, 30), (60, 1.0, 14), (2, 0.1, 2.4), (2, 1.5, 4), (60, 55.0, 120)]
)
def test_a_rung_in_steps_has_time_for_a_slow_start(rung_s: float, pace_s: float, timebox_s: float):
    """Twice what its trial needs and ten seconds, or a first rung; never more than the limit for so many steps."""
    rules = msgspec.structs.replace(BY_STEPS, rung_s=rung_s)
    assert rules.timebox_s(1, pace_s) == pytest.approx(timebox_s)


def test_what_rungs_in_steps_take_decides_how_many_there_are():
    """Not the most that they may take: trials of a second each go on until the budget is used up."""
    quick = [Trial(number=n, values=(0.5,), pace_s=1.0) for n in range(2)]
    rules, budget = msgspec.structs.replace(BY_STEPS, usual_s=1.0), Budget(total_s=100, spent_s=90)
    assert decide(rules, quick, budget, has_proposals=True) == StartTrial(timebox_s=10, until_step=100)
    over = msgspec.structs.replace(budget, spent_s=99.6)
    assert decide(rules, quick, over, has_proposals=True) == Finish(reason="the budget is used up")


class Simulation:
    """A sweep over made-up curves: trials end in any order, some fail, some complete, some use less than their time."""

    def __init__(self, rules: Rules, total_s: float, curve: Callable[[int, int], float | None], seed: int) -> None:
        self.asked, self.total_s, self.curve = rules, total_s, curve
        self.rng = random.Random(seed)
        self.trials: list[Trial] = []
        self.committed: dict[int, float] = {}
        self.spent_s = 0.0
        self.promotions: list[Promote] = []

    @property
    def rules(self) -> Rules:
        """With what steps took so far."""
        paces_s = [trial.pace_s for trial in self.trials if trial.pace_s is not None]
        return msgspec.structs.replace(self.asked, usual_s=median(paces_s)) if paces_s else self.asked

    @property
    def budget(self) -> Budget:
        return Budget(total_s=self.total_s, spent_s=self.spent_s, committed_s=sum(self.committed.values()))

    def run(self, most_trials: int = 200) -> Finish:
        while True:
            action = decide(self.rules, self.trials, self.budget, has_proposals=len(self.trials) < most_trials)
            if isinstance(action, Finish):
                assert not self.committed
                return action
            if isinstance(action, Wait):
                self.end_one()
            else:
                self.begin(action)
            assert len(self.committed) <= self.rules.parallel
            assert self.spent_s + sum(self.committed.values()) <= self.total_s * (1 + 1e-9)

    def begin(self, action: StartTrial | Promote) -> None:
        assert action.timebox_s > 0
        if isinstance(action, StartTrial):
            number, rung, pace_s = len(self.trials), 0, None
            self.trials.append(Trial(number=number, active_rung=0))
        else:
            number, rung = action.trial, action.rung
            trial = self.trials[number]
            pace_s = trial.pace_s
            assert trial.can_resume
            assert trial.active_rung is None
            assert len(trial.values) == rung < self.rules.max_rungs
            self.promotions.append(action)
            self.trials[number] = msgspec.structs.replace(trial, active_rung=rung)
        assert action.timebox_s <= self.rules.timebox_s(rung, pace_s) * (1 + 1e-9)
        assert action.until_step == self.rules.until_step(rung)
        self.committed[number] = action.timebox_s

    def end_one(self) -> None:
        number = self.rng.choice(sorted(self.committed))
        trial, timebox_s = self.trials[number], self.committed.pop(number)
        value = self.curve(number, len(trial.values))
        completes = self.rng.random() < 0.1
        pace_s = None
        if self.rules.rung_steps is not None:  # it comes to its step, or its time is over before
            pace_s = self.rules.rung_s * random.Random(number).uniform(0.01, 2)
            timebox_s = min(timebox_s, pace_s * self.rules.size(len(trial.values)))
        self.spent_s += timebox_s * (self.rng.random() if completes or value is None else 1.0)
        self.trials[number] = Trial(
            number=number, values=(*trial.values, value), can_resume=not completes and value is not None, pace_s=pace_s
        )


@st.composite
def simulations(draw: st.DrawFn) -> Simulation:
    rules = Rules(
        goal=draw(st.sampled_from(Goal)),
        rung_s=draw(st.sampled_from([1.0, 30.0, 61.7])),
        rung_steps=draw(st.sampled_from([None, 2, 1000])),
        is_anew=draw(st.booleans()),
        eta=draw(st.sampled_from([1.5, 2.0, 3.0, 4.0])),
        max_rungs=draw(st.integers(1, 5)),
        parallel=draw(st.integers(1, 5)),
    )
    values = draw(st.lists(st.one_of(st.none(), st.floats(-10, 10)), min_size=1, max_size=40))
    total_s = rules.rung_s * draw(st.floats(0.1, 120))
    return Simulation(rules, total_s, lambda n, rung: values[(7 * n + rung) % len(values)], draw(st.integers(0, 99)))


@given(sweep=simulations())
def test_any_sweep_ends_within_its_budget(sweep: Simulation):
    """Whatever the results: never more sessions than slots, never more time than there is, and the rest is too little."""
    finish = sweep.run()
    if finish.reason == "the budget is used up":
        assert sweep.budget.left_s < LEAST_SHARE * sweep.rules.duration_s(0)
    else:
        is_through = [
            not t.can_resume or t.value is None or len(t.values) == sweep.rules.max_rungs for t in sweep.trials
        ]
        assert all(is_through)


@given(sweep=simulations(), most_trials=st.integers(1, 6))
def test_nobody_starves(sweep: Simulation, most_trials: int):
    """With few proposals and a large budget every trial that can be resumed is trained to the last rung."""
    sweep.total_s = sweep.rules.rung_s * 10_000
    sweep.run(most_trials)
    assert len(sweep.trials) == most_trials
    for trial in sweep.trials:
        assert not trial.can_resume or trial.value is None or len(trial.values) == sweep.rules.max_rungs


FINISHED = st.lists(
    st.lists(st.one_of(st.none(), st.floats(-5, 5)), min_size=1, max_size=3).map(tuple), min_size=1, max_size=15
)


@given(
    values=FINISHED,
    gain=st.floats(0.001, 100),
    spent=st.floats(0, 3_000),
    goal=st.sampled_from(Goal),
    eta=st.sampled_from([1.5, 2.0, 3.0]),
    has_proposals=st.booleans(),
    is_one_active=st.booleans(),
)
def test_a_better_result_never_loses_a_promotion(
    values: list[tuple[float | None, ...]],
    gain: float,
    spent: float,
    goal: Goal,
    eta: float,
    has_proposals: bool,
    is_one_active: bool,
):
    """The trial that is promoted would be if its last value were better still, for either goal."""
    rules = msgspec.structs.replace(RULES, goal=goal, eta=eta)
    trials = [Trial(number=n, values=each) for n, each in enumerate(values)]
    trials += [Trial(number=len(values), active_rung=0)] * is_one_active
    budget = Budget(total_s=3_600, spent_s=spent)
    action = decide(rules, trials, budget, has_proposals=has_proposals)
    if not isinstance(action, Promote):
        return
    chosen = trials[action.trial]
    assert chosen.value is not None
    improved = chosen.value + (gain if goal is Goal.MAX else -gain)
    better = msgspec.structs.replace(chosen, values=(*chosen.values[:-1], improved))
    again = decide(rules, [better if t is chosen else t for t in trials], budget, has_proposals=has_proposals)
    assert isinstance(again, Promote)
    assert again.trial == action.trial


def test_halving_finds_a_better_trial_than_equal_shares():
    """On learning curves that rank alike early and late, with noise: the point of it all. Median of 20 sweeps."""

    def curve(quality: float, trained_s: float) -> float:
        return quality * (1 - math.exp(-trained_s / 300))

    def final(seed: int, *, halves: bool) -> float:
        rng = random.Random(seed)
        quality = [rng.random() for _ in range(400)]
        rules = msgspec.structs.replace(RULES, max_rungs=4)
        if not halves:  # full length for as many as the budget allows
            full_s = sum(rules.duration_s(rung) for rung in range(4))
            return max(curve(q, full_s) for q in quality[: int(7_200 / full_s)])
        trained = [sum(rules.duration_s(k) for k in range(rung + 1)) for rung in range(4)]
        sweep = Simulation(rules, 7_200, lambda n, k: curve(quality[n], trained[k]) + rng.gauss(0, 0.01), seed)
        sweep.run()
        values = [curve(quality[t.number], trained[len(t.values) - 1]) for t in sweep.trials if t.value is not None]
        return max(values)

    halved = sorted(final(seed, halves=True) for seed in range(20))
    whole = sorted(final(seed, halves=False) for seed in range(20))
    assert halved[10] > whole[10]


def test_the_ranking_has_no_failures():
    """And is by the last rung's value; the earlier of equals first."""
    trials = [
        Trial(number=0, values=(0.5,)),
        Trial(number=1, values=(0.1, 0.9)),
        Trial(number=2, values=(None,)),
        Trial(number=3, values=(0.5,)),
        Trial(number=4),
    ]
    assert [trial.number for trial in ranked(RULES, trials)] == [1, 0, 3]


def test_the_best_are_repeated_for_equally_long():
    """Seed by seed, so that what there is can be compared if the budget ends early."""
    trials = [Trial(number=n, values=(n / 10,)) for n in range(5)]
    found = repeats(RULES, trials, Budget(total_s=1_000), top=2, seeds=2, trained_s=200)
    assert found == tuple(Repeat(trial=n, seed=seed, timebox_s=200) for seed in (1, 2) for n in (4, 3))
    shorter = repeats(RULES, trials, Budget(total_s=400), top=2, seeds=2, trained_s=200)
    assert {repeat.timebox_s for repeat in shorter} == {100}


def test_repeats_of_rungs_in_steps_come_to_the_same_step():
    """That of the highest rung among the best, or as far as the budget allows."""
    trials = [Trial(number=0, values=(0.5, 0.9), pace_s=10.0), Trial(number=1, values=(0.8,), pace_s=40.0)]
    found = repeats(BY_STEPS, trials, Budget(total_s=800), top=2, seeds=2, trained_s=40)
    assert {(one.until_step, one.timebox_s) for one in found} == {(300, 200)}
    found = repeats(BY_STEPS, trials, Budget(total_s=120), top=2, seeds=2, trained_s=40)
    assert {(one.until_step, one.timebox_s) for one in found} == {(225, 30)}
    shortest = msgspec.structs.replace(BY_STEPS, rung_steps=2)
    found = repeats(shortest, trials[1:], Budget(total_s=30), top=1, seeds=1, trained_s=100)
    assert [one.until_step for one in found] == [1]


def test_no_repeats_where_they_would_tell_nothing():
    """Too little time, or no trial with a value."""
    trials = [Trial(number=0, values=(0.1,))]
    assert repeats(RULES, trials, Budget(total_s=20), top=1, seeds=1, trained_s=200) == ()
    assert repeats(RULES, [Trial(number=0, values=(None,))], PLENTY, top=1, seeds=1, trained_s=200) == ()


def repeated(trial: int, *values: float | None) -> Repeated:
    """With the seeds 1, 2, ..."""
    return Repeated(trial=trial, values=dict(enumerate(values, start=1)))


def test_repeats_rank_by_their_mean():
    """One of which a seed failed comes last."""
    lucky = repeated(0, 0.9, 0.1, 0.2)
    steady = repeated(1, 0.6, 0.6, 0.7)
    broken = repeated(2, 0.9, 0.9, None)
    assert [one.trial for one in ranked_repeats(RULES, [lucky, broken, steady])] == [1, 0, 2]
    assert steady.mean == pytest.approx(0.6333, abs=1e-4)
    assert steady.sd == pytest.approx(0.0577, abs=1e-4)
    assert repeated(3, None).mean is None
    assert repeated(3, 0.5).sd is None
    assert repeated(3, 0.5, 0.7).sd == pytest.approx(0.1414, abs=1e-4)


def are_told_apart(*some: Repeated) -> bool:
    return not ties(RULES, ranked_repeats(RULES, some))


def test_a_tie_is_what_the_seeds_leave_open():
    """Paired by seed: what all seeds shift alike does not hide a difference."""
    one = repeated(0, 0.11, 0.52, 0.93, 0.34)
    assert are_told_apart(one, repeated(1, 0.084, 0.473, 0.883, 0.279))
    assert not are_told_apart(one, repeated(1, 0.30, 0.20, 0.95, 0.40))
    assert not are_told_apart(one, repeated(1, 0.01, None, None, None))
    assert ties(RULES, []) == ties(RULES, [one]) == []


def test_only_values_of_the_same_seed_are_paired():
    """The second seed of one has not ended yet."""
    one = repeated(0, 0.11, 0.52, 0.93, 0.34)
    assert are_told_apart(one, Repeated(trial=1, values={1: 0.0703, 3: 0.8861, 4: 0.2978}))


def test_coarse_values_that_differ_alike_are_a_tie():
    """As `verdict` says of them: five seeds that each differ by one sample of a hundred prove nothing."""
    assert not are_told_apart(repeated(0, 0.91, 0.92, 0.93, 0.92, 0.91), repeated(1, 0.90, 0.91, 0.92, 0.91, 0.90))


def test_a_trial_whose_repeats_failed_is_not_ahead():
    """What is left of it proves nothing."""
    whole = repeated(0, 0.5, 0.52, 0.49, 0.51)
    assert not are_told_apart(whole, repeated(1, 0.9, 0.93, 0.88, None))


def test_equals_are_called_different_one_time_in_twenty():
    """Of a thousand pairs with five seeds, and of as many triples: the best of three is compared twice."""
    rng = random.Random(7)
    for size in (2, 3):
        wrong = 0
        for _ in range(1_000):
            some = [repeated(n, *(rng.gauss(0, 1) for _ in range(5))) for n in range(size)]
            wrong += len(ties(RULES, ranked_repeats(RULES, some))) < size - 1
        assert 20 <= wrong <= 75, size
