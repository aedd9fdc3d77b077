"""How things are measured: what a command costs, which order is fair, and what many measurements come to."""

import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

_RESAMPLES = 2000
_KIB = 1024


@dataclass(frozen=True)
class Spread:
    """What many measurements of one thing come to."""

    median: float
    low: float  # 10th percentile
    high: float  # 90th percentile
    worst: float
    median_error: float  # half of the median's 95 % confidence interval, by bootstrap
    count: int

    def text(self, unit: str, scale: float = 1.0, digits: int = 0) -> str:
        """For the table: median (10th to 90th percentile)."""
        return (
            f"{self.median * scale:.{digits}f} {unit} ({self.low * scale:.{digits}f} to {self.high * scale:.{digits}f})"
        )


def spread(values: Sequence[float]) -> Spread:
    """At least one value."""
    ordered = sorted(values)
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(ordered, k=len(ordered))) for _ in range(_RESAMPLES))
    return Spread(
        median=statistics.median(ordered),
        low=_quantile(ordered, 0.1),
        high=_quantile(ordered, 0.9),
        worst=ordered[-1],
        median_error=(_quantile(medians, 0.975) - _quantile(medians, 0.025)) / 2,
        count=len(ordered),
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def interleaved(arms: Sequence[Callable[[], float]], rounds: int) -> list[list[float]]:
    """What each arm gave in each round. Who is first changes from round to round, so that a drift hits all alike."""
    results: list[list[float]] = [[] for _ in arms]
    for number in range(rounds):
        for position in range(len(arms)):
            arm = (number + position) % len(arms)
            results[arm].append(arms[arm]())
    return results


@dataclass(frozen=True)
class Cost:
    """What a command cost, with all processes it waited for."""

    wall_s: float
    cpu_s: float  # user and system


def cost(argv: Sequence[str], environment: Mapping[str, str], folder: Path, out: Path | None = None) -> Cost:
    """Run a command to its end. Its stdout goes to `out`, else nowhere. Raises CalledProcessError."""
    with (out or Path(os.devnull)).open("wb") as sink:
        started = perf_counter()
        process = subprocess.Popen(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.DEVNULL,
            # As in a terminal of its own. Linux shares the processor out by session (sched_autogroup), and Backprop
            # gives a trainer one: bare scripts that share ours would be slower by several per cent on a busy machine
            start_new_session=True,
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, argv)
    return Cost(wall_s, usage.ru_utime + usage.ru_stime)


@contextmanager
def one_core() -> Iterator[None]:
    """What is started here shares one core (Linux)."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def own_peak_rss_bytes() -> int:
    """The most memory this process ever had resident."""
    if sys.platform == "linux":
        # getrusage's ru_maxrss begins with what the parent had at the fork: see setmax_mm_hiwater_rss in fs/exec.c
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * _KIB
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
