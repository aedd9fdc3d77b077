"""When a line was written is told from how far the output had got at which time."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.store.output.line_times import OffsetClock, OffsetSample, Timeline
from tests.conftest import scaled


def growth(offset: int, since_s: float, until_s: float) -> OffsetSample:
    return OffsetSample(offset=offset, since_s=since_s, until_s=until_s)


@pytest.mark.parametrize(
    ("end", "seconds"),
    [(0, 0.0), (50, 1.5), (100, 2.0), (101, 60.1), (110, 61.0), (111, 61.0), (10_000, 61.0)],
)
def test_what_lies_between_two_notes_was_written_evenly(end: int, seconds: float):
    """A line is dated by where it ends; silence between two notes stays silence, and beyond the last note is then."""
    timeline = Timeline([growth(100, 1.0, 2.0), growth(110, 60.0, 61.0)])
    assert list(timeline.seconds([end])) == pytest.approx([seconds])


def test_without_a_note_all_was_written_at_once():
    """Nothing known is no error."""
    assert list(Timeline().seconds([1, 5])) == [0.0, 0.0]


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.floats(-10, 1000), st.floats(-10, 1000))),
    st.lists(st.integers(0, 12_000)),
)
def test_time_never_goes_back(grown: list[tuple[int, float, float]], ends: list[int]):
    """Whatever was noted, later lines have later times, asked for in any order."""
    timeline = Timeline(growth(offset, since_s, until_s) for offset, since_s, until_s in grown)
    in_order = list(timeline.seconds(sorted(ends)))
    assert in_order == sorted(in_order)
    assert sorted(timeline.seconds(ends)) == in_order


def test_a_day_has_few_notes_and_each_is_close():
    """Notes of a steady session: a few hundred a day, and every line is dated within one percent, or a second."""
    witness = OffsetClock()
    notes = []
    for quarter in range(1, 86_400 * 4):
        due = witness.looked(quarter / 4, quarter * 10)
        notes += [] if due is None else [due]
    assert 300 < len(notes) < 1200
    timeline = Timeline(notes)
    for at_s in (1, 10, 100, 5_000, 50_000, 85_000):
        (told,) = timeline.seconds([at_s * 40])
        assert told == pytest.approx(at_s, rel=0.01, abs=1.0)


def test_a_silent_session_is_not_noted():
    """Looks that bring nothing leave no trace."""
    witness = OffsetClock()
    assert {witness.looked(float(second), 0) for second in range(1, 100)} == {None}


def test_a_burst_after_silence_is_dated_after_it():
    """What comes after ten minutes of silence was not written in them."""
    witness = OffsetClock()
    notes = [due for at_s in (1.0, 2.0) if (due := witness.looked(at_s, 100))]
    for second in range(3, 600):
        witness.looked(float(second), 100)
    due = witness.looked(600.0, 300)
    assert due == growth(300, 599.0, 600.0)
    assert list(Timeline([*notes, due]).seconds([101, 300])) == pytest.approx([599.0, 600.0], abs=0.01)


@pytest.mark.parametrize("stored", [0, 40, 170])
def test_lines_that_are_stored_late_are_dated_by_when_they_were_seen(stored: int):
    """Whatever could not be stored for a while has the time at which it was written, and so has what is read again."""
    witness = OffsetClock()
    for second in range(1, 101):
        witness.looked(float(second), second * 10)
    witness.forget(stored)
    times = witness.timeline(stored).seconds(range(stored + 5, 1001, 10))
    assert list(times) == pytest.approx([end / 10 for end in range(stored + 5, 1001, 10)], abs=0.01)
    witness.forget(1000)
    again = witness.timeline(0).seconds(range(5, 1001, 10))
    assert list(again) == pytest.approx([end / 10 for end in range(5, 1001, 10)], abs=1.0)


def test_a_day_in_which_nothing_can_be_stored_costs_little():
    """What is kept has a bound, and dates every line within one percent all the same."""
    day_s = scaled(86_400)
    tracemalloc.start()
    witness = OffsetClock()
    for quarter in range(1, day_s * 4):
        witness.looked(quarter / 4, quarter * 10)
    timeline = witness.timeline(0)
    kept_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept_bytes < 1e6
    for at_s in (1_000, 5_000, day_s // 2, day_s - 1_000):
        (told,) = timeline.seconds([at_s * 40])
        assert told == pytest.approx(at_s, rel=0.01)
