"""The file of what a session used: bounded, in spite of a full disk, and without what is not known."""

import os
import subprocess
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from backprop.governor.run_policy import Sample
from backprop.records import Gpu, MachineState, Throttle
from backprop.store.usage import blocks
from backprop.supervisor import usage_log
from backprop.supervisor.process.tree_usage import TreeUse
from backprop.supervisor.usage_log import DAY_S, UsageLog, measured, period_s


def moments(path: Path) -> list[blocks.Moment]:
    return list(blocks.moments(path.read_bytes()))


def test_every_second_is_kept(tmp_path: Path):
    """Those of the first seconds are there at once, and the last ones when the session ends."""
    path = tmp_path / "session-1.usage"
    log = UsageLog(path)
    log.add(1.0, {"cpu": 1})
    assert [moment.values["cpu"] for moment in moments(path)] == [1]
    for second in range(2, 100):
        log.add(float(second), {"cpu": second})
    assert len(moments(path)) >= 75
    log.close()
    assert [moment.values["cpu"] for moment in moments(path)] == list(range(1, 100))
    assert [moment.at_s for moment in moments(path)] == pytest.approx([float(n) for n in range(1, 100)], abs=0.1)
    assert path.stat().st_mode & 0o777 == 0o600


def test_samples_in_quick_succession_are_one(tmp_path: Path):
    """Close to its memory limit a tree is looked at more often. Of levels the highest is kept, of rates the mean."""
    log = UsageLog(tmp_path / "u")
    for quarter in range(1, 5):
        log.add(quarter / 4, {"cpu": quarter * 10, "ram": quarter * 10**9})
    log.close()
    (moment,) = moments(tmp_path / "u")
    assert moment.values == {"cpu": 25, "ram": 4 * 10**9}


@pytest.mark.parametrize(
    ("sample_bytes", "days", "expected_s"),
    [
        (0, 0, 1),
        (57, 0.99, 1),
        (58, 0.1, 2),
        (200, 0.1, 4),
        (30, 1, 2),
        (30, 1.99, 2),
        (30, 2, 4),
        (58, 2, 8),
        (30, 32, 64),
    ],
)
def test_a_sample_stands_for_longer_the_more_there_is_to_keep(sample_bytes: float, days: float, expected_s: float):
    assert period_s(sample_bytes, days * DAY_S) == expected_s


def test_a_long_session_is_thinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The file grows by the same amount whenever the session gets twice as long. No peak is lost."""
    monkeypatch.setattr(usage_log, "DAY_S", 1000.0)
    monkeypatch.setattr(usage_log, "BYTES_A_DAY", 20_000)
    log = UsageLog(tmp_path / "u")
    sizes = []
    for second in range(1, 8001):
        log.add(float(second), {"cpu": second % 97, "ram": 10**9 + second % 500 * 10**6})
        if second in {1000, 2000, 4000, 8000}:
            sizes.append((tmp_path / "u").stat().st_size)
    log.close()
    assert sizes[0] <= 20_000
    assert all(later - earlier <= 11_000 for earlier, later in pairwise(sizes))
    found = moments(tmp_path / "u")
    assert max(moment.values["ram"] for moment in found) == 10**9 + 499 * 10**6
    assert sum(moment.seconds for moment in found) == pytest.approx(8000, abs=1)


def test_a_full_disk_loses_a_stretch_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A line that it cut short does not swallow the next one."""
    log, write = UsageLog(tmp_path / "u"), os.write
    log.add(1.0, {"cpu": 1})
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:20]))
    log.add(2.0, {"cpu": 2})
    monkeypatch.setattr(os, "write", lambda fd, data: (_ for _ in ()).throw(OSError(28, "full")))
    log.add(4.0, {"cpu": 4})
    monkeypatch.setattr(os, "write", write)
    log.add(8.0, {"cpu": 8})
    log.close()
    assert [moment.values["cpu"] for moment in moments(tmp_path / "u")] == [1, 8]


def test_a_link_in_its_place_is_not_followed(tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "u").symlink_to(victim)
    log = UsageLog(tmp_path / "u")
    log.add(1.0, {"cpu": 1})
    log.close()
    assert victim.read_bytes() == b"mine"


CARD = Gpu(
    index=2,
    uuid="GPU-2",
    name="g",
    vendor="nvidia",
    vram_total_bytes=80 * 10**9,
    vram_free_bytes=50 * 10**9,
    temp_c=70.0,
    utilization_percent=93.0,
    power_w=310.0,
    throttled=(Throttle.POWER,),
    process_vram_bytes={os.getpid(): 20 * 10**9, 1: 9 * 10**9},
)


def test_what_is_measured_of_a_session():
    """Rates are of one second; the memory of a card is that of the tree, and of others."""
    machine = MachineState(
        ram_total_bytes=64, ram_available_bytes=24, swap_total_bytes=10, swap_free_bytes=7, ram_pressure_percent=1.5
    )
    sample = Sample(at=5.0, tree_ram_bytes=30, gpus=(CARD,))
    use = TreeUse(seconds=2.0, cpu_s=3.0, read_bytes=1000.0, written_bytes=None)
    assert measured(sample, machine, use, 55.0, {os.getpid()}) == {
        "cpu": 150.0,
        "machine_cpu": 55.0,
        "ram": 30,
        "machine_ram": 40,
        "machine_ram_total": 64,
        "machine_swap": 3,
        "ram_pressure": 1.5,
        "processes": 1,
        "disk_read": 500.0,
        "gpu2/util": 93.0,
        "gpu2/vram": 20 * 10**9,
        "gpu2/vram_others": 9 * 10**9,
        "gpu2/vram_used": 30 * 10**9,
        "gpu2/vram_total": 80 * 10**9,
        "gpu2/power": 310.0,
        "gpu2/temp": 70.0,
        "gpu2/thermal": 0.0,
        "gpu2/capped": 100.0,
        "gpu2/slowed": 0.0,
    }


def test_what_is_not_known_is_left_out():
    assert measured(Sample(at=1.0), MachineState(), None, None, set()) == {}


def test_processes_that_only_the_driver_knows_make_its_figures_unknown():
    """In a container it names processes by their numbers outside: ours would seem to hold nothing."""
    card = msgspec.structs.replace(CARD, process_vram_bytes={2**22 + 1: 10**9})
    found = measured(Sample(at=1.0, gpus=(card,)), MachineState(), None, None, {os.getpid()})
    assert "gpu2/vram" not in found
    assert "gpu2/vram_others" not in found
    assert found["gpu2/vram_used"] == 30 * 10**9


def test_a_process_that_has_ended_is_not_taken_for_another_one():
    """The driver was asked before a trainer ended: what that held was no other process's."""
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    card = msgspec.structs.replace(CARD, process_vram_bytes={ended.pid: 10**9})
    found = measured(Sample(at=1.0, gpus=(card,)), MachineState(), None, None, {os.getpid()})
    ended.wait()
    assert "gpu2/vram_others" not in found


def test_slices_of_one_card_are_told_apart():
    found = measured(Sample(at=1.0, gpus=(CARD, CARD)), MachineState(), None, None, set())
    assert {name.partition("/")[0] for name in found} == {"gpu2", "gpu2.1"}
