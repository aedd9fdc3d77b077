"""What `doctor` found, as a table for people."""

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence

from backprop.records import Finding, Level
from backprop.views import human

# SGR codes of ECMA-48: 32 green, 33 yellow, 1;31 bold red, 2 faint
_COLOURS = {Level.OK: "32", Level.NOTE: "33", Level.PROBLEM: "1;31"}
_FAINT = "2"
_LEVEL_WIDTH = max(len(level.value) for level in Level)
_MIN_TEXT_WIDTH = 30
_MOST_WIDTH = 120  # longer lines are hard to read


def findings_table(findings: Sequence[Finding]) -> str:
    """A line or more for each: how bad, what was looked at, what was found, and below what to do."""
    is_terminal = sys.stdout.isatty()
    columns = min(shutil.get_terminal_size().columns, _MOST_WIDTH) if is_terminal else 10_000
    has_colour = is_terminal and not os.environ.get("NO_COLOR")
    name_width = max(len(finding.check) for finding in findings)
    indent = _LEVEL_WIDTH + name_width + 4
    lines = []
    for finding in findings:
        level = finding.level.value.ljust(_LEVEL_WIDTH)
        mark = _coloured(level, _COLOURS[finding.level], has_colour=has_colour)
        head = f"{mark}  {finding.check.ljust(name_width)}  "
        first, *others = _wrapped(human.printable(finding.text), columns - indent)
        lines += [head + first, *(" " * indent + other for other in others)]
        if finding.advice is not None:
            advice = _wrapped(human.printable(f"-> {finding.advice}"), columns - indent)
            lines += [" " * indent + _coloured(line, _FAINT, has_colour=has_colour) for line in advice]
    return "\n".join([*lines, "", _summary(findings)]) + "\n"


def _summary(findings: Sequence[Finding]) -> str:
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    notes = sum(finding.level is Level.NOTE for finding in findings)
    told = "no problem" if not problems else "1 problem" if problems == 1 else f"{problems} problems"
    return told + ("" if not notes else ", 1 note" if notes == 1 else f", {notes} notes")


def _wrapped(text: str, width: int) -> list[str]:
    """A path that is too long stays whole, so that it can be copied."""
    return textwrap.wrap(text, max(_MIN_TEXT_WIDTH, width), break_long_words=False, break_on_hyphens=False) or [""]


def _coloured(text: str, code: str, *, has_colour: bool) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if has_colour else text
