"""How large a difference must be to count."""

import pytest

from backprop.cli.commands.verdict import _margin
from backprop.errors import UsageError


@pytest.mark.parametrize(("text", "margin"), [("0", (0.0, False)), ("0.5", (0.5, False)), ("1%", (0.01, True))])
def test_a_number_or_a_share(text: str, margin: tuple[float, bool]):
    assert _margin(text) == margin


@pytest.mark.parametrize("text", ["-1", "x", "", "%", "nan", "inf", "inf%", "1%%"])
def test_what_is_neither(text: str):
    """NaN would make every comparison a tie."""
    with pytest.raises(UsageError, match="--margin"):
        _margin(text)
