"""The output of `run` and `resume` while a trainer runs: the trainer's own output, unchanged, and a progress line.

A thread copies the trainer's output from its files, so that the supervisor's loop never waits for a slow terminal or
pipe.
"""

import os
import select
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from backprop.store import metric_names
from backprop.store.output.progress import Progress
from backprop.text import printable, shortened
from backprop.views.terminal import formatting

_POLL_S = 0.05  # to a terminal
_POLL_PIPE_S = 0.1
_REDRAW_EVERY_S = 0.2  # also the limit during a flood of output
_REPORT_EVERY_S = 30.0  # a progress line in a log file
_COPY_BYTES = 1 << 16
_NAME_WIDTH = 24
_USUAL_WIDTH = 80  # of a terminal that does not tell

_CLEAR_LINE = b"\r\x1b[2K"  # which may hold an echoed ^C
# Below an unfinished line (a tqdm bar): make room for a line, save the cursor, go there, write, restore it.
_GO_BELOW = b"\x1bD\x1b[A\x1b7\x1bE" + _CLEAR_LINE
_COME_BACK = b"\x1b8"


class _Copy:
    """Copies one of the trainer's streams to one of ours."""

    def __init__(self, path: Path, fd: int) -> None:
        self._file = path.open("rb", buffering=0)
        self.fd = fd
        self._is_open = True
        self.close = self._file.close

    def read(self) -> bytes:
        return self._file.read(_COPY_BYTES) or b""

    def write(self, data: bytes) -> None:
        """Write all of it; when the reader is gone (`| head`), drop it, and training continues."""
        view = memoryview(data)
        while view and self._is_open:
            try:
                view = view[os.write(self.fd, view) :]
            except BlockingIOError:  # another process made the terminal non-blocking
                poll = select.poll()
                poll.register(self.fd, select.POLLOUT)
                poll.poll()
            except OSError:
                self._is_open = False


class Terminal:
    """Shows one session. `looked` and `said` never block: the thread writes."""

    def __init__(self, *, stdout_fd: int, stderr_fd: int) -> None:
        """stdout_fd: for the trainer's stdout; stderr_fd: for its stderr and our own messages."""
        self._stderr_fd = stderr_fd
        self._screen_fd = _screen(stdout_fd, stderr_fd)
        self._fds = (stdout_fd, stderr_fd)
        self._is_same_place = _are_same(stdout_fd, stderr_fd)
        self._copies: tuple[_Copy, ...] = ()
        self._thread: threading.Thread | None = None
        self._is_over = threading.Event()
        self._state: tuple[Progress, float] | None = None  # replaced as a whole: no lock needed
        self._messages: list[str] = []
        self._mid_line: set[int | None] = set()  # where the last line is unfinished: see `_place`
        self._is_drawn = False
        self._drawn_at = self._reported_at = time.monotonic()

    # -- called by the supervisor's loop

    def started(self, out_path: Path, err_path: Path) -> None:
        """Begin to copy the output of a session whose trainer was launched."""
        self._copies = tuple(_Copy(path, fd) for path, fd in zip((out_path, err_path), self._fds, strict=True))
        self._begin()

    def looked(self, progress: Progress, left_s: float) -> None:
        """Give what the next progress line shows. left_s: seconds until the timebox ends. A thread draws it."""
        self._state = (progress, left_s)
        if self._thread is None and self._copies:
            self._begin()

    def _begin(self) -> None:
        thread = threading.Thread(target=self._work, args=(self._copies,), daemon=True)
        with suppress(RuntimeError):  # `ulimit -u` is reached: the next call retries
            thread.start()
            self._thread = thread

    def message(self, text: str) -> None:
        """Have a message printed on a line of its own, between lines of output."""
        self._messages.append(printable(text))

    def close(self) -> None:
        """Copy what is left, erase the progress line and return. Blocks while the other end does not read."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()
        else:
            self._work(self._copies)
        self._say_messages()

    # -- the thread

    def _work(self, copies: Sequence[_Copy]) -> None:
        while True:
            was_over = self._is_over.is_set()
            moved = [self._copy(copy) for copy in copies]
            self._say_messages()
            is_flooded = _COPY_BYTES in moved
            if was_over and not any(moved):
                break
            self._show_progress(is_flooded=is_flooded)
            if not (was_over or is_flooded):
                self._is_over.wait(_POLL_PIPE_S if self._screen_fd is None else _POLL_S)
        for copy in copies:
            copy.close()
        self._erase()
        if self._place(self._stderr_fd) in self._mid_line:
            self._write(self._stderr_fd, b"\n")

    def _copy(self, copy: _Copy) -> int:
        """Copy what is there; returns the number of bytes."""
        data, place = copy.read(), self._place(copy.fd)
        if data:
            if place is None:
                self._erase()
            copy.write(data)
            (self._mid_line.discard if data.endswith(b"\n") else self._mid_line.add)(place)
        return len(data)

    def _place(self, fd: int) -> int | None:
        """The destination of a stream, the same for two streams that go to the same place; None: the terminal."""
        if self._screen_fd is not None and os.isatty(fd):
            return None
        return self._stderr_fd if self._is_same_place else fd

    def _say_messages(self) -> None:
        place = self._place(self._stderr_fd)
        while self._messages:
            if place is None:
                self._erase()
            if place in self._mid_line:
                self._write(self._stderr_fd, b"\n")
                self._mid_line.discard(place)
            self._write(self._stderr_fd, f"backprop: {self._messages.pop(0)}\n".encode(errors="replace"))

    def _show_progress(self, *, is_flooded: bool) -> None:
        if self._state is None:
            return
        now = time.monotonic()
        if self._screen_fd is not None:
            if not (self._is_drawn or is_flooded) or now - self._drawn_at >= _REDRAW_EVERY_S:
                self._drawn_at = now
                width = os.get_terminal_size(self._screen_fd).columns or _USUAL_WIDTH
                self._draw(self._screen_fd, progress_line(*self._state)[: width - 1])
        elif now - self._reported_at >= _REPORT_EVERY_S:
            self._reported_at = now
            self._messages.append(progress_line(*self._state))

    def _draw(self, fd: int, text: str) -> None:
        line = text.encode(errors="replace")
        self._write(fd, _GO_BELOW + line + _COME_BACK if None in self._mid_line else _CLEAR_LINE + line + b"\r")
        self._is_drawn = True

    def _erase(self) -> None:
        if self._screen_fd is not None and self._is_drawn:
            self._write(self._screen_fd, _GO_BELOW + _COME_BACK if None in self._mid_line else _CLEAR_LINE)
            self._is_drawn = False

    def _write(self, fd: int, data: bytes) -> None:
        with suppress(OSError):  # the reader of our messages is gone; still copy the trainer's output
            os.write(fd, data)


def _are_same(one_fd: int, other_fd: int) -> bool:
    """Whether both are the same file, pipe or terminal."""
    with suppress(OSError):  # one of them is closed
        return os.path.samestat(os.fstat(one_fd), os.fstat(other_fd))
    return False


def _screen(stdout_fd: int, stderr_fd: int) -> int | None:
    """The stream that the progress line is drawn on; None if there can be none.

    What goes through a pipe may end at the same terminal (`| tee log`), and would be written into the line.
    """
    if os.environ.get("TERM", "dumb") == "dumb":
        return None
    terminals = [fd for fd in (stderr_fd, stdout_fd) if os.isatty(fd)]
    others = [stat.S_IFMT(os.fstat(fd).st_mode) for fd in (stderr_fd, stdout_fd) if fd not in terminals]
    return terminals[0] if terminals and not {stat.S_IFIFO, stat.S_IFSOCK}.intersection(others) else None


def progress_line(progress: Progress, left_s: float) -> str:
    """Step, main metric, rate, ETA and time left, as far as they are known."""
    parts = []
    if progress.step is None:
        parts.append("running")
    else:
        unit = formatting.short_unit(progress.step_unit)
        parts.append(f"{unit} {formatting.steps(progress.step, progress.total_steps or None)}")

    if (name := metric_names.main_metric(progress.metrics)) is not None:
        shown = shortened(printable(name), _NAME_WIDTH)
        parts.append(f"{shown} {formatting.number(progress.metrics[name])}")
    live = progress.live
    parts += filter(None, (formatting.life(live), *formatting.pace(live, progress.step_unit)))
    parts.append(f"{formatting.duration(left_s)} left" if left_s > 0 else "stopping")
    return " · ".join(parts)
