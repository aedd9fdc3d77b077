"""Keeps what was measured of a session: some samples at a time, in session-N.usage.

Nothing here fails: a stretch that finds no room on the disk is missing, and training goes on. A supervisor that is
killed loses the last twenty samples at most.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from backprop import host
from backprop.governor.run_policy import Sample
from backprop.records import Gpu, MachineState, Throttle
from backprop.store.files import open_to_append
from backprop.store.usage import blocks
from backprop.store.usage.quantities import quantity

if TYPE_CHECKING:
    from backprop.supervisor.process.tree_usage import TreeUse

DAY_S = 86_400.0
BYTES_A_DAY = 5_000_000  # the first day of a session takes at most this much, and each later doubling half as much
_EARLY_S = 0.2  # a sample may come this much too soon
_BLOCK_SAMPLES = 20
_PERCENT = 100.0
_THROTTLES = {"thermal": Throttle.THERMAL, "capped": Throttle.POWER, "slowed": Throttle.HARDWARE}


class UsageLog:
    """The file of one session. Times are seconds of training, without pauses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sample_bytes = 0.0  # that one takes in the file; 0 until a line was full
        self._samples: list[blocks.Sample] = []  # that are not written yet
        self._since_s = 0.0  # since when
        self._until_s = 0.0  # the end of the last of them
        self._growing = _Growing()  # the next one
        self._is_torn = False  # the file may end within a line

    def add(self, at_s: float, measured: Mapping[str, float]) -> None:
        """Take in what was measured at this time."""
        self._growing.add(at_s, measured)
        if at_s - self._until_s < period_s(self._sample_bytes, at_s) - _EARLY_S:
            return
        self._end_sample()
        # a short session is seen at once, a long one costs little
        if len(self._samples) >= _BLOCK_SAMPLES or 2 * self._since_s <= self._until_s:
            self._write()

    def close(self) -> None:
        """Write the rest."""
        self._end_sample()
        self._write()

    def _end_sample(self) -> None:
        at_s = self._growing.at_s
        if at_s is not None and at_s > self._until_s:
            self._samples.append(self._growing.values())
            self._until_s = at_s
        self._growing = _Growing()

    def _write(self) -> None:
        if not self._samples:
            return
        line = blocks.encode(self._since_s, self._until_s, self._samples)
        if len(self._samples) >= _BLOCK_SAMPLES:
            self._sample_bytes = len(line) / len(self._samples)
        self._samples, self._since_s = [], self._until_s
        # a line that was cut short by a full disk must not swallow this one
        data, self._is_torn = (b"\n" + line if self._is_torn else line), True
        with suppress(OSError):
            fd = open_to_append(self._path)
            try:
                self._is_torn = os.write(fd, data) != len(data)
            finally:
                os.close(fd)


def period_s(sample_bytes: float, at_s: float) -> float:
    """How long a sample stands for: one second, doubled until a day of such samples is small enough.

    After the first day it is doubled whenever the session has become twice as long.
    """
    period = 1.0
    while sample_bytes * DAY_S / period > BYTES_A_DAY:
        period *= 2
    while at_s >= DAY_S:
        period, at_s = period * 2, at_s / 2
    return period


class _Growing:
    """A sample that is made of several."""

    def __init__(self) -> None:
        self.at_s: float | None = None
        self._found: dict[str, list[float]] = {}

    def add(self, at_s: float, measured: Mapping[str, float]) -> None:
        self.at_s = at_s
        for name, value in measured.items():
            self._found.setdefault(name, []).append(value)

    def values(self) -> blocks.Sample:
        """Of levels the highest, of rates the mean."""
        values = {}
        for name, found in self._found.items():
            known = quantity(name)
            is_level = known is not None and known.is_level
            values[name] = max(found) if is_level else sum(found) / len(found)
        return values


def measured(
    sample: Sample, snapshot: MachineState, use: "TreeUse | None", machine_cpu_percent: float | None, pids: set[int]
) -> dict[str, float]:
    """What there is to keep of a sample, without what is not known. use: since the sample before. pids: of the tree."""
    available, total = snapshot.ram_available_bytes, snapshot.ram_total_bytes
    swap_free, swap_total = snapshot.swap_free_bytes, snapshot.swap_total_bytes
    found: dict[str, float | None] = {
        "machine_cpu": machine_cpu_percent,
        "ram": sample.tree_ram_bytes,
        "machine_ram": None if total is None or available is None else total - available,
        "machine_ram_total": total,
        "machine_swap": None if swap_total is None or swap_free is None else swap_total - swap_free,
        "ram_pressure": snapshot.ram_pressure_percent,
        "processes": len(pids) or None,
    }
    if use is not None:
        found |= {
            "cpu": use.cpu_s / use.seconds * _PERCENT,
            "disk_read": None if use.read_bytes is None else use.read_bytes / use.seconds,
            "disk_write": None if use.written_bytes is None else use.written_bytes / use.seconds,
        }
    indexes: list[int] = []
    for gpu in sample.gpus or ():
        slices = indexes.count(gpu.index)
        name = f"gpu{gpu.index}" + (f".{slices}" if slices else "")
        indexes.append(gpu.index)
        found |= {f"{name}/{part}": value for part, value in _of_card(gpu, pids).items()}
    return {name: value for name, value in found.items() if value is not None}


def _of_card(gpu: Gpu, pids: set[int]) -> dict[str, float | None]:
    free, total, held = gpu.vram_free_bytes, gpu.vram_total_bytes, gpu.process_vram_bytes
    # in a container the driver may name processes by their numbers outside of it: then nobody knows which are ours;
    # nor of one that has ended since the driver was asked
    if held is not None and not all(pid in pids or _is_running(pid) for pid in held):
        held = None
    ours = None if held is None else sum(size for pid, size in held.items() if pid in pids)
    reasons: dict[str, float | None] = {}
    if gpu.throttled is not None:
        reasons = {part: _PERCENT * (why in gpu.throttled) for part, why in _THROTTLES.items()}
    return {
        "util": gpu.utilization_percent,
        "vram": ours,
        "vram_others": None if held is None or ours is None else sum(held.values()) - ours,
        "vram_used": None if total is None or free is None else total - free,
        "vram_total": total,
        "power": gpu.power_w,
        "temp": gpu.temp_c,
        **reasons,
    }


def _is_running(pid: int) -> bool:
    """False also for a zombie."""
    fields = host.process_stat(pid)
    return fields is not None and fields[0] != b"Z"
