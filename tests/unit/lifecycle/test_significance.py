"""Whether a candidate is better than a baseline."""

import random
from collections.abc import Mapping
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.lifecycle.significance import (
    LEVEL,
    Judgement,
    Verdict,
    critical,
    holm,
    judge,
    runs_needed,
    runs_to_see,
    two_sided,
    with_lost_runs,
)
from tests.conftest import scaled


def seeds(*values: float) -> dict[str, float]:
    return {str(seed): value for seed, value in enumerate(values)}


UNPAIRED = (f"run {number}" for number in count())


def unpaired(*values: float) -> dict[str, float]:
    return {next(UNPAIRED): value for value in values}


def one(
    baseline: Mapping[str, float], candidate: Mapping[str, float], *, is_max: bool = True, margin: float = 0.01
) -> Judgement:
    return judge(baseline, [candidate], is_max=is_max, margin=margin)[0]


def test_a_difference_that_every_seed_shows():
    """With the figures of scipy's own paired test."""
    from scipy import stats  # a second of CPU time, which each worker of pytest-xdist would spend at collection

    baseline, candidate = (0.80, 0.85, 0.78, 0.90), (0.82, 0.88, 0.80, 0.93)  # steps of 0.01, so 0.00125 for continuity
    found = one(seeds(*baseline), seeds(*candidate))
    expected = stats.ttest_rel([value - 0.00125 for value in candidate], baseline)
    interval = stats.ttest_rel(candidate, baseline).confidence_interval(0.95)
    assert (found.verdict, found.is_paired, found.count) == (Verdict.BETTER, True, 4)
    assert found.diff == pytest.approx(0.025)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.ci95 == pytest.approx((interval.low - 0.00125, interval.high + 0.00125))
    assert runs_to_see(found) is None


@pytest.mark.parametrize("freedom", [1, 1.5, 2, 4, 9.3, 30, 200, 5_000, 2_000_000])
def test_students_t_is_that_of_scipy(freedom: float):
    from scipy import stats

    for t in (0.0, 1e-9, 0.01, 0.5, 1.0, 1.96, 2.5, 4.0, 12.0, 100.0, 1e6, 1e200):
        assert two_sided(t, freedom) == pytest.approx(2 * stats.t.sf(t, freedom), rel=1e-8, abs=1e-300)
    assert critical(freedom) == pytest.approx(stats.t.ppf(1 - LEVEL / 2, freedom), rel=1e-8)


def test_smaller_may_be_better():
    """The same figures of a loss are worse."""
    assert one(seeds(0.80, 0.85, 0.78), seeds(0.82, 0.88, 0.80), is_max=False).verdict is Verdict.WORSE
    assert one(seeds(0.82, 0.88, 0.80), seeds(0.80, 0.85, 0.78), is_max=False).verdict is Verdict.BETTER


def test_runs_without_a_common_seed_are_not_paired():
    """With the figures of scipy's own Welch test."""
    from scipy import stats

    baseline, candidate = (1.0, 2.0, 3.0, 4.0), (5.0, 7.0, 6.0, 6.0)  # steps of 1, so 0.125 for continuity
    found = one(unpaired(*baseline), unpaired(*candidate))
    expected = stats.ttest_ind([value - 0.125 for value in candidate], baseline, equal_var=False)
    interval = stats.ttest_ind(candidate, baseline, equal_var=False).confidence_interval(0.95)
    assert (found.verdict, found.is_paired, found.count) == (Verdict.BETTER, False, 4)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.ci95 == pytest.approx((interval.low - 0.125, interval.high + 0.125))
    assert found.diff == pytest.approx(3.5)


def test_a_coarse_difference_below_half_a_step_is_none():
    """The mean of these is known to an eighth of their step of 1 only."""
    found = one(seeds(1.0, 2.0, 3.0, 4.0), seeds(2.0, 1.0, 4.0, 3.0))
    assert (found.diff, found.p) == (0.0, 1.0)
    assert found.ci95 is not None
    assert found.ci95[0] == -found.ci95[1]


def test_two_common_seeds_make_pairs_and_one_does_not():
    found = one(seeds(1.0, 2.0), seeds(1.5, 2.7))
    assert (found.is_paired, found.count) == (True, 2)
    assert not one({"0": 1.0, "1": 2.0}, {"0": 1.5, "2": 2.7}).is_paired


def test_one_run_each_is_never_enough():
    """However far apart they are."""
    found = one(seeds(0.1), seeds(0.9))
    assert (found.verdict, found.ci95, found.p, runs_to_see(found)) == (Verdict.UNDECIDED, None, None, None)
    assert found.diff == pytest.approx(0.8)


@pytest.mark.parametrize(("baseline", "candidate"), [({}, {}), (seeds(1.0, 2.0), {}), ({}, seeds(1.0))])
def test_no_value_no_verdict(baseline: dict[str, float], candidate: dict[str, float]):
    """A side whose runs all failed."""
    found = one(baseline, candidate)
    assert (found.verdict, found.diff) == (Verdict.UNDECIDED, None)


def test_a_tie_is_within_what_matters():
    """And undecided if the margin is narrower, with the number of pairs that would tell."""
    baseline, candidate = seeds(0.900, 0.910, 0.905, 0.895), seeds(0.901, 0.909, 0.906, 0.8945)
    assert one(baseline, candidate, margin=0.01).verdict is Verdict.TIE
    narrow = one(baseline, candidate, margin=0.0005)
    assert narrow.verdict is Verdict.UNDECIDED
    assert narrow.visible == 0.0005
    assert runs_to_see(narrow) is not None
    assert runs_to_see(narrow) > 4


def test_the_same_runs_are_a_tie():
    """Whatever the margin, once there are six: fewer may be equal by chance, where the metric is coarse."""
    values = (0.9, 0.8, 0.85, 0.87, 0.88, 0.9)
    for few, verdict in ((values, Verdict.TIE), (values[:5], Verdict.UNDECIDED)):
        assert one(seeds(*few), seeds(*few), margin=0.0).verdict is verdict
        assert one(unpaired(*[0.9] * len(few)), unpaired(*[0.9] * len(few)), margin=0.0).verdict is verdict


@pytest.mark.parametrize(("pairs", "verdict"), [(2, Verdict.UNDECIDED), (5, Verdict.UNDECIDED), (6, Verdict.BETTER)])
def test_equal_differences_are_no_proof_by_themselves(pairs: int, verdict: Verdict):
    """A coarse metric gives them by chance: six of one sign are needed, by the sign test."""
    assert one(seeds(*[0.5] * pairs), seeds(*[0.75] * pairs)).verdict is verdict
    shifts = [0.1 * seed for seed in range(pairs)]  # as far as a float can tell
    assert one(seeds(*shifts), seeds(*[shift + 0.05 for shift in shifts])).verdict is verdict


def test_values_that_do_not_vary_prove_nothing():
    """Without pairs, two and two equal values may be one lucky step apart."""
    assert one(unpaired(0.5, 0.5), unpaired(0.75, 0.75)).verdict is Verdict.UNDECIDED


@pytest.mark.parametrize(("effect", "paired", "unpaired_runs"), [(0.2, 199, 394), (0.5, 34, 64), (0.8, 15, 26)])
def test_how_many_runs_are_needed(effect: float, paired: int, unpaired_runs: int):
    """As G*Power and Cohen's tables have it, for 80 % power at 5 % two-sided."""
    assert runs_needed(effect, is_paired=True) == paired
    assert runs_needed(effect, is_paired=False) == unpaired_runs


@pytest.mark.parametrize("effect", [1e-9, 1e9])
def test_needs_have_bounds(effect: float):
    """More than a million is not a number to plan with; two is the least there is."""
    assert runs_needed(effect, is_paired=True) == (2 if effect > 1 else None)


def test_holm():
    """The example of Holm 1979 as R's p.adjust computes it; what has no p is not counted."""
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02], nan_ok=True)
    assert holm([]) == []


def test_several_candidates_are_corrected_for():
    """What is better alone is undecided as one of many."""
    baseline, lucky = seeds(1.0, 1.1, 0.9, 1.05), seeds(1.2, 1.28, 1.21, 1.2)
    assert one(baseline, lucky).verdict is Verdict.BETTER
    others = [seeds(*[value + 0.001 * n for n, value in enumerate(baseline.values())]) for _ in range(19)]
    assert judge(baseline, [lucky, *others], is_max=True, margin=0.01)[0].verdict is Verdict.UNDECIDED


@pytest.mark.parametrize(("is_paired", "trials"), [(True, 10_000), (False, 1_000)])
def test_equals_are_rarely_called_different(is_paired: bool, trials: int):
    """Thousands of made-up pairs of equals with five seeds: at most one in twenty, within the error of the count."""
    rng = random.Random(1)
    wrong = 0
    for _ in range(trials):
        shifts = [rng.gauss(0, 3) if is_paired else 0.0 for _ in range(5)]  # what a seed does to both
        sides = [[shift + rng.gauss(0, 1) for shift in shifts] for _ in range(2)]
        keys = [[f"{0 if is_paired else side}/{seed}" for seed in range(5)] for side in range(2)]
        baseline, candidate = (dict(zip(names, values, strict=True)) for names, values in zip(keys, sides, strict=True))
        wrong += one(baseline, candidate, margin=0.0).verdict in {Verdict.BETTER, Verdict.WORSE}
    assert wrong <= 0.05 * trials + 3 * (0.05 * 0.95 * trials) ** 0.5  # three standard errors
    assert wrong >= 0.02 * trials  # it would be useless if it never answered


@pytest.mark.parametrize("pairs", [2, 3, 5, 8])
@pytest.mark.parametrize("noise_steps", [0.4, 0.7, 1.0])
@pytest.mark.parametrize("digits", [None, 4])
def test_coarse_equals_are_rarely_called_different(pairs: int, noise_steps: float, digits: int | None):
    """An accuracy on 30 samples, also as it is printed: without the correction, 8 pairs would be wrong in 6 of 100."""
    # 8 pairs are where the correction is needed
    rng, trials, wrong = random.Random(3), 10_000 if (pairs, digits) == (8, None) else scaled(10_000), 0
    for _ in range(trials):
        shifts = [rng.uniform(0, 1) + rng.gauss(0, 3) for _ in range(pairs)]
        sides = [[round(shift + rng.gauss(0, noise_steps)) / 30 for shift in shifts] for _ in range(2)]
        baseline, candidate = (
            seeds(*(value if digits is None else round(value, digits) for value in v)) for v in sides
        )
        wrong += one(baseline, candidate, margin=0.0).verdict in {Verdict.BETTER, Verdict.WORSE}
    assert wrong <= 0.05 * trials


@pytest.mark.parametrize(("few", "many"), [(2, 3), (2, 10), (3, 10), (5, 20)])
@pytest.mark.parametrize("is_coarse", [False, True])
def test_equals_of_unequal_numbers_are_rarely_called_different(few: int, many: int, is_coarse: bool):
    """Two runs against ten: their own spread says little, and Welch's test alone is wrong in 10 of 100."""
    rng, trials, wrong = random.Random(4), scaled(4_000), 0
    for _ in range(trials):
        sides = [[rng.gauss(0.3, 1.0) for _ in range(count)] for count in (few, many)]
        baseline, candidate = (unpaired(*(map(round, v) if is_coarse else v)) for v in sides)
        wrong += one(baseline, candidate, margin=0.0).verdict in {Verdict.BETTER, Verdict.WORSE}
    assert wrong <= 0.05 * trials + 3 * (0.05 * 0.95 * trials) ** 0.5


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e-160, 1e-100, 1e100])
def test_tiny_and_huge_values(scale: float):
    """Squares of them are 0 or beyond a float: no verdict where nothing can be computed, and never an error."""
    values = ([1.0, 2.5, 3.1], [5.0, 7.2, 6.1, 6.6])
    baseline, candidate = ([value * scale for value in side] for side in values)
    assert one(unpaired(*baseline), unpaired(*candidate)).verdict in {Verdict.BETTER, Verdict.UNDECIDED}
    assert one(seeds(*baseline), seeds(*candidate)).verdict in {Verdict.BETTER, Verdict.UNDECIDED}


def test_a_side_that_lost_more_runs_is_not_ahead():
    """It counts with its survivors only. The other side may lose some."""
    better = one(seeds(0.80, 0.85, 0.78, 0.90), seeds(0.82, 0.88, 0.80, 0.93))
    worse = one(seeds(0.82, 0.88, 0.80, 0.93), seeds(0.80, 0.85, 0.78, 0.90))
    for judgement, lost, verdict in (
        (better, (0, 1), Verdict.UNDECIDED),
        (better, (1, 1), Verdict.BETTER),
        (better, (2, 1), Verdict.BETTER),
        (worse, (1, 0), Verdict.UNDECIDED),
        (worse, (0, 1), Verdict.WORSE),
    ):
        found = with_lost_runs(judgement, baseline_lost=lost[0], candidate_lost=lost[1])
        assert (found.verdict, found.p) == (verdict, judgement.p)


def test_real_differences_are_seen_as_often_as_promised():
    """With as many pairs as are said to be needed, about 80 of 100 differences are seen."""
    rng = random.Random(2)
    needed = runs_needed(1.0, is_paired=True)
    assert needed is not None
    seen = 0
    for _ in range(1_000):
        candidate = seeds(*(1.0 + rng.gauss(0, 1) for _ in range(needed)))
        seen += one(seeds(*[0.0] * needed), candidate, margin=0.0).verdict is Verdict.BETTER
    assert 750 <= seen <= 860


VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6)


@given(first=VALUES, second=VALUES, margin=st.floats(0, 1e6))
def test_swapping_the_sides_swaps_the_verdict(first: list[float], second: list[float], margin: float):
    """Whatever the values."""
    swapped = {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}
    there, back = one(seeds(*first), seeds(*second), margin=margin), one(seeds(*second), seeds(*first), margin=margin)
    assert back.verdict is swapped.get(there.verdict, there.verdict)
