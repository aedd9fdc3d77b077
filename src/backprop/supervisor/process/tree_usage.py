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

    cpu_s: float
    children_cpu_s: float  # of children that have ended, once it has waited for them
    read_bytes: float | None  # with those of such children
    written_bytes: float | None


class TreeMeter:
    """Compares what the processes of a tree have used from look to look."""

    def __init__(self) -> None:
        self._before: dict[psutil.Process, _Counts] = {}
        self._at: float | None = None  # monotonic seconds

    def look(self, processes: Sequence[psutil.Process], now: float) -> TreeUse | None:
        """What they used since the last look; None at the first."""
        counts = {process: found for process in processes if (found := _counts(process)) is not None}
        # one that has ended keeps what it used until its parent waits for it, and gets it
        counts |= {
            process: found for process, found in self._before.items() if process not in counts and process.is_running()
        }
        before, self._before = self._before, counts
        at, self._at = self._at, now
        if at is None or now <= at:
            return None
        return TreeUse(
            seconds=now - at,
            cpu_s=_cpu_s(counts, before),
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


def _cpu_s(counts: dict[psutil.Process, _Counts], before: dict[psutil.Process, _Counts]) -> float:
    """CPU time since the look before: of a process that is new all of it; what ended ones had used was counted then."""
    nothing = _Counts(0.0, 0.0, None, None)
    pairs = [(one, before.get(process, nothing)) for process, one in counts.items()]
    ended = [one for process, one in before.items() if process not in counts]
    inherited_s = sum(now.children_cpu_s - old.children_cpu_s for now, old in pairs)
    counted_s = sum(one.cpu_s + one.children_cpu_s for one in ended)
    return sum(max(0.0, now.cpu_s - old.cpu_s) for now, old in pairs) + max(0.0, inherited_s - counted_s)


def _growth(
    counts: dict[psutil.Process, _Counts],
    before: dict[psutil.Process, _Counts],
    of: Callable[[_Counts], float | None],
) -> float | None:
    """By how much a count has grown in all; None where no process says. That of ended ones is in their parents'."""
    known = [value for one in counts.values() if (value := of(one)) is not None]
    return max(0.0, sum(known) - sum(of(one) or 0.0 for one in before.values())) if known else None


def _counts(process: psutil.Process) -> _Counts | None:
    """None for a process that has ended."""
    try:
        user_s, system_s, *children_s = process.cpu_times()[:4]
    except (psutil.Error, OSError):
        return None
    with suppress(psutil.Error, OSError, AttributeError):  # not ours to see, or macOS, which does not say
        disk = process.io_counters()
        return _Counts(user_s + system_s, sum(children_s), disk.read_bytes, disk.write_bytes)
    return _Counts(user_s + system_s, sum(children_s), None, None)
