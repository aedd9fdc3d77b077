"""Read the machine: one snapshot per call. A value that cannot be read is None; nothing here raises."""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress

import psutil

from backprop.records import Snapshot


def read_snapshot(folders: Iterable[str]) -> Snapshot:
    """CPU, RAM, and the disk space in `folders`."""
    disk_free_bytes = {}
    for folder in folders:
        with suppress(OSError):
            disk_free_bytes[folder] = shutil.disk_usage(folder).free
    memory = None
    with suppress(OSError, psutil.Error):
        memory = psutil.virtual_memory()
    load = None
    with suppress(OSError):
        load = os.getloadavg()[0]
    return Snapshot(
        cpu_count=os.cpu_count(),
        load_1min=load,
        ram_total_bytes=memory.total if memory else None,
        ram_available_bytes=memory.available if memory else None,
        disk_free_bytes=disk_free_bytes,
    )
