"""Rows of cells as CSV that a spreadsheet shows and does not obey.

Names, parameters and metric names come from whoever wrote the script. A spreadsheet takes a text that begins like a
formula for one, and runs it: such a text gets an apostrophe in front, as OWASP's page on CSV injection advises.
Numbers stay numbers, signs included.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence

Cell = str | float | int | None  # None: an empty cell

# OWASP, "CSV Injection"; the last four are full-width, which spreadsheets of East Asian locales take for the first four
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def csv_lines(rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
    """One line of CSV for each row, with its newline; a cell that holds newlines is quoted.

    Floats are written in full (`repr`); NaN and infinities as nan, inf and -inf.
    """
    writer = csv.writer(_Echo())
    for row in rows:
        # not by lineterminator="\n": before Python 3.13 a lone carriage return would then stay unquoted
        line: str = writer.writerow([defused(cell) if isinstance(cell, str) else cell for cell in row])
        yield line.removesuffix("\r\n") + "\n"


def defused(text: str) -> str:
    """The text; with an apostrophe in front when a spreadsheet would take it for a formula."""
    return "'" + text if text.startswith(_FORMULA_STARTS) else text


class _Echo:
    """What csv.writer writes to: `writerow` gives back what `write` gives."""

    @staticmethod
    def write(line: str) -> str:
        return line
