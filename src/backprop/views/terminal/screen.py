"""What stdout can show (width, colours, block characters), and text that fits into it.

A pipe gets plain text, and nothing is truncated.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO
from unicodedata import category, east_asian_width

from backprop.records import Record
from backprop.text import printable

_PIPE_WIDTH = 10_000  # no terminal is as wide
_USUAL_WIDTH = 80
_PIPE_HEIGHT = _USUAL_HEIGHT = 24
_DRAWN = "█░▁━✓…⣿"  # samples of the characters we draw with
_MIN_TEXT_WIDTH = 30  # in a terminal that is narrower, it wraps by itself
GAP = "  "

# SGR codes of ECMA-48
BOLD, DIM, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN = "1", "2", "31", "32", "33", "34", "35", "36"
BRIGHT = f"{BOLD};"  # in front of a colour


class Screen(Record, frozen=True):
    """Where a text is shown."""

    width: int = _PIPE_WIDTH  # columns
    height: int = _PIPE_HEIGHT  # lines
    is_terminal: bool = False
    has_colours: bool = False
    has_blocks: bool = True  # its encoding has block characters

    def styled(self, text: str, style: str) -> str:
        """The text in a style (SGR codes, or "")."""
        return f"\x1b[{style}m{text}\x1b[0m" if style and self.has_colours and text else text

    @property
    def ellipsis(self) -> str:
        """What stands for text that was cut."""
        return "…" if self.has_blocks else "..."


def stdout_screen() -> Screen:
    """The screen of our stdout."""
    return _screen(sys.stdout)


def stderr_screen() -> Screen:
    """The screen of our stderr, for what is drawn while a command goes on: its stdout may be a pipe."""
    size = os.get_terminal_size(sys.stderr.fileno()) if sys.stderr.isatty() else (0, 0)
    return _screen(sys.stderr, size)


def _screen(stream: TextIO, size_without_stdout: tuple[int, int] = (0, 0)) -> Screen:
    has_blocks = _can_encode(_DRAWN, stream.encoding)
    if not stream.isatty():
        return Screen(has_blocks=has_blocks)
    columns, lines = size_without_stdout
    size = shutil.get_terminal_size((columns or _USUAL_WIDTH, lines or _USUAL_HEIGHT))
    has_colours = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Screen(
        width=size.columns, height=size.lines, is_terminal=True, has_colours=has_colours, has_blocks=has_blocks
    )


def _can_encode(text: str, encoding: str | None) -> bool:
    try:
        text.encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def cells(text: str) -> int:
    """The width of a printable text in terminal columns: East Asian characters are two wide, combining ones zero."""
    return len(text) if text.isascii() else sum(map(_character_cells, text))


def _character_cells(character: str) -> int:
    if character.isascii():
        return 1
    if east_asian_width(character) in "WF":
        return 2
    return 0 if category(character) in {"Mn", "Me"} else 1


def cut(text: str, width: int, ellipsis: str = "…") -> str:
    """The text made printable, on one line of at most `width` columns; fast for any length."""
    if len(text) <= width and text.isascii() and text.isprintable():
        return text
    beginning = text[: 4 * width + 16]  # a few more than fit, for combining characters
    shown = printable(beginning)
    if len(beginning) == len(text) and cells(shown) <= width:
        return shown
    room, kept = width - len(ellipsis), []
    for character in shown:
        room -= _character_cells(character)
        if room < 0:
            break
        kept.append(character)
    return "".join(kept) + ellipsis[: max(0, width)]


def filled(text: str, width: int, justify: str = "left") -> str:
    """A printable text, padded to a width."""
    filler = " " * (width - cells(text))
    return filler + text if justify == "right" else text + filler


def aligned(rows: Sequence[tuple[str, str]], screen: Screen | None = None) -> str:
    """Lines of a label and a text, with the texts aligned; in a terminal long ones are wrapped."""
    screen = screen or stdout_screen()
    width = max(len(label) for label, _ in rows)
    room = max(_MIN_TEXT_WIDTH, screen.width - width - len(GAP))
    lines = []
    for label, text in rows:
        shown = printable(text)
        first, *others = wrapped(shown, room) if screen.is_terminal else [shown]
        lines += [f"{label:<{width}}{GAP}{first}\n", *(f"{'':<{width}}{GAP}{other}\n" for other in others)]
    return "".join(lines)


def wrapped(text: str, width: int) -> list[str]:
    """The wrapped lines, at least one. A path or word that is too long is not broken, so that it can be copied."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
