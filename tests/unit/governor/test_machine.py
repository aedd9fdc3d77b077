"""One reading of the machine: of this one for real, of others from files."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from backprop.governor.probes import cgroups
from backprop.governor.probes.cgroups import Room
from backprop.governor.probes.machine import (
    _Memory,
    _read_memory,
    _read_pressure_percent,
    _within_limits,
    read_snapshot,
)

GB = 1_000_000_000
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")


def test_what_it_says_agrees_with_psutil(tmp_path: Path):
    snapshot = read_snapshot([str(tmp_path), "/"])
    memory, swap, disk = psutil.virtual_memory(), psutil.swap_memory(), psutil.disk_usage("/")
    room = cgroups.memory_room()
    assert snapshot.ram_total_bytes == (memory.total if room is None else min(memory.total, room.limit_bytes))
    assert snapshot.ram_available_bytes is not None
    if room is None:
        assert abs(snapshot.ram_available_bytes - memory.available) < GB
    assert snapshot.swap_total_bytes == swap.total
    assert snapshot.swap_free_bytes is not None
    assert abs(snapshot.swap_free_bytes - swap.free) < GB
    assert set(snapshot.disk_total_bytes) == set(snapshot.disk_free_bytes) == {str(tmp_path), "/"}
    assert snapshot.disk_total_bytes["/"] == disk.total
    assert 0 <= snapshot.disk_free_bytes["/"] <= disk.total


def test_a_folder_that_is_not_there_is_left_out():
    snapshot = read_snapshot(["/nowhere/at/all", "a\0b"])
    assert (snapshot.disk_total_bytes, snapshot.disk_free_bytes) == ({}, {})


@needs_linux
def test_it_is_cheap():
    """psutil, which costs more than the reading itself, is not imported for it: see `make bench` for what it costs."""
    program = "import sys; from backprop.governor.probes.machine import read_snapshot; read_snapshot(['/']); print('psutil' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_limit_of_the_cgroup_is_a_limit(monkeypatch: pytest.MonkeyPatch):
    """What a container cannot get is not there."""
    monkeypatch.setattr(cgroups, "memory_room", lambda: Room(limit_bytes=3000, used_bytes=1000))
    snapshot = read_snapshot([])
    assert (snapshot.ram_total_bytes, snapshot.ram_available_bytes) == (3000, 2000)


@pytest.mark.parametrize(
    ("memory", "room", "expected"),
    [
        (_Memory(100, 50), None, (100, 50)),
        (_Memory(100, 50), Room(limit_bytes=80, used_bytes=70), (80, 10)),
        (_Memory(100, 5), Room(limit_bytes=80, used_bytes=70), (80, 5)),  # the machine itself has less
        (_Memory(100, 50), Room(limit_bytes=1000, used_bytes=70), (100, 50)),
        (_Memory(100, 0), Room(limit_bytes=1000, used_bytes=70), (100, 0)),
        (_Memory(), Room(limit_bytes=80, used_bytes=90), (80, 0)),
        (_Memory(), None, (None, None)),
    ],
)
def test_the_smaller_of_machine_and_cgroup(memory: _Memory, room: Room | None, expected: tuple[int | None, int | None]):
    within = _within_limits(memory, room)
    assert (within.total, within.available) == expected


def test_meminfo(tmp_path: Path):
    """Kibibytes of a file in kernel's own layout; HugePages has no unit."""
    (tmp_path / "meminfo").write_text(
        "MemTotal:       24684084 kB\nMemFree:        24190360 kB\nMemAvailable:   24305656 kB\n"
        "SwapCached:            9 kB\nSwapTotal:       2097148 kB\nSwapFree:        1000000 kB\nHugePages_Total:       0\n"
    )
    assert _read_memory(tmp_path) == _Memory(24684084 * 1024, 24305656 * 1024, 2097148 * 1024, 1000000 * 1024)


def test_psutil_is_asked_where_there_is_no_meminfo(tmp_path: Path):
    """As on macOS."""
    memory = _read_memory(tmp_path)
    assert (memory.total, memory.swap_total) == (psutil.virtual_memory().total, psutil.swap_memory().total)


def test_what_psutil_cannot_read_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def fail() -> None:
        raise RuntimeError("no such file")

    monkeypatch.setattr(psutil, "swap_memory", fail)
    assert _read_memory(tmp_path) == _Memory(
        psutil.virtual_memory().total, pytest.approx(psutil.virtual_memory().available, abs=GB)
    )
    monkeypatch.setattr(psutil, "virtual_memory", fail)
    assert _read_memory(tmp_path) == _Memory()


@pytest.mark.parametrize(
    ("text", "percent"),
    [
        (
            "some avg10=12.34 avg60=5.00 avg300=1.00 total=6293\nfull avg10=1.00 avg60=0.00 avg300=0.00 total=4553\n",
            12.34,
        ),
        ("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n", 0.0),
        ("", None),
        ("some", None),
        ("some what\n", None),
    ],
)
def test_pressure(tmp_path: Path, text: str, percent: float | None):
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure/memory").write_text(text)
    assert _read_pressure_percent(tmp_path) == percent


def test_a_kernel_without_pressure_figures(tmp_path: Path):
    assert _read_pressure_percent(tmp_path) is None


@needs_linux
def test_a_real_limit_is_seen():
    """A process in a cage of 300 MB has 300 MB, less what it uses."""
    from backprop.supervisor.process import memory_cgroup

    made = memory_cgroup.build("probe", 1, 300_000_000)
    if made is None:
        pytest.skip("no memory control group can be made here")
    program = (
        "from backprop.governor.probes.machine import read_snapshot as read; held = bytearray(100_000_000); s = read([]);"
        "print(s.ram_total_bytes, s.ram_available_bytes)"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], preexec_fn=made.enter, capture_output=True, text=True, check=True
        )
    finally:
        made.remove()
    total, available = map(int, done.stdout.split())
    assert 299_000_000 < total <= 300_000_000
    assert 100_000_000 < available < 200_000_000
