"""How much memory a process tree holds: a fast estimate, and an exact sum."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from backprop.governor.probes import machine

_PROC = Path("/proc")


def memory_bytes(processes: Sequence[psutil.Process], at_least_bytes: int | None = None) -> int | None:
    """Bytes that a process tree holds; None when nothing could be read.

    The sum of resident memory, which counts shared pages once per process. Where that exceeds `at_least_bytes` (None:
    never), on Linux the exact sum: each shared page once, plus swap. That walks every page, which takes milliseconds
    per gigabyte: hence only when it matters.
    """
    resident = {}
    for process in processes:
        # it has ended, or belongs to another user
        with suppress(psutil.Error, OSError):
            resident[process.pid] = int(process.memory_info().rss)
    if not resident:
        return None
    total = sum(resident.values())
    if at_least_bytes is None or total <= at_least_bytes:
        return total
    return sum(_exact_bytes(pid, otherwise=rss) for pid, rss in resident.items())


def _exact_bytes(pid: int, otherwise: int) -> int:
    """A process's share of the pages it maps, in RAM and in swap (Linux 4.14), else `otherwise`."""
    try:
        shares = machine.memory_fields(_PROC / str(pid) / "smaps_rollup", (b"Pss", b"SwapPss"))
    except ProcessLookupError:
        return 0  # it has ended meanwhile
    except (OSError, ValueError):
        return otherwise  # not Linux, not ours to read, or another format
    return sum(shares.values()) if shares else otherwise
