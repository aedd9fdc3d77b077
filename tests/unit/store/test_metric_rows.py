"""Points of several metrics become rows: every point once, by session and step."""

import math

from hypothesis import given
from hypothesis import strategies as st

from backprop.store.curves import Point
from backprop.store.metric_rows import joined

# a metric's points: sessions in order, steps in any
METRIC = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5))).map(
    lambda points: sorted(points, key=lambda p: p[0])
)


def rows_of(metrics: dict[str, list[tuple[int, int]]]) -> list:
    points = {
        name: [Point(session, name, step, float(number), float(number)) for number, (session, step) in enumerate(told)]
        for name, told in metrics.items()
    }
    return list(joined(points, lambda name: iter(points[name])))


def test_what_was_reported_at_one_step_is_one_row():
    """Metrics of the same step are joined; one that was not reported is not in the row."""
    rows = rows_of({"loss": [(1, 0), (1, 1), (1, 2)], "acc": [(1, 2)]})
    assert [(row.session, row.step, row.values) for row in rows] == [
        (1, 0, {"loss": 0.0}),
        (1, 1, {"loss": 1.0}),
        (1, 2, {"loss": 2.0, "acc": 0.0}),
    ]


def test_sessions_follow_one_another():
    """A step that was trained again is a row of each session."""
    rows = rows_of({"loss": [(1, 0), (1, 1), (2, 1), (2, 2)], "acc": [(2, 1)]})
    assert [(row.session, row.step, set(row.values)) for row in rows] == [
        (1, 0, {"loss"}),
        (1, 1, {"loss"}),
        (2, 1, {"loss", "acc"}),
        (2, 2, {"loss"}),
    ]


@given(st.dictionaries(st.sampled_from("abc"), METRIC))
def test_no_point_is_lost_or_doubled(metrics: dict[str, list[tuple[int, int]]]):
    """Whatever order the steps came in, each point is in exactly one row, and sessions never go back."""
    rows = rows_of(metrics)
    for name, told in metrics.items():
        found = [(row.session, row.step, row.values[name]) for row in rows if name in row.values]
        assert found == [(session, step, number) for number, (session, step) in enumerate(told)]
    sessions = [row.session for row in rows]
    assert sessions == sorted(sessions)
    assert not any(math.isnan(row.time_s) for row in rows)
