"""How a status looks: a symbol and a colour, the same in every view. The word is always there, too."""

from backprop.records import Status
from backprop.views.terminal.screen import BLUE, BRIGHT, CYAN, GREEN, MAGENTA, RED, YELLOW

# one column each in any terminal that knows them
SYMBOLS = {
    Status.QUEUED: "⋯",
    Status.RUNNING: "▸",
    Status.PAUSED: "‖",
    Status.REFUSED: "⊘",
    Status.COMPLETED: "✓",
    Status.TIMEBOXED: "◷",
    Status.STOPPED: "▪",
    Status.FAILED: "✗",
    Status.INTERRUPTED: "↯",
    Status.UNREADABLE: "?",
}
STYLES = {
    Status.QUEUED: CYAN,
    Status.RUNNING: BRIGHT + CYAN,
    Status.PAUSED: YELLOW,
    Status.REFUSED: YELLOW,
    Status.COMPLETED: GREEN,
    Status.TIMEBOXED: BLUE,
    Status.STOPPED: BLUE,
    Status.FAILED: RED,
    Status.INTERRUPTED: MAGENTA,
    Status.UNREADABLE: MAGENTA,
}
