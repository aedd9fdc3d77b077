"""Mean and spread of several curves."""

import math
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.store.curves import Axis, Curve
from backprop.views.bands import band


def curve(*points: tuple[float, float]) -> Curve:
    xs, ys = array("d", [x for x, _ in points]), array("d", [y for _, y in points])
    return Curve(run_id="r", metric="loss", axis=Axis.STEP, xs=xs, ys=ys, point_count=len(xs), is_reduced=False)


def test_runs_that_were_measured_at_the_same_steps():
    """Mean and standard deviation at these very steps."""
    found = band([curve((1, 1.0), (2, 4.0)), curve((1, 3.0), (2, 4.0))])
    assert (found.xs, found.mean, found.runs) == ([1, 2], [2.0, 4.0], [2, 2])
    assert found.low == [pytest.approx(2 - math.sqrt(2)), 4.0]
    assert found.high == [pytest.approx(2 + math.sqrt(2)), 4.0]


def test_runs_of_other_lengths():
    """A run counts between its ends only, and there its line does."""
    found = band([curve((0, 0.0), (10, 10.0)), curve((0, 0.0), (20, 40.0))])
    at = dict(zip(found.xs, zip(found.mean, found.runs, strict=True), strict=True))
    assert at[5.0] == (pytest.approx(7.5), 2)
    assert at[20.0] == (40.0, 1)


def test_what_is_not_finite_is_left_out():
    """A NaN is no value, and a run of nothing else is no run."""
    found = band([curve((1, 1.0), (2, math.nan), (3, 3.0)), curve((1, math.inf))])
    assert (found.xs, found.mean, found.runs) == ([1, 3], [1.0, 3.0], [1, 1])
    assert band([]).xs == []


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 50), st.floats(-1e6, 1e6)), min_size=1, max_size=20), min_size=1, max_size=6
    )
)
def test_a_band_lies_between_its_curves(points: list[list[tuple[int, float]]]):
    """The mean is never beyond the least and the greatest value, the band is around it, and x only rises."""
    found = band([curve(*sorted(line)) for line in points])
    values = [y for line in points for _, y in line]
    assert found.xs == sorted(set(found.xs))
    for low, mean, high in zip(found.low, found.mean, found.high, strict=True):
        assert low <= mean <= high
        assert min(values) - 1e-3 <= mean <= max(values) + 1e-3
