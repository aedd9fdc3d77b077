"""`backprop watch` in a real terminal: what it shows, and that it leaves the terminal as it was, however it ends."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator

import psutil
import pyte
import pytest

from tests.conftest import BACKPROP, HANG_S, Runs, patched, recorded, wait_for

# what a program may switch on, and must switch off: the alternate screen, mouse reports, focus, bracketed paste
MODES = ("1049", "1000", "1003", "1015", "1006", "1004", "2004")
CRASHES = """
import sys
from backprop.views.watch import app
before = app.WatchApp._draw
def draw(self):
    before(self)
    if self._state.rows:
        raise RuntimeError("a bug of ours")
app.WatchApp._draw = draw
sys.argv = ["backprop", "watch"]
from backprop.__main__ import main
main()
"""


class Terminal:
    """A terminal with a program in it, as the leader of a session of its own."""

    def __init__(self, runs: Runs, command: list[str], columns: int = 80, lines: int = 24) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._changing = threading.Lock()  # held while the screen is behind what was written
        self.written = b""
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.settings_before = termios.tcgetattr(self._slave)
        slave = self._slave
        self.process = subprocess.Popen(
            command,
            cwd=runs.work,
            env={**runs.environment, "TERM": "xterm-256color"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0),  # noqa: PLW1509  one thread so far
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        data = b""
        while True:
            try:
                more = os.read(self._master, 1 << 16)
            except OSError:
                return
            with self._changing:
                self.written += more
                data = self._feed(data + more)

    def _feed(self, data: bytes) -> bytes:
        """Draw it; returns the begin of a sequence that has not ended."""
        whole, begun = re.fullmatch(rb"(.*?)((?:\x1b(?:\[[<=>?]?[0-9;]*)?)?)", data, re.DOTALL).groups()
        for part in re.split(rb"(\x1b\[\?1049[hl])", whole):
            if part.startswith(b"\x1b[?1049"):
                self.screen.reset()  # another screen, which is empty
            # pyte does not know the private sequences that begin with CSI < = >
            self._stream.feed(re.sub(rb"\x1b\[[<=>?][0-9;]*[a-zA-Z]", b"", part))
        return begun

    @property
    def text(self) -> str:
        with self._changing:
            return "\n".join(self.screen.display)

    def shows(self, *words: str) -> None:
        wait_for(lambda: all(word in self.text for word in words))

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def hang_up(self) -> None:
        """Close the window."""
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1

    def is_as_before(self) -> bool:
        """Whether every mode is off again, the cursor is there, and the line discipline is the one from before."""
        written = self.written
        is_off = all(written.rfind(f"\x1b[?{m}h".encode()) <= written.rfind(f"\x1b[?{m}l".encode()) for m in MODES)
        has_cursor = written.rfind(b"\x1b[?25l") < written.rfind(b"\x1b[?25h")
        return is_off and has_cursor and termios.tcgetattr(self._slave) == self.settings_before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self._slave != -1:
            os.close(self._slave)
            self._reader.join(10)
            os.close(self._master)


@pytest.fixture
def terminals(runs: Runs) -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def watching(runs: Runs, terminals: list[Terminal], *words: str, columns: int = 80, lines: int = 24) -> Terminal:
    """A terminal in which `backprop watch` shows the runs there are."""
    terminal = Terminal(runs, [BACKPROP, "watch", *words], columns, lines)
    terminals.append(terminal)
    return terminal


@recorded
def with_a_run(runs: Runs) -> None:
    runs.script("for step in range(9):\n    print(json.dumps({'step': step, 'loss': 1 / (step + 1)}))")
    assert runs.call("run", "train.py", "--run-id", "digits1").returncode == 0


# it gives up on a terminal that does not answer: a slow machine is none
PATIENT = f"from backprop.views.watch import app; app._EXIT_TIMEOUT_S = {HANG_S}"


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda terminal: terminal.press(b"q"), 0),
        (lambda terminal: terminal.press(b"\x03"), 0),
        (lambda terminal: terminal.process.send_signal(signal.SIGTERM), -signal.SIGTERM),
        (lambda terminal: terminal.process.send_signal(signal.SIGINT), -signal.SIGINT),
        (lambda terminal: terminal.process.send_signal(signal.SIGHUP), -signal.SIGHUP),
    ],
    ids=["q", "ctrl-c", "SIGTERM", "SIGINT", "SIGHUP"],
)
def test_the_terminal_is_left_as_it_was(with_a_run: Runs, terminals: list[Terminal], end, code: int):
    """The alternate screen, the mouse, the cursor and the line discipline."""
    terminal = Terminal(with_a_run, [*patched(PATIENT), "watch"])
    terminals.append(terminal)
    terminal.shows("digits1", "completed")
    assert not terminal.is_as_before()
    end(terminal)
    assert terminal.process.wait(HANG_S) == code
    wait_for(terminal.is_as_before)


def test_a_bug_leaves_the_terminal_as_it_was(with_a_run: Runs, terminals: list[Terminal]):
    """It crashes loudly, on a screen that can be read."""
    terminal = Terminal(with_a_run, [sys.executable, "-c", CRASHES])
    terminals.append(terminal)
    assert terminal.process.wait(HANG_S) == 1
    wait_for(terminal.is_as_before)
    wait_for(lambda: b"a bug of ours" in terminal.written[terminal.written.rfind(b"\x1b[?1049l") :])


def test_ctrl_z_gives_the_terminal_back_and_fg_takes_it_again(with_a_run: Runs, terminals: list[Terminal]):
    """A shell's job control works: the terminal is usable in between."""
    shell = Terminal(with_a_run, ["bash", "--norc", "--noprofile", "-i"])
    terminals.append(shell)
    shell.press(f"PS1='ready$ '; {BACKPROP} watch\n".encode())
    shell.shows("digits1", "completed")
    before = shell.written.count(b"\x1b[?1049h")
    shell.press(b"\x1a")
    wait_for(lambda: shell.written.rfind(b"\x1b[?1049h") < shell.written.rfind(b"\x1b[?1049l"))
    shell.press(b"\necho it is; jobs\n")
    wait_for(lambda: b"Stopped" in shell.written)
    (job,) = psutil.Process(shell.process.pid).children()
    assert job.status() == psutil.STATUS_STOPPED
    shell.press(b"fg\n")
    wait_for(lambda: shell.written.count(b"\x1b[?1049h") > before)
    shell.shows("digits1", "completed")
    shell.press(b"q")
    wait_for(lambda: not psutil.Process(shell.process.pid).children())


def test_a_group_opens_and_usage_is_charted(with_a_run: Runs, terminals: list[Terminal]):
    """In a terminal of a few columns, too: `enter` opens the group, `u` shows what its best run used."""
    for name in ("one", "two"):
        assert with_a_run.call("run", "train.py", "--run-id", name, "--group", "rates").returncode == 0
    with_a_run.set_usage("one", '{"since":0,"until":2,"count":2,"values":{"cpu":[100,150]}}\n')
    terminal = watching(with_a_run, terminals, columns=50)
    terminal.shows("▸ rates  2 completed")
    terminal.press(b"\r")
    terminal.shows("▾ rates", "  one", "  two")
    terminal.press(b"u")
    terminal.shows("CPU 150 % · mean 125 % · peak 150 %")


def test_a_closed_window_ends_it_and_no_run(runs: Runs, terminals: list[Terminal]):
    """Whoever only watched does not take a run along."""
    runs.script("while not os.path.exists('go'):\n    time.sleep(0.02)")
    running = runs.start("run", "train.py", "--run-id", "goes-on")
    terminal = watching(runs, terminals)
    terminal.shows("goes-on", "running")
    terminal.hang_up()
    terminal.process.wait(HANG_S)
    assert runs.document("goes-on")["status"] == "running"
    (runs.work / "go").touch()
    assert running.wait(HANG_S) == 0


def test_keys_stop_a_run_after_asking(runs: Runs, terminals: list[Terminal]):
    """`s` asks; `n` changes nothing; `y` stops it gracefully, and the record says who asked."""
    runs.script("try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('saved', flush=True)")
    running = runs.start("run", "train.py", "--run-id", "r")
    terminal = watching(runs, terminals)
    wait_for(lambda: re.search(r"^ r +\S running", terminal.text, re.MULTILINE))
    terminal.press(b"s")
    terminal.shows("Stop r, running?")
    terminal.press(b"n")
    wait_for(lambda: "Stop r" not in terminal.text)
    assert not [entry for entry in runs.journal("r") if entry["event"] == "stop_asked"]
    terminal.press(b"s")
    terminal.shows("Stop r, running?")
    terminal.press(b"y")
    assert running.wait(HANG_S) == 0
    terminal.shows("stopped")
    assert "`s in backprop watch` by " in runs.document("r")["reason"]


def test_without_a_terminal_there_is_nothing_to_watch(runs: Runs):
    """One line that says what to use instead."""
    done = runs.call("watch")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "backprop: watch needs a terminal; without one: backprop list, backprop status, backprop logs -f RUN."
    ]


def test_a_run_that_is_not_there_is_an_error_before_anything_is_drawn(with_a_run: Runs, terminals: list[Terminal]):
    terminal = watching(with_a_run, terminals, "nobody")
    assert terminal.process.wait(HANG_S) == 3
    terminal.shows("no run named 'nobody'")
    assert b"\x1b[?1049h" not in terminal.written
