"""A table fitted into a screen: the least important columns are dropped, and long texts are truncated.

In a pipe all columns are there and nothing is truncated.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from backprop.text import printable
from backprop.views.terminal.screen import BOLD, GAP, Screen, cells, cut, filled

_PIPE_COLUMN = 40  # in a pipe a longer text shifts only its own line
_MIN_WIDTH = 4


class Cell(NamedTuple):
    """One field of a table."""

    text: str  # any text: it is made printable here
    style: str = ""  # SGR codes


class Column(NamedTuple):
    """One column with its cells, from top to bottom."""

    title: str
    cells: Sequence[Cell]
    rank: int  # columns of a higher rank are dropped first; 0: never
    justify: Literal["left", "right"] = "left"
    min_width: int | None = None  # it may be truncated to this width; None: shown whole or not at all


class Grid(NamedTuple):
    """The text, and the titles of the columns that did not fit."""

    text: str
    left_out: list[str]


def grid(columns: Sequence[Column], screen: Screen) -> Grid:
    """The columns in their order, with a heading and one line per row."""
    shown, widths = _fitted(columns, screen) if screen.is_terminal else _whole(columns)
    lines = []
    for number in range(-1, len(columns[0].cells)):
        parts = []
        for column, width in zip(shown, widths, strict=True):
            cell = column.cells[number] if number >= 0 else Cell(column.title, BOLD)
            text = cut(cell.text, width, screen.ellipsis) if screen.is_terminal else printable(cell.text)
            padded = filled(text, width, column.justify)
            # style only the text, not the padding
            parts.append(padded.replace(text, screen.styled(text, cell.style), 1) if cell.style and text else padded)
        lines.append(GAP.join(parts).rstrip() + "\n")
    kept = {id(column) for column in shown}
    return Grid("".join(lines), [column.title for column in columns if id(column) not in kept])


def _whole(columns: Sequence[Column]) -> tuple[list[Column], list[int]]:
    return list(columns), [min(_PIPE_COLUMN, _natural(column, _PIPE_COLUMN)) for column in columns]


def _natural(column: Column, max_width: int) -> int:
    """The full width of a column, at most `max_width`."""
    texts = [column.title, *(cell.text for cell in column.cells)]
    return max(cells(cut(text, max_width)) for text in texts)


def _fitted(columns: Sequence[Column], screen: Screen) -> tuple[list[Column], list[int]]:
    """The columns that fit, and their widths: each gets its minimum, then they grow by rank."""
    natural = {id(column): max(1, _natural(column, screen.width)) for column in columns}
    width: dict[int, int] = {}
    room = screen.width + len(GAP)
    by_rank = sorted(columns, key=lambda column: column.rank)
    for column in by_rank:
        least = natural[id(column)]
        if column.min_width is not None:
            least = min(least, max(column.min_width, cells(column.title)))
        if column.rank == 0:
            least = max(min(least, room - len(GAP)), _MIN_WIDTH)
        if column.rank == 0 or least + len(GAP) <= room:
            width[id(column)] = least
            room -= least + len(GAP)
    for column in by_rank:
        if id(column) in width and room > 0:
            more = min(room, natural[id(column)] - width[id(column)])
            width[id(column)] += more
            room -= more
    shown = [column for column in columns if id(column) in width]
    return shown, [width[id(column)] for column in shown]
