"""`--json` as a terminal sees it."""

import json

import pytest

from backprop.views import document

OBEYED = [chr(code) for code in (0x7F, 0x85, 0x9B, 0x61C, 0x200E, 0x200F, 0x2028, 0x2029, 0x202E, 0x2066, 0x2069)]


@pytest.mark.parametrize("character", OBEYED, ids=ascii)
def test_json_holds_nothing_that_a_terminal_obeys(character: str):
    """Escaped in keys and values, and the same to whoever reads it as JSON."""
    told = {f"a{character}": [f"{character}é\u4e2d\U0001f600", "\\u009b"]}
    text = document.encode(told)
    assert character not in text
    assert "é\u4e2d\U0001f600" in text
    assert json.loads(text) == told
