"""How much memory is held back for a run: never more than it asks for, and never less than it and its like have used."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.governor.reservations import (
    MARGIN,
    SPARE_BYTES,
    STEADY_S,
    PastUse,
    held_back_bytes,
    learned_bytes,
    reserved_bytes,
)

GB = 10**9
SIZES = st.integers(0, 100 * GB)


def use(peak_gb: float, **changes: Any) -> PastUse:
    known = {"measured_s": 600.0, "has_ended_well": True, "is_alike": True}
    return PastUse(**{"peak_bytes": peak_gb * GB, **known, **changes})


def margin(peak_gb: float) -> int:
    return int(peak_gb * GB * MARGIN) + SPARE_BYTES


@pytest.mark.parametrize(
    ("past", "expected"),
    [
        ([], None),
        ([use(1)], margin(1)),  # the same training: once is enough
        ([use(1), use(3), use(2)], margin(3)),
        ([use(1, is_alike=False)] * 20, None),  # other arguments, such as a larger batch, may need more
        ([use(0)], None),  # it did not find the GPU
        ([use(1, measured_s=20)], None),  # it may have ended before it used much
        ([use(1, has_ended_well=False)], None),
        ([use(1), use(6, has_ended_well=False)], margin(6)),  # what failed may have failed for that
        ([use(1), use(6, measured_s=20, is_alike=False)], margin(6)),
        ([use(1, measured_s=20), use(1, is_alike=False)], None),  # neither tells, and both do not either
    ],
)
def test_what_is_learned_of_earlier_runs(past: list[PastUse], expected: int | None):
    assert learned_bytes(past) == expected


@pytest.mark.parametrize(
    ("asked", "default", "learned", "expected"),
    [
        (2, 2, None, 2),
        (2, 2, 1, 1),
        (2, 2, 3, 2),  # never more than was asked
        (20, 2, 1, 20),  # the user knows better
        (1, 0, 0, 1),
    ],
)
def test_only_a_guess_of_ours_is_lowered_by_what_was_learned(
    asked: int, default: int, learned: int | None, expected: int
):
    assert reserved_bytes(asked, default, learned) == expected


@given(SIZES, SIZES, st.none() | st.floats(0, 1e6))
def test_a_reservation_never_grows_and_is_never_below_what_was_seen(reserved: int, seen: int, steady_s: float | None):
    """What is held back, and what the run holds, are together at most what was asked, and at least what it may need."""
    held = held_back_bytes(reserved, seen, steady_s)
    assert 0 <= held <= max(0, reserved - seen)
    if held < max(0, reserved - seen):  # it shrank
        assert steady_s is not None
        assert steady_s >= STEADY_S
        assert seen > 0
        assert held >= min(reserved, seen * MARGIN) - seen - 1


@pytest.mark.parametrize(
    ("seen", "steady_s", "expected"),
    [
        (0, 1000.0, 2 * GB),  # it has not touched the GPU yet
        (GB // 10, None, 2 * GB - GB // 10),
        (GB // 10, STEADY_S - 1, 2 * GB - GB // 10),
        (GB // 10, STEADY_S, margin(0.1) - GB // 10),
        (3 * GB, 0.0, 0),
    ],
)
def test_what_a_run_does_not_use_is_given_to_others(seen: int, steady_s: float | None, expected: int):
    """Once it has been steady for a while."""
    assert held_back_bytes(2 * GB, seen, steady_s) == expected
