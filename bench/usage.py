"""What processes that go on cost over a stretch of time, several of them side by side."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psutil

_MB = 1_000_000
_SAMPLE_EVERY_S = 0.25


@dataclass(frozen=True)
class Usage:
    """A share of one core, and the most memory that was resident at a sample."""

    cpu_share: float
    rss_bytes: int

    @property
    def is_small(self) -> bool:
        return self.cpu_share <= 0.01 and self.rss_bytes <= 60 * _MB

    def text(self) -> str:
        return f"{self.cpu_share * 100:.2f} % of a core, RSS {self.rss_bytes / _MB:.0f} MB"


@dataclass(frozen=True)
class Party:
    """Processes that are counted as one."""

    processes: Sequence[psutil.Process]
    starts_tools: bool = False  # what they start and wait for is theirs: its memory while it lives, its CPU time after

    def has_ended(self) -> bool:
        """Whether one of them has, waited for or not."""
        return not all(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in self.processes)

    def cpu_s(self) -> float:
        """User and system, since they were started. Raises psutil.NoSuchProcess."""
        total = 0.0
        for process in self.processes:
            times = process.cpu_times()
            total += times.user + times.system
            if self.starts_tools:
                total += times.children_user + times.children_system
        return total

    def rss_bytes(self) -> int:
        """Now, summed: what processes share is counted once for each. Raises psutil.NoSuchProcess."""
        total = sum(process.memory_info().rss for process in self.processes)
        if self.starts_tools:
            for process in self.processes:
                for tool in process.children(recursive=True):
                    with suppress(psutil.NoSuchProcess):  # it is over
                        total += tool.memory_info().rss
        return total


def usage(parties: Mapping[str, Party], window_s: float) -> dict[str, Usage]:
    """What each party used in the same window, from now on. Raises RuntimeError or psutil.Error when one ended."""
    began = time.monotonic()
    before = {name: party.cpu_s() for name, party in parties.items()}
    peak = dict.fromkeys(parties, 0)
    while time.monotonic() - began < window_s:
        time.sleep(_SAMPLE_EVERY_S)
        for name, party in parties.items():
            peak[name] = max(peak[name], party.rss_bytes())
    after = {name: party.cpu_s() for name, party in parties.items()}
    elapsed_s = time.monotonic() - began
    if ended := [name for name, party in parties.items() if party.has_ended()]:
        raise RuntimeError(f"ended before the window did: {', '.join(ended)}")
    return {name: Usage((after[name] - before[name]) / elapsed_s, peak[name]) for name in parties}
