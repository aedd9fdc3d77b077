"""What the user of `run` and `resume` sees while a trainer runs: its own output, untouched, and a live line.

A thread copies the trainer's output from its files. However slow the terminal or pipe at the other end is, the
supervisor's loop never waits for it.
"""

import os
import select
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

from backprop.progress import Progress
from backprop.views import human

_POLL_S = 0.05  # to a terminal, where somebody watches
_POLL_PIPE_S = 0.1
_REDRAW_EVERY_S = 0.2
_REDRAW_AFTER_OUTPUT_S = 0.05  # soon, or a busy progress bar would hide it; not at once, or a flood would draw it only
_PLAIN_EVERY_S = 30.0  # a progress line in a log file
_COPY_BYTES = 1 << 16

_CLEAR_LINE = b"\r\x1b[2K"  # the terminal may have echoed a ^C there
# Below an unfinished line (a tqdm bar): make room for a line, remember where we are, go there, write, come back.
_GO_BELOW = b"\x1bD\x1b[A\x1b7\x1bE" + _CLEAR_LINE
_COME_BACK = b"\x1b8"


class _Copy:
    """One of the trainer's streams on its way to one of ours."""

    def __init__(self, path: Path, fd: int) -> None:
        self._file = path.open("rb", buffering=0)
        self.fd = fd
        self._is_open = True

    def read(self) -> bytes:
        return self._file.read(_COPY_BYTES) or b""

    def write(self, data: bytes) -> None:
        """Write all of it; what nobody reads any more (`| head`) is dropped, and training goes on."""
        view = memoryview(data)
        while view and self._is_open:
            try:
                view = view[os.write(self.fd, view) :]
            except BlockingIOError:  # somebody made the terminal non-blocking
                poll = select.poll()
                poll.register(self.fd, select.POLLOUT)
                poll.poll()
            except OSError:
                self._is_open = False


class Terminal:
    """Shows one session. `looked` and `said` only leave word for the thread that writes."""

    def __init__(self, *, stdout_fd: int, stderr_fd: int) -> None:
        """stdout_fd: where the trainer's stdout goes; stderr_fd: where its stderr and our own words go."""
        self._stdout_fd = stdout_fd
        self._stderr_fd = stderr_fd
        self._is_live = os.isatty(stdout_fd) and os.isatty(stderr_fd) and os.environ.get("TERM", "dumb") != "dumb"
        self._thread: threading.Thread | None = None
        self._is_over = threading.Event()
        self._state: tuple[Progress, float] | None = None  # replaced whole: the reader needs no lock
        self._messages: list[str] = []
        self._is_mid_line = False  # the trainer's last line is unfinished
        self._is_drawn = False
        self._drawn_at = self._told_at = time.monotonic()

    # -- called by the supervisor's loop

    def started(self, out_path: Path, err_path: Path) -> None:
        """Begin to copy the output of a session whose trainer was launched."""
        copies = (_Copy(out_path, self._stdout_fd), _Copy(err_path, self._stderr_fd))
        self._thread = threading.Thread(target=self._work, args=(copies,), daemon=True)
        self._thread.start()

    def looked(self, progress: Progress, left_s: float) -> None:
        self._state = (progress, left_s)

    def said(self, text: str) -> None:
        self._messages.append(human.printable(text))

    def close(self) -> None:
        """Copy what is left, take the live line away and return. Blocks while the other end does not read."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()
        self._say_messages()

    # -- the thread

    def _work(self, copies: tuple[_Copy, _Copy]) -> None:
        while True:
            was_over = self._is_over.is_set()
            moved = [self._copy(copy) for copy in copies]
            self._say_messages()
            if not any(moved):
                if was_over:
                    break
                self._is_over.wait(_POLL_S if self._is_live else _POLL_PIPE_S)
            self._show_progress()
        self._erase()
        if self._is_mid_line:
            self._write(b"\n")

    def _copy(self, copy: _Copy) -> bool:
        data = copy.read()
        if data:
            self._erase()
            copy.write(data)
            if self._is_live or copy.fd == self._stderr_fd:
                self._is_mid_line = not data.endswith(b"\n")
        return bool(data)

    def _say_messages(self) -> None:
        while self._messages:
            self._erase()
            if self._is_mid_line:
                self._write(b"\n")
                self._is_mid_line = False
            self._write(f"backprop: {self._messages.pop(0)}\n".encode(errors="replace"))

    def _show_progress(self) -> None:
        if self._state is None:
            return
        now = time.monotonic()
        if self._is_live:
            if now - self._drawn_at >= (_REDRAW_EVERY_S if self._is_drawn else _REDRAW_AFTER_OUTPUT_S):
                self._drawn_at = now
                width = shutil.get_terminal_size().columns - 1
                self._draw(progress_line(*self._state)[:width])
        elif now - self._told_at >= _PLAIN_EVERY_S:
            self._told_at = now
            self._messages.append(progress_line(*self._state))

    def _draw(self, text: str) -> None:
        line = text.encode(errors="replace")
        if self._is_mid_line:
            self._write(_GO_BELOW + line + _COME_BACK)
        else:
            self._write(_CLEAR_LINE + line + b"\r")
        self._is_drawn = True

    def _erase(self) -> None:
        if self._is_drawn:
            self._write(_GO_BELOW + _COME_BACK if self._is_mid_line else _CLEAR_LINE)
            self._is_drawn = False

    def _write(self, data: bytes) -> None:
        with suppress(OSError):  # nobody reads what we say; the trainer's output is copied all the same
            os.write(self._stderr_fd, data)


def progress_line(progress: Progress, left_s: float) -> str:
    """Step, loss, rate, ETA and time left, as far as they are known."""
    parts = []
    if progress.step is None:
        parts.append("running")
    else:
        parts.append(f"step {progress.step}" + (f"/{progress.total_steps}" if progress.total_steps else ""))
    if (loss := progress.metrics.get("loss")) is not None:
        parts.append(f"loss {human.number(loss)}")
    if progress.steps_per_s:
        parts.append(f"{human.number(progress.steps_per_s)} steps/s")
    if progress.remaining_s is not None:
        parts.append(f"ETA {human.duration(progress.remaining_s)}")
    parts.append(f"{human.duration(left_s)} left" if left_s > 0 else "stopping")
    return " · ".join(parts)
