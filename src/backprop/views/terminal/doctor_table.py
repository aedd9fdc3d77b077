"""The findings of `doctor` as a table."""

from collections.abc import Sequence

from backprop.records import Finding, Level
from backprop.text import printable
from backprop.views.terminal.screen import BRIGHT, DIM, GAP, GREEN, RED, YELLOW, stdout_screen, wrapped

_STYLES = {Level.OK: GREEN, Level.NOTE: YELLOW, Level.PROBLEM: BRIGHT + RED}
_LEVEL_WIDTH = max(len(level.value) for level in Level)
_MIN_TEXT_WIDTH = 30
_MOST_WIDTH = 120  # longer lines are hard to read


def findings_table(findings: Sequence[Finding]) -> str:
    """For each finding its level, check and text, and below it the advice."""
    screen = stdout_screen()
    name_width = max(len(finding.check) for finding in findings)
    indent = " " * (_LEVEL_WIDTH + name_width + 2 * len(GAP))
    width = min(screen.width, _MOST_WIDTH) if screen.is_terminal else screen.width
    room = max(_MIN_TEXT_WIDTH, width - len(indent))
    lines = []
    for finding in findings:
        mark = screen.styled(finding.level.value.ljust(_LEVEL_WIDTH), _STYLES[finding.level])
        first, *others = wrapped(printable(finding.text), room)
        lines += [GAP.join((mark, finding.check.ljust(name_width), first)), *(indent + other for other in others)]
        if finding.advice is not None:
            advice = wrapped(printable(f"-> {finding.advice}"), room)
            lines += [indent + screen.styled(line, DIM) for line in advice]
    return "\n".join([*lines, "", _summary(findings)]) + "\n"


def _summary(findings: Sequence[Finding]) -> str:
    problems = sum(finding.level is Level.PROBLEM for finding in findings)
    notes = sum(finding.level is Level.NOTE for finding in findings)
    found = "no problem" if not problems else "1 problem" if problems == 1 else f"{problems} problems"
    return found + ("" if not notes else ", 1 note" if notes == 1 else f", {notes} notes")
