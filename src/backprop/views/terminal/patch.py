"""A patch for people: coloured on a terminal, with escape sequences made visible; unchanged in a pipe."""

from backprop.text import printable
from backprop.views.terminal.screen import BOLD, CYAN, GREEN, RED, Screen

# the first that fits
_STYLES = ((("diff ", "--- ", "+++ "), BOLD), (("@@",), CYAN), (("+",), GREEN), (("-",), RED))


def shown(patch: bytes, screen: Screen) -> str:
    """The lines of a patch, for a terminal."""
    lines = patch.decode(errors="backslashreplace").split("\n")
    return "\n".join(screen.styled(printable(line.expandtabs()), _style(line)) for line in lines)


def _style(line: str) -> str:
    return next((style for starts, style in _STYLES if line.startswith(starts)), "")
