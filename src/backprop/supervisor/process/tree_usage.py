"""What a process tree uses: CPU time, and bytes read from and written to disks.

Of CPU also whether it uses any: a sign of life of a trainer that prints nothing.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

import psutil

# A trainer that hangs still has threads that wake up now and then: of loggers, watchdogs, progress bars. A window of
# some seconds and a share of a core tell their moments from work.
WINDOW_S = 3.0
USED_SHARE = 0.02


class TreeUse(NamedTuple):
    """What a tree used between two looks. None: not known."""

    seconds: float  # between them
    cpu_s: float
    read_bytes: float | None = None
    written_bytes: float | None = None


class _Counts(NamedTuple):
    """What a process has used since it began."""

    cpu_s: float  # with that of its children that have ended
    read_bytes: float | None
    written_bytes: float | None


class TreeMeter:
    """Compares what the processes of a tree have used from look to look."""

    def __init__(self) -> None:
        self._before: dict[psutil.Process, _Counts] = {}
        self._at: float | None = None  # monotonic seconds

    def look(self, processes: Sequence[psutil.Process], now: float) -> TreeUse | None:
        """What they used since the last look; None at the first."""
        counts = {process: found for process in processes if (found := _counts(process)) is not None}
        before, self._before = self._before, counts
        at, self._at = self._at, now
        if at is None or now <= at:
            return None
        return TreeUse(
            seconds=now - at,
            cpu_s=_growth(counts, before, lambda one: one.cpu_s) or 0.0,
            read_bytes=_growth(counts, before, lambda one: one.read_bytes),
            written_bytes=_growth(counts, before, lambda one: one.written_bytes),
        )


class CpuWindow:
    """Judges whether a tree uses CPU, over windows of some seconds."""

    def __init__(self) -> None:
        self._seconds = self._cpu_s = 0.0

    def add(self, use: TreeUse) -> bool | None:
        """Whether the tree used CPU in the window that ends with this; None until one ends."""
        self._seconds += use.seconds
        self._cpu_s += use.cpu_s
        if self._seconds < WINDOW_S:
            return None
        is_used = self._cpu_s >= USED_SHARE * self._seconds
        self._seconds = self._cpu_s = 0.0
        return is_used


def _growth(
    counts: dict[psutil.Process, _Counts],
    before: dict[psutil.Process, _Counts],
    of: Callable[[_Counts], float | None],
) -> float | None:
    """By how much a count has grown in all; None where no process says.

    Of a process that is new, all of it; one that has ended is in the CPU time of its parent.
    """
    known = [
        max(0.0, now - ((of(before[process]) or 0.0) if process in before else 0.0))
        for process, one in counts.items()
        if (now := of(one)) is not None
    ]
    return sum(known) if known else None


def _counts(process: psutil.Process) -> _Counts | None:
    """None for a process that has ended."""
    try:
        cpu_s = sum(process.cpu_times()[:4])  # user, system, and those of ended children
    except (psutil.Error, OSError):
        return None
    with suppress(psutil.Error, OSError, AttributeError):  # not ours to see, or macOS, which does not say
        disk = process.io_counters()
        return _Counts(cpu_s, disk.read_bytes, disk.write_bytes)
    return _Counts(cpu_s, None, None)
