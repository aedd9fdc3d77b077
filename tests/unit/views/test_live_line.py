"""What a user sees of a session: the trainer's output, and a live line below it where there is a terminal."""

import fcntl
import os
import re
import struct
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest

from backprop.store.output.progress import Progress
from backprop.views.terminal.live_line import Terminal, progress_line
from tests.conftest import wait_for

PROGRESS = Progress(step=1200, total_steps=44_000, metrics={"lr": 0.1, "train/loss": 0.25}, steps_per_s=10.0)
LINE = "step 1,200/44,000 · train/loss 0.25 · 10 steps/s · ETA 1:11:20 · 9:54 left"
DRAWN = re.compile(rb"step 1,200/44,000 [^\r\n]* left")


class Screen(NamedTuple):
    """A terminal of a user, and where a trainer writes."""

    ours: int
    theirs: int
    out_path: Path
    err_path: Path

    def read(self) -> bytes:
        """What was shown since the last look."""
        try:
            return os.read(self.ours, 1 << 20)
        except BlockingIOError:
            return b""


@pytest.fixture
def screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    monkeypatch.setenv("TERM", "xterm")
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    os.set_blocking(ours, False)
    made = Screen(ours, theirs, tmp_path / "session-1.out", tmp_path / "session-1.err")
    made.out_path.touch()
    made.err_path.touch()
    yield made
    os.close(ours)
    os.close(theirs)


def shown_while(screen: Screen, terminal: Terminal, lines: int) -> bytes:
    """All that is shown while the trainer writes a line as soon as the one before has been copied."""
    terminal.started(screen.out_path, screen.err_path)
    terminal.looked(PROGRESS, 594.0)
    shown = b""
    with screen.out_path.open("ab", buffering=0) as out:
        for number in range(lines):
            out.write(line := b"line %d\n" % number)

            def look(line: bytes = line[:-1]) -> bool:
                nonlocal shown
                shown += screen.read()
                return line in shown

            wait_for(look)
    terminal.close()
    return shown + screen.read()


def test_the_line_stands_below_output_that_never_rests(screen: Screen):
    """However often the trainer writes, the line is there again at once: it is what the user sees most of the time."""
    shown = shown_while(screen, Terminal(stdout_fd=screen.theirs, stderr_fd=screen.theirs), lines=40)
    assert len(DRAWN.findall(shown)) >= 39
    assert [int(number) for number in re.findall(rb"line (\d+)", shown)] == list(range(40))
    assert shown.endswith(b"\r\x1b[2K")


def test_a_flood_of_output_is_not_held_up(screen: Screen, tmp_path: Path):
    """Of megabytes that are copied at once the line is drawn now and then only."""
    screen.out_path.write_bytes(b"x" * 99 + b"\n")
    flood = tmp_path / "flood"
    with flood.open("wb") as file:
        file.write(b"y" * (4 << 20))
    with flood.open("wb") as target:  # a file shows the same loop without a terminal's speed
        screen.err_path.write_bytes(b"y\n" * (2 << 20))
        terminal = Terminal(stdout_fd=screen.theirs, stderr_fd=target.fileno())
        terminal.looked(PROGRESS, 594.0)
        terminal.started(screen.out_path, screen.err_path)
        terminal.close()
    assert flood.stat().st_size == 4 << 20
    assert len(DRAWN.findall(screen.read())) < 20


@pytest.mark.parametrize("redirected", ["stdout", "stderr"])
def test_the_line_is_drawn_where_one_stream_goes_to_a_file(screen: Screen, tmp_path: Path, redirected: str):
    """`> log` and `2> log`: the other one is the terminal, and the file gets no line of it."""
    with (tmp_path / "log").open("wb") as log:
        fds = {"stdout_fd": screen.theirs, "stderr_fd": screen.theirs, f"{redirected}_fd": log.fileno()}
        terminal = Terminal(**fds)
        terminal.looked(PROGRESS, 594.0)
        terminal.started(screen.out_path, screen.err_path)
        shown = b""

        def so_far() -> bytes:  # a terminal passes on what was written a moment later
            nonlocal shown
            shown += screen.read()
            return shown

        wait_for(lambda: DRAWN.search(so_far()))
        screen.out_path.write_bytes(b"out\n")
        screen.err_path.write_bytes(b"err")
        terminal.message("well")
        terminal.close()
    if redirected == "stdout":
        assert (tmp_path / "log").read_bytes() == b"out\n"
        wait_for(lambda: b"err" in so_far())
    else:
        assert (tmp_path / "log").read_bytes() in {b"err\nbackprop: well\n", b"backprop: well\nerr\n"}
        wait_for(lambda: b"out" in so_far() and shown.endswith(b"\r\x1b[2K"))


def test_a_pipe_gets_no_line(screen: Screen):
    """What goes through it may come out at the same terminal, in the middle of the line."""
    reader, writer = os.pipe()
    terminal = Terminal(stdout_fd=writer, stderr_fd=screen.theirs)
    terminal.looked(PROGRESS, 594.0)
    terminal.started(screen.out_path, screen.err_path)
    screen.out_path.write_bytes(b"out\n")
    terminal.close()
    os.close(writer)
    assert os.read(reader, 100) == b"out\n"
    os.close(reader)
    assert screen.read() == b""


def test_the_line_shows_the_loss_by_any_of_its_names():
    """The one that `list` shows; a name from elsewhere cannot command the terminal."""
    assert progress_line(PROGRESS, 594.0) == LINE
    assert progress_line(Progress(step=3, metrics={"acc": 0.5}), 0.0) == "step 3 · stopping"
    assert progress_line(Progress(metrics={"my\x1bloss": 1.0}), 5.0) == "running · my\\x1bloss 1 · 5.0 s left"


@pytest.mark.parametrize("refusals", [1, 10**6])
def test_where_no_thread_can_be_started_training_goes_on(
    screen: Screen, refusals: int, monkeypatch: pytest.MonkeyPatch
):
    """What the trainer writes is shown as soon as there is one, or at the end."""
    left, start = iter(range(refusals)), threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if next(left, None) is not None:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    terminal = Terminal(stdout_fd=screen.theirs, stderr_fd=screen.theirs)
    terminal.started(screen.out_path, screen.err_path)
    screen.out_path.write_bytes(b"first\n")
    terminal.looked(PROGRESS, 594.0)
    seen = b""
    if refusals == 1:
        while b"first" not in seen:
            seen += screen.read()
    with screen.out_path.open("ab") as file:
        file.write(b"last\n")
    terminal.close()
    while b"last" not in seen:  # the kernel hands over what was written a bit later
        seen += screen.read()
    assert b"first" in seen


@pytest.mark.parametrize("are_one", [True, False])
def test_our_words_begin_on_a_line_of_their_own_in_a_pipe_too(tmp_path: Path, are_one: bool):
    """After a last line without an end, where both streams go to one place (`2>&1 | cat`); else nothing is added."""
    (tmp_path / "out").write_bytes(b"half")
    (tmp_path / "err").touch()
    with (tmp_path / "log").open("ab") as log, (tmp_path / "other").open("ab") as other:
        second = os.dup(log.fileno()) if are_one else os.dup(other.fileno())
        terminal = Terminal(stdout_fd=log.fileno(), stderr_fd=second)
        terminal.started(tmp_path / "out", tmp_path / "err")
        terminal.close()
        os.close(second)
    assert (tmp_path / "log").read_bytes() == (b"half\n" if are_one else b"half")
    assert (tmp_path / "other").read_bytes() == b""


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "step 1,200/44,000 · train/loss 0.25 · 10 steps/s · ETA 1:11:20 · 9:54 left"),
        ({"step_unit": "epoch"}, "epoch 1,200/44,000 · train/loss 0.25 · 10 epochs/s · ETA 1:11:20 · 9:54 left"),
        (
            {"total_steps": None, "estimated_s": 250.0},
            "step 1,200 · train/loss 0.25 · 10 steps/s · ETA ~4:10 · 9:54 left",
        ),
        (
            {"silent_s": 190.0, "stalled_s": 1.0},
            "step 1,200/44,000 · train/loss 0.25 · alive, but silent for 3:10 · 9:54 left",
        ),
        (
            {"silent_s": 190.0, "stalled_s": 190.0},
            "step 1,200/44,000 · train/loss 0.25 · no sign of life for 3:10 · 9:54 left",
        ),
    ],
)
def test_the_line_says_what_is_counted_and_whether_there_is_life(changes: dict, line: str):
    """An estimate is marked; rate and ETA are of the past while it is silent."""
    assert progress_line(msgspec.structs.replace(PROGRESS, **changes), 594.0) == line
