"""Is a candidate better than a baseline? Statistics over runs that differ in their seeds only. Pure.

Runs of one seed are paired, so that what a seed shifts in both does not hide a difference (paired t-test); without
common seeds it is Welch's t-test, with no more degrees of freedom than two sides of the smaller one's size have. Coarse
values, such as an accuracy on 100 samples, get a correction for continuity. Two-sided at 5 %, after Holm's correction
where there are several candidates.
Sources: Student 1908; Welch 1947; Yates 1934 (continuity); Holm 1979; for the power, Cohen, Statistical Power Analysis,
1988.

Only `runs_to_see` needs scipy (the extra `stats`): sweeps name ties without it.
"""

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from itertools import pairwise
from statistics import fmean, stdev

import msgspec

from backprop.records import Record

LEVEL = 0.05  # how often equals are called different at most
POWER = 0.8  # how often a difference is seen with as many runs as `needs` says
_MOST_NEEDED = 1_000_000
_EPSILON, _MOST_TERMS = 1e-15, 10_000  # of a continued fraction, which takes twenty as a rule
_NORMAL = 1.9599  # what the normal distribution exceeds, in size, with the probability `LEVEL`; of t it is more
_COARSE = 1e4  # how many times less exact than floats a step may be that is the last: the next is the square of it
_ROUNDING = 2.5e-7  # of the greatest value: what varies by less does not vary, as a float32 has it (2 ulp)
_SAME = 0.1  # of the greatest difference: what differs by less, and by rounding, counts as the same


class Verdict(str, Enum):
    """What the runs say of a candidate."""

    BETTER = "better"
    WORSE = "worse"
    TIE = "tie"  # any difference is smaller than what matters
    UNDECIDED = "undecided"  # more runs may tell


class Judgement(Record, frozen=True):
    """A candidate against the baseline. Differences are candidate minus baseline, in units of the metric."""

    verdict: Verdict
    diff: float | None  # of the means; None: one of the two has no value
    ci95: tuple[float, float] | None  # 95 % interval of the difference, not corrected; None: it cannot be known
    p: float | None  # two-sided, after Holm's correction
    is_paired: bool
    sd: float | None  # of the paired differences, else of the values within both sides
    count: int  # pairs; not paired: runs of the smaller side
    visible: float | None  # the difference that is meant: what matters, or what was seen if that is more


class _Test(Record, frozen=True):
    """A t-test before the correction."""

    is_paired: bool
    count: int  # pairs, or runs of the smaller side
    diff: float | None = None
    sd: float | None = None
    p: float | None = None
    half_width: float | None = None  # of the 95 % interval


Seeds = Mapping[str, float]
"""Value by seed; a run without one has a key of its own."""


def judge(baseline: Seeds, candidates: Sequence[Seeds], *, is_max: bool, margin: float) -> list[Judgement]:
    """Each candidate against the baseline.

    margin: differences up to this do not matter: a 95 % interval within it is a tie.
    """
    tests = [_test(baseline, candidate) for candidate in candidates]
    corrected = holm([test.p for test in tests])
    return [_judgement(test, p, is_max=is_max, margin=margin) for test, p in zip(tests, corrected, strict=True)]


def _test(baseline: Seeds, candidate: Seeds) -> _Test:
    common = sorted(baseline.keys() & candidate.keys())
    if len(common) > 1:
        return _paired([candidate[seed] for seed in common], [baseline[seed] for seed in common])
    return _welch(list(baseline.values()), list(candidate.values()))


def _paired(candidate: Sequence[float], baseline: Sequence[float]) -> _Test:
    differences = [one - other for one, other in zip(candidate, baseline, strict=True)]
    count, diff, sd = len(differences), fmean(differences), stdev(differences)
    if max(differences) - min(differences) <= _rounding((*candidate, *baseline), max(map(abs, differences))):
        return _equal_differences(diff, count)
    return _t_test(
        diff,
        sd,
        sd / math.sqrt(count),
        count - 1,
        is_paired=True,
        count=count,
        half_step=_step(differences) / 2 / count,
    )


def _t_test(
    diff: float, sd: float, error: float, freedom: float, *, is_paired: bool, count: int, half_step: float
) -> _Test:
    """Student's t with a correction for continuity: a mean of coarse values is known to half of its own step only."""
    p = two_sided(max(0.0, abs(diff) - half_step) / error, freedom)
    half_width = critical(freedom) * error + half_step
    return _Test(is_paired=is_paired, count=count, diff=diff, sd=sd, p=p, half_width=half_width)


def two_sided(t: float, freedom: float) -> float:
    """How likely Student's t with these degrees of freedom is at least as far from 0 as `t`, which is not negative.

    Source: DLMF 8.17 (the regularized incomplete beta function, by its continued fraction, 8.17.22).
    """
    x, a, b = freedom / (freedom + t * t), freedom / 2, 0.5
    if x in {0.0, 1.0}:
        return x
    factor = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(t * t / (freedom + t * t))
    )
    if x < (a + 1) / (a + b + 2):
        return factor / a / _continued_fraction(x, a, b)
    return 1.0 - factor / b / _continued_fraction(1 - x, b, a)


def _continued_fraction(x: float, a: float, b: float) -> float:
    """1 + d1 / (1 + d2 / (1 + ...)) of DLMF 8.17.22, by the modified algorithm of Lentz (DLMF 3.10(iii))."""
    value = upper = 1.0
    lower = 0.0
    for n in range(1, _MOST_TERMS):
        m = n // 2
        d = (-(a + m) * (a + b + m) if n % 2 else m * (b - m)) * x / (a + n - 1) / (a + n)
        lower = 1.0 / (1.0 + d * lower)
        upper = 1.0 + d / upper
        value *= upper * lower
        if abs(upper * lower - 1.0) < _EPSILON:
            break
    return value


@lru_cache
def critical(freedom: float) -> float:
    """What Student's t exceeds, in size, with the probability `LEVEL`."""
    log_scale = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    t, step = _NORMAL, math.inf
    while step > _EPSILON * t * _COARSE:  # Newton, from below: the tail is convex, so it is never overshot
        density = math.exp(log_scale - (freedom + 1) / 2 * math.log1p(t * t / freedom))
        step = (two_sided(t, freedom) - LEVEL) / 2 / density
        t += step
    return t


def _rounding(values: Sequence[float], greatest: float) -> float:
    """How far equal differences of such values may lie apart, as float32 or printed with few digits rounds them.

    greatest: of the differences. Where the last digit is no small part of that, the values may as well be exact.
    """
    digits = max(-int(Decimal(repr(value)).normalize().as_tuple().exponent) for value in values)
    printed = 1.01 * 10.0**-digits
    return max(_ROUNDING * max(map(abs, values)), printed if printed <= _SAME * greatest else 0.0)


def _step(values: Sequence[float]) -> float:
    """The least distance between the sizes of these values, 0 among them, as far as they differ; 0.0 if all are 0.

    Of coarse values it is their resolution (0.01 for an accuracy on 100 samples), of others next to nothing.
    """
    sizes = sorted({0.0, *map(abs, values)})
    gaps = [high - low for low, high in pairwise(sizes)]
    return min((gap for gap in gaps if gap > sizes[-1] * _SAME), default=0.0)


def _equal_differences(diff: float, count: int, *, is_paired: bool = True) -> _Test:
    """All differences are the same, as those of coarse metrics may be: the sign test, as t would be infinite."""
    is_enough = 2.0 * 0.5**count <= LEVEL
    p = 1.0 if diff == 0.0 else min(1.0, 2.0 * 0.5**count)
    return _Test(is_paired=is_paired, count=count, diff=diff, sd=0.0, p=p, half_width=0.0 if is_enough else None)


def _welch(baseline: Sequence[float], candidate: Sequence[float]) -> _Test:
    count = min(len(baseline), len(candidate))
    diff = fmean(candidate) - fmean(baseline) if count else None
    if diff is None or count < 2:
        return _Test(is_paired=False, count=count, diff=diff)
    parts = [stdev(values) ** 2 / len(values) for values in (baseline, candidate)]
    error_squared = sum(parts)
    freedom_left = [len(baseline) - 1, len(candidate) - 1]
    squares = sum(stdev(v) ** 2 * n for v, n in zip((baseline, candidate), freedom_left, strict=True))
    pooled = math.sqrt(squares / sum(freedom_left))
    if pooled <= _ROUNDING * max(map(abs, (*baseline, *candidate))):  # so that nothing is known of how values vary
        if diff != 0.0:
            return _Test(is_paired=False, count=count, diff=diff, sd=0.0)
        return _equal_differences(diff, count, is_paired=False)
    freedom = 1 / sum((part / error_squared) ** 2 / n for part, n in zip(parts, freedom_left, strict=True))
    return _t_test(
        diff,
        pooled,
        math.sqrt(error_squared),
        min(freedom, 2 * count - 2),  # with 2 runs against 10, Welch's own calls one in ten equals different
        is_paired=False,
        count=count,
        half_step=_step([value - baseline[0] for value in (*baseline, *candidate)])
        / 2
        / max(len(baseline), len(candidate)),
    )


def holm(values: Sequence[float | None]) -> list[float | None]:
    """p-values after Holm's step-down correction; None stays None and is not counted."""
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    greatest = 0.0
    for rank, (p, place) in enumerate(known):
        greatest = max(greatest, min(1.0, p * (len(known) - rank)))
        corrected[place] = greatest
    return corrected


def _judgement(test: _Test, p: float | None, *, is_max: bool, margin: float) -> Judgement:
    diff, half = test.diff, test.half_width
    interval = None if diff is None or half is None else (diff - half, diff + half)
    visible = None if diff is None else max(margin, abs(diff))
    verdict = _verdict(diff, interval, p, is_max=is_max, margin=margin)
    return Judgement(
        verdict=verdict,
        diff=diff,
        ci95=interval,
        p=p,
        is_paired=test.is_paired,
        sd=test.sd,
        count=test.count,
        visible=visible,
    )


def _verdict(
    diff: float | None, interval: tuple[float, float] | None, p: float | None, *, is_max: bool, margin: float
) -> Verdict:
    if diff is None or interval is None or p is None:
        return Verdict.UNDECIDED
    if p <= LEVEL:
        return Verdict.BETTER if (diff > 0) == is_max else Verdict.WORSE
    if -margin <= interval[0] and interval[1] <= margin:
        return Verdict.TIE
    return Verdict.UNDECIDED


def with_lost_runs(judgement: Judgement, *, baseline_lost: int, candidate_lost: int) -> Judgement:
    """Undecided instead of ahead, where the side that is ahead has lost more runs: it counts with its survivors only.

    baseline_lost, candidate_lost: runs without a finite value.
    """
    lost = {Verdict.BETTER: candidate_lost - baseline_lost, Verdict.WORSE: baseline_lost - candidate_lost}
    if lost.get(judgement.verdict, 0) <= 0:
        return judgement
    return msgspec.structs.replace(judgement, verdict=Verdict.UNDECIDED)


def runs_to_see(judgement: Judgement) -> int | None:
    """Pairs, or runs of each side, to see `visible` with 80 % power; None: not known, or it is decided already."""
    if judgement.verdict is not Verdict.UNDECIDED or not judgement.sd or not judgement.visible:
        return None
    return runs_needed(judgement.visible / judgement.sd, is_paired=judgement.is_paired)


def runs_needed(effect: float, *, is_paired: bool) -> int | None:
    """Pairs, or runs of each side, to see an effect with 80 % power; None: more than a million.

    effect: the difference in standard deviations, above 0.
    """
    low, high = 1, 2
    while _power(effect, high, is_paired=is_paired) < POWER:
        low, high = high, 2 * high
        if high > _MOST_NEEDED:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if _power(effect, middle, is_paired=is_paired) < POWER:
            low = middle
        else:
            high = middle
    return high


def _power(effect: float, count: int, *, is_paired: bool) -> float:
    from scipy.special import nctdtr

    freedom = count - 1 if is_paired else 2 * count - 2
    shift = effect * math.sqrt(count if is_paired else count / 2)
    if shift > 30:  # scipy's nctdtr is not accurate there, and there is nothing left to find
        return 1.0
    return 1.0 - float(nctdtr(freedom, shift, critical(freedom)))
