"""Whether a process tree uses CPU: a sign of life of a trainer that prints nothing."""

from collections.abc import Sequence
from contextlib import suppress

import psutil

# A trainer that hangs still has threads that wake up now and then: of loggers, watchdogs, progress bars. A window of
# some seconds and a share of a core tell their moments from work.
WINDOW_S = 3.0
USED_SHARE = 0.02


class CpuMeter:
    """Compares the CPU time of a tree at the ends of windows."""

    def __init__(self) -> None:
        self._before: dict[psutil.Process, float] = {}
        self._began: float | None = None  # the window, in monotonic seconds

    def look(self, processes: Sequence[psutil.Process], now: float) -> bool | None:
        """Whether the tree used CPU in the window that ends now; None until the window ends."""
        if self._began is not None and now - self._began < WINDOW_S:
            return None
        cpu_s = dict(_cpu_times_s(processes))
        # of a process that is new, all of its time; one that has ended is in the time of its parent
        used_s = sum(max(0.0, after - self._before.get(process, 0.0)) for process, after in cpu_s.items())
        began, self._began, self._before = self._began, now, cpu_s
        return None if began is None else used_s >= USED_SHARE * (now - began)


def _cpu_times_s(processes: Sequence[psutil.Process]) -> "list[tuple[psutil.Process, float]]":
    """CPU seconds of each process and of its children that have ended."""
    found = []
    for process in processes:
        with suppress(psutil.Error, OSError):  # it has ended
            times = process.cpu_times()
            found.append((process, sum(times[:4])))  # user, system, and those of ended children
    return found
