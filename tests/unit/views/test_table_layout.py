"""Tables fit into their screen, whatever is in their cells."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.views.terminal.screen import Screen, cells, cut
from backprop.views.terminal.table_layout import Cell, Column, grid

WIDE = Screen(width=80, is_terminal=True, has_colours=True)
EVIL = "a\x1b[31mb\n\x07\u202e" + "x" * 1_000_000
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.mark.parametrize(
    ("text", "width"), [("abc", 3), ("手書き", 6), ("ניסוי", 5), ("e\u0301", 1), ("é", 1), ("가", 2), ("", 0)]
)
def test_the_width_of_a_text(text: str, width: int):
    """East Asian characters take two columns, combining ones none."""
    assert cells(text) == width


@given(ANY_TEXT, st.integers(3, 40))
def test_a_cut_text_fits(text: str, width: int):
    """It is printable and not wider than allowed; one that fits is whole."""
    shown = cut(text, width)
    assert shown.isprintable()
    assert cells(shown) <= width
    assert text.isprintable() is False or cells(text) > width or shown == text


def test_what_matters_least_is_left_out_first():
    """By rank, not by place; the answer tells what is missing."""
    columns = [Column(title, [Cell("x" * 10)], rank=rank) for title, rank in (("A", 2), ("B", 0), ("C", 1))]
    text, left_out = grid(columns, Screen(width=23, is_terminal=True))
    assert text.splitlines()[0].split() == ["B", "C"]
    assert left_out == ["A"]
    assert grid(columns, Screen()).left_out == []


@given(st.lists(st.lists(ANY_TEXT, min_size=2, max_size=2), min_size=3, max_size=3), st.integers(12, 90))
def test_the_columns_stand_below_one_another(texts: list[list[str]], width: int):
    """Every line ends where its neighbours' end, however wide the characters are, and fits."""
    columns = [
        Column("ONE", [Cell(text) for text in texts[0]], 0, min_width=4),
        Column("TWO", [Cell(text) for text in texts[1]], 1, min_width=4),
        Column("|", [Cell("|"), Cell("|")], 0),
    ]
    lines = grid(columns, Screen(width=width, is_terminal=True)).text.splitlines()
    ends = {cells(line) for line in lines}
    assert len(ends) == 1
    assert ends.pop() <= width


def test_hostile_cells_are_text():
    """Escapes, newlines and direction marks are shown; only our own styles are obeyed."""
    text = grid([Column(EVIL, [Cell(EVIL, "31")], 0)], WIDE).text
    assert len(text.splitlines()) == 2
    assert re.sub(r"\x1b\[(31|1|0)m", "", text).replace("\n", "").isprintable()
    piped = grid([Column("NAME", [Cell(EVIL), Cell("b")], 0), Column("X", [Cell("1"), Cell("2")], 0)], Screen()).text
    assert piped.replace("\n", "").isprintable()
    assert "x" * 1_000_000 in piped
    assert max(len(line) for line in piped.splitlines() if "xxx" not in line) < 60  # the others do not suffer
