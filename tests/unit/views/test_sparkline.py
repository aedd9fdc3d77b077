"""A curve in the height of a letter."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.views.terminal.sparkline import sparkline


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], ""),
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([1, 1], "▄▄"),
        ([1, math.nan, 2], "▁ █"),
        ([math.inf, -math.inf], "  "),
        ([1, 10, 100, 1000], "▁▃▆█"),  # by their logarithms
        ([-1e308, 1e308], "▁█"),
    ],
)
def test_a_sparkline(values: list[float], text: str):
    """The least at the bottom; what is not finite is a gap."""
    assert sparkline(values) == text


def test_without_block_characters_it_is_ascii():
    """Four heights are better than none."""
    assert sparkline([0, 1, 2, 3], has_blocks=False) == "_.-'"


@given(st.lists(st.floats()))
def test_any_values_give_one_character_each(values: list[float]):
    """NaN, infinities, subnormal and huge numbers."""
    assert len(sparkline(values)) == len(values)
