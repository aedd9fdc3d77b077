"""What `sweep` shows while it runs: a table that is redrawn in a terminal; in a pipe a line for each event."""

import os
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from backprop.cli.context import say

if TYPE_CHECKING:
    from backprop.lifecycle.sweep.rule import Budget
    from backprop.lifecycle.sweep.standing import Standing

_REDRAW_EVERY_S = 1.0


class SweepDisplay:
    """Implements SweepObserver. All of it goes to stderr: stdout has the result."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._height = 0  # lines of the table that is drawn
        self._drawn_at = float("-inf")

    def event(self, text: str) -> None:
        """Show what has happened, on a line of its own."""
        self.close()
        say(text)
        self._drawn_at = float("-inf")

    def looked(self, standing: "Standing", budget: "Budget") -> None:
        """Draw the table anew in a terminal, once a second at most."""
        if not self._is_terminal or time.monotonic() - self._drawn_at < _REDRAW_EVERY_S:
            return
        from backprop.views.terminal import sweep_table
        from backprop.views.terminal.screen import stderr_screen

        self._drawn_at = time.monotonic()
        screen = stderr_screen()
        lines = sweep_table.summary(standing, budget, "running", screen).splitlines(keepends=True)
        shown = lines[: max(0, screen.height - 1)]  # what has scrolled away cannot be erased
        self.close()
        _write("".join(shown))
        self._height = len(shown)

    def close(self) -> None:
        """Erase the table."""
        if self._height:
            _write(f"\r\x1b[{self._height}A\x1b[J")  # Ctrl-C was echoed
            self._height = 0


def _write(text: str) -> None:
    with suppress(OSError):  # the terminal is gone: the sweep goes on
        print(text, end="", file=sys.stderr, flush=True)
