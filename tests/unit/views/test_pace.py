"""How often a view does its work."""

import pytest

from backprop.views.pace import RefreshPace


@pytest.mark.parametrize(
    ("cpu_s", "interval_s"),
    [(0.0, 1.0), (0.02, 1.0), (0.04, 2.0), (3.0, 10.0)],
)
def test_work_that_costs_more_is_done_less_often(cpu_s: float, interval_s: float):
    """Once a second at most, and at least every ten seconds."""
    assert RefreshPace(0.02, 10.0).interval_s(cpu_s) == pytest.approx(interval_s)


def test_one_expensive_time_changes_little():
    """What counts is the mean of the last few times, and an expensive one is soon forgotten."""
    pace = RefreshPace(0.02, 10.0)
    for _ in range(4):
        pace.interval_s(0.02)
    assert pace.interval_s(0.07) == pytest.approx(1.5)
    assert [pace.interval_s(0.02) for _ in range(5)][-1] == pytest.approx(1.0)
