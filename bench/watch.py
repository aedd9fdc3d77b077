"""The rows of `backprop watch`: what it costs to look at many running runs."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from bench.rows import Row
from bench.usage import Party, Usage, usage
from bench.workbench import BACKPROP, Sizes, Workbench, wait_for, workbench

_MAX_SHARE = 0.03
_LINES_A_S = 10
_SETTLED_S = 15.0  # what it took to start is no longer in the mean that sets its pace
_SIZE = (120, 40)


def watch(sizes: Sizes) -> list[Row]:
    """What `watch` costs while many runs train, with their groups closed, and open beside charts of usage."""
    with workbench(sizes) as place:
        for number in range(sizes.watched_runs):  # half of them in one group, a third in another
            group = ["--group", "a"] if number % 2 else ["--group", "b"] if number % 3 else []
            options = ("--max-parallel", str(sizes.watched_runs), *group)
            place.run_detached(*options, "paced.py", "--", str(1 / _LINES_A_S), "600")
        with _Terminal.opened(place) as terminal:
            closed = terminal.usage(sizes)
            terminal.press("O", "▾")
            terminal.press("u", "CPU of the machine")
            opened = terminal.usage(sizes)
        with _Terminal.opened(place, columns=80, lines=24) as terminal:
            small = terminal.usage(sizes)
    what = f"`watch` with {sizes.watched_runs} runs that print {_LINES_A_S} lines/s each"
    how = f"CPU time of all its threads and highest RSS over {sizes.supervisor_s:g} s in a terminal of"
    return [
        _row(f"{what}, groups closed", closed, f"{how} {_SIZE[0]} x {_SIZE[1]}"),
        _row("… all groups open, and charts of usage", opened, "the same"),
        _row("… groups closed, in a small terminal", small, f"{how} 80 x 24"),
    ]


def _row(what: str, used: Usage, how: str) -> Row:
    target = f"≤ {_MAX_SHARE * 100:g} % of a core"
    return Row(what=what, measured=used.text(), target=target, is_reached=used.cpu_share <= _MAX_SHARE, how=how)


class _Terminal:
    """A terminal with `backprop watch` in it."""

    def __init__(self, process: psutil.Process, master: int) -> None:
        self._process = process
        self._master = master
        self._shown = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @classmethod
    @contextmanager
    def opened(cls, place: Workbench, columns: int = _SIZE[0], lines: int = _SIZE[1]) -> "Iterator[_Terminal]":
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        environment = {**place.environment, "TERM": "xterm-256color"}
        process = subprocess.Popen(
            [BACKPROP, "watch"], env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        try:
            terminal = cls(psutil.Process(process.pid), master)
            wait_for(lambda: "▸ a".encode() in terminal._shown or None)
            yield terminal
        finally:
            process.terminate()
            process.wait()
            os.close(slave)
            os.close(master)

    def _read(self) -> None:
        while True:
            try:
                self._shown += os.read(self._master, 1 << 16)
            except OSError:
                return

    def press(self, key: str, shows: str) -> None:
        """Press a key, and wait until the screen shows this."""
        self._shown = b""
        os.write(self._master, key.encode())
        wait_for(lambda: shows.encode() in self._shown or None)

    def usage(self, sizes: Sizes) -> Usage:
        """What it uses when it has been left alone for a while."""
        time.sleep(min(_SETTLED_S, sizes.supervisor_s))
        return usage({"watch": Party([self._process])}, sizes.supervisor_s)["watch"]
