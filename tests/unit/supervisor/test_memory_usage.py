"""What a process tree holds, with real processes."""

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from backprop.supervisor.process import memory_usage
from backprop.supervisor.process.memory_usage import memory_bytes
from tests.conftest import HANG_S

MB = 1_000_000
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the exact sum is of /proc/PID/smaps_rollup")

# Children that keep what they inherited: reading it (and counting references to one object) copies next to nothing.
SHARING = """
import os, signal, sys
held = bytearray(200_000_000)
for at in range(0, len(held), 4096):
    held[at] = 1
children = []
for _ in range(4):
    pid = os.fork()
    if pid == 0:
        sum(held[at] for at in range(0, len(held), 4096))
        os.write(1, b"x")
        signal.pause()
    children.append(pid)
os.write(1, b"x")
sys.stdin.read()
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


@pytest.fixture
def tree() -> Iterator[list[psutil.Process]]:
    """A parent that holds 200 MB and its four children that share it."""
    parent = subprocess.Popen([sys.executable, "-c", SHARING], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdin is not None
    try:
        ready = b""
        while len(ready) < 5:
            ready += os.read(parent.stdout.fileno(), 5)
        yield [psutil.Process(parent.pid), *psutil.Process(parent.pid).children()]
    finally:
        parent.stdin.close()  # the parent ends its children
        parent.wait(HANG_S)
        parent.stdout.close()


@needs_linux
def test_what_workers_share_counts_once(tree: list[psutil.Process]):
    """One gigabyte by resident memory, 200 MB in truth; the truth is asked for when the sum is over a limit."""
    assert len(tree) == 5
    quick = memory_bytes(tree)
    assert quick is not None
    assert 1000 * MB < quick < 1150 * MB
    exact = memory_bytes(tree, at_least_bytes=500 * MB)
    assert exact is not None
    assert 200 * MB < exact < 280 * MB


@needs_linux
def test_below_the_limit_the_quick_sum_will_do(tree: list[psutil.Process]):
    quick = memory_bytes(tree, at_least_bytes=2000 * MB)
    assert quick is not None
    assert quick > 1000 * MB


def test_one_that_has_ended_holds_nothing():
    """It is left out; when all have ended nothing could be read."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    gone = psutil.Process(child.pid)
    child.communicate(b"\n", timeout=10)
    own = psutil.Process()
    assert memory_bytes([gone]) is None
    assert memory_bytes([gone], at_least_bytes=0) is None
    assert memory_bytes([gone, own]) == pytest.approx(own.memory_info().rss, rel=0.1)
    assert memory_bytes([]) is None


@pytest.mark.parametrize("text", [None, b"", b"00400000-7fff rollup\nRss: 5 kB\n", b"Pss: many kB\n"])
def test_without_the_exact_figure_resident_memory_counts(monkeypatch: pytest.MonkeyPatch, tmp_path, text: bytes | None):
    """macOS, old kernels, somebody else's process."""
    monkeypatch.setattr(memory_usage, "_PROC", tmp_path)
    own = psutil.Process()
    if text is not None:
        (tmp_path / str(own.pid)).mkdir()
        (tmp_path / str(own.pid) / "smaps_rollup").write_bytes(text)
    assert memory_bytes([own], at_least_bytes=0) == pytest.approx(own.memory_info().rss, rel=0.1)


def test_swap_counts(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """What is swapped out is still the tree's. A file of the kernel's layout: nothing can be swapped out at will."""
    monkeypatch.setattr(memory_usage, "_PROC", tmp_path)
    own = psutil.Process()
    (tmp_path / str(own.pid)).mkdir()
    (tmp_path / str(own.pid) / "smaps_rollup").write_bytes(
        b"00400000-7fff0000 ---p 00000000 00:00 0    [rollup]\nRss:     9000 kB\nPss:     1000 kB\nPss_Anon:  7 kB\n"
        b"Swap:     800 kB\nSwapPss:     500 kB\n"
    )
    assert memory_bytes([own], at_least_bytes=0) == 1500 * 1024
