"""Read the machine: one snapshot per call. A value that cannot be read is None; nothing here raises."""

import os
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from backprop.governor.probes import cgroups
from backprop.records import MachineState


class _Memory(NamedTuple):
    """Bytes of RAM and swap; None where they could not be read."""

    total: int | None = None
    available: int | None = None
    swap_total: int | None = None
    swap_free: int | None = None


def read_snapshot(folders: Iterable[str]) -> MachineState:
    """CPU, memory, and the disk space in `folders`. The GPUs are not in it."""
    disk_total_bytes = {}
    disk_free_bytes = {}
    for folder in folders:
        with suppress(OSError, ValueError):
            usage = shutil.disk_usage(folder)
            disk_total_bytes[folder] = usage.total
            disk_free_bytes[folder] = usage.free
    memory = _within_limits(_read_memory(), cgroups.memory_room())
    load = None
    with suppress(OSError):
        load = os.getloadavg()[0]
    return MachineState(
        cpu_count=os.cpu_count(),
        load_1min=load,
        ram_total_bytes=memory.total,
        ram_available_bytes=memory.available,
        swap_total_bytes=memory.swap_total,
        swap_free_bytes=memory.swap_free,
        ram_pressure_percent=_read_pressure_percent(),
        disk_total_bytes=disk_total_bytes,
        disk_free_bytes=disk_free_bytes,
    )


def _within_limits(memory: _Memory, room: cgroups.Room | None) -> _Memory:
    """The memory that this process can use: in a container or a Slurm job only what its cgroup allows."""
    if room is None:
        return memory
    return memory._replace(
        total=min(room.limit_bytes, memory.total or room.limit_bytes),
        available=room.free_bytes if memory.available is None else min(room.free_bytes, memory.available),
    )


def _read_memory(proc: Path = cgroups.PROC) -> _Memory:
    """Memory of the machine. On Linux from /proc: importing psutil takes a tenth of the time to start a run."""
    with suppress(OSError, ValueError, KeyError):
        names = (b"MemTotal", b"MemAvailable", b"SwapTotal", b"SwapFree")
        sizes = memory_fields(proc / "meminfo", names)
        return _Memory(*(sizes[name] for name in names))
    import psutil

    memory = _Memory()
    # on some systems psutil raises RuntimeError for a missing file
    with suppress(OSError, psutil.Error, RuntimeError):
        ram = psutil.virtual_memory()
        memory = _Memory(total=ram.total, available=ram.available)
        swap = psutil.swap_memory()
        memory = memory._replace(swap_total=swap.total, swap_free=swap.free)
    return memory


def memory_fields(path: Path, names: Collection[bytes]) -> dict[bytes, int]:
    """Sizes in bytes by name, from a file of lines "name: number kB" as /proc/meminfo; without names that it lacks.

    Raises OSError, and ValueError for what is no number.
    """
    fields = (line.partition(b":") for line in path.read_bytes().splitlines())
    return {name: int(value.removesuffix(b"kB")) * 1024 for name, _, value in fields if name in names}


def _read_pressure_percent(proc: Path = cgroups.PROC) -> float | None:
    """Percentage of the last 10 s in which some process waited for memory (PSI); None where it is not available."""
    with suppress(OSError, ValueError, IndexError):
        # some avg10=0.00 avg60=0.00 avg300=0.00 total=6293
        return float((proc / "pressure/memory").read_bytes().split()[1].removeprefix(b"avg10="))
    return None
