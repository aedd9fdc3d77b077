"""What the records say of themselves."""

import pytest

from backprop.records import in_minutes


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (600, "10 min"),
        (30, "0.5 min"),
        (750, "12.5 min"),
        (31_536_000, "525600 min"),
        (599.7486, "10 min"),
        (588.2, "9.8 min"),
        (13.639, "0.227 min"),
        (0.006, "0.0001 min"),
    ],
)
def test_a_limit_in_minutes(seconds: float, text: str):
    """As it was given; what is left of one is rounded, but never to nothing."""
    assert in_minutes(seconds) == text
