"""Cells of text are shown by a spreadsheet, never run by it; numbers stay numbers."""

import csv
import io
import math

import pytest

from backprop.views.documents.csv_text import csv_lines


def read_back(rows: list) -> list[list[str]]:
    """What the csv module makes of the text."""
    return list(csv.reader(io.StringIO("".join(csv_lines(rows)), newline="")))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_a_text_that_looks_like_a_formula_is_defused(start: str):
    """No cell of text begins with what a spreadsheet takes for a formula."""
    assert read_back([[start + "cmd|' /C calc'!A0", 1]]) == [[f"'{start}cmd|' /C calc'!A0", "1"]]


def test_numbers_stay_numbers():
    """A sign in front of a number is no formula, and no digit is lost."""
    values = [-1, -0.1, 1e-300, 1 / 3, math.inf, -math.inf]
    (cells,) = read_back([values])
    assert [float(cell) for cell in cells] == values
    (cells,) = read_back([[math.nan, None]])
    assert cells == ["nan", ""]


@pytest.mark.parametrize(
    "text", ["a,b", 'say "hi"', "two\nlines", "a\rb", "a\r\nb", "<b>", "\x1b[31m", "\u202eabc", "  "]
)
def test_any_other_text_comes_back_as_it_was(text: str):
    """Separators, quotes and line ends are quoted; nothing else is changed."""
    assert read_back([["before", text, "after"], ["next"]]) == [["before", text, "after"], ["next"]]


def test_a_line_ends_like_every_line_of_a_pipe():
    """One newline, as `cut` and `awk` want it."""
    assert list(csv_lines([["a", 1], ["b", 2.5]])) == ["a,1\n", "b,2.5\n"]
