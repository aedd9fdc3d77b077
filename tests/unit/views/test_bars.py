"""How full something is, drawn as a bar."""

import math

import pytest

from backprop.views.terminal.bars import LINES, bar


@pytest.mark.parametrize(
    ("share", "drawn"),
    [(None, "────"), (-1, "────"), (0.5, "━━──"), (0.99, "━━━━"), (7, "━━━━"), (math.inf, "━━━━"), (math.nan, "────")],
)
def test_a_bar_is_as_wide_as_it_should_be(share: float | None, drawn: str):
    """Whatever the share is, known or not."""
    assert "".join(bar(share, 4, LINES)) == drawn
