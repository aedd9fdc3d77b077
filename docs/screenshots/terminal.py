"""Pictures of what commands show in a terminal: run in a real one of some size, and drawn as SVG by rich."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from docs.screenshots.demonstration import BACKPROP, Demonstration

_LINES = 40
# name of the picture -> width of the terminal, and what is typed; of runs that demonstration.py makes
_SCREENS = {
    "list": (112, ("list", "--limit", "14")),
    "list-wide": (180, ("list", "--limit", "14")),
    "compare": (100, ("compare", "lr-0.005", "lr-0.05", "lr-0.1")),
    "plot": (100, ("plot", "lr-0.005", "lr-0.01", "lr-0.05", "lr-0.1", "--log")),
    "status": (110, ("status", "resumed")),
}


def take(demonstration: Demonstration, folder: Path) -> None:
    """list.svg, list-wide.svg, compare.svg, plot.svg and status.svg."""
    for name, (columns, words) in _SCREENS.items():
        command = [BACKPROP, *words]
        shown = shown_in_terminal(command, columns, _LINES, demonstration.environment, demonstration.folder)
        save(f"$ backprop {' '.join(words)}\n{shown}", columns, folder / f"{name}.svg", "backprop")


def shown_in_terminal(
    command: Sequence[str | Path], columns: int, lines: int, environment: Mapping[str, str], working_folder: Path
) -> str:
    """What a command that ends by itself writes to a terminal of this size, escape sequences and all."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    plain = {key: value for key, value in environment.items() if key not in {"COLUMNS", "LINES", "NO_COLOR"}}
    process = subprocess.Popen(
        command,
        cwd=working_folder,
        env={**plain, "TERM": "xterm-256color"},
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown = b""
    with suppress(OSError):  # the terminal's other end is closed: the command has ended
        while more := os.read(master, 65_536):
            shown += more
    os.close(master)
    process.wait()
    return shown.decode().replace("\r\n", "\n")


def save(shown: str, columns: int, path: Path, title: str) -> None:
    """Draw text with escape sequences as it looks in a terminal of that width."""
    from rich.console import Console
    from rich.text import Text

    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=columns, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(Text.from_ansi(shown), overflow="fold")
        # the same screen is the same file
        path.write_text(console.export_svg(title=title, unique_id=path.stem))
