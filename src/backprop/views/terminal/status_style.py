"""The symbol and colour of each status, the same in all views. The word is always shown as well."""

from backprop.records import Status
from backprop.views.terminal.screen import BLUE, BRIGHT, CYAN, GREEN, MAGENTA, RED, YELLOW

# one column wide each
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
