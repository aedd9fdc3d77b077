"""Read the machine: one snapshot per call. A value that cannot be read is None; nothing here raises."""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from backprop.records import Snapshot

_MEMINFO = Path("/proc/meminfo")


def read_snapshot(folders: Iterable[str]) -> Snapshot:
    """CPU, RAM, and the disk space in `folders`."""
    disk_free_bytes = {}
    for folder in folders:
        with suppress(OSError):
            disk_free_bytes[folder] = shutil.disk_usage(folder).free
    ram_total_bytes, ram_available_bytes = _read_ram()
    load = None
    with suppress(OSError):
        load = os.getloadavg()[0]
    return Snapshot(
        cpu_count=os.cpu_count(),
        load_1min=load,
        ram_total_bytes=ram_total_bytes,
        ram_available_bytes=ram_available_bytes,
        disk_free_bytes=disk_free_bytes,
    )


def _read_ram() -> tuple[int | None, int | None]:
    """Total and available bytes. Linux is asked directly: importing psutil is a tenth of what starting a run costs."""
    with suppress(OSError, ValueError, KeyError):
        lines = _MEMINFO.read_text().splitlines()
        kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
        return kib["MemTotal"] * 1024, kib["MemAvailable"] * 1024
    import psutil

    with suppress(OSError, psutil.Error):
        memory = psutil.virtual_memory()
        return memory.total, memory.available
    return None, None
