"""Rows of cells as CSV, safe against formula injection in spreadsheets.

Names, parameters and metric names come from whoever wrote the script. A spreadsheet takes a text that begins like a
formula for one, and runs it: such a text gets an apostrophe in front, as OWASP's page on CSV injection advises.
Numbers stay numbers, signs included.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence

Cell = str | float | int | None  # None: an empty cell

# OWASP, "CSV Injection"; the last four are full-width forms, which spreadsheets with East Asian locales treat alike
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def csv_lines(rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
    """One line of CSV per row, with its newline; a cell with newlines is quoted.

    Floats are written in full (`repr`); NaN and infinities as nan, inf and -inf.
    """
    writer = csv.writer(_Echo())
    for row in rows:
        # not by lineterminator="\n": before Python 3.13 a lone carriage return stays unquoted then
        line: str = writer.writerow([defused(cell) if isinstance(cell, str) else cell for cell in row])
        yield line.removesuffix("\r\n") + "\n"


def defused(text: str) -> str:
    """The text, with an apostrophe in front if a spreadsheet would parse it as a formula."""
    return "'" + text if text.startswith(_FORMULA_STARTS) else text


class _Echo:
    """A file for csv.writer, whose `writerow` returns the result of `write`."""

    @staticmethod
    def write(line: str) -> str:
        return line
