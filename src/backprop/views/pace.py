"""How often a view does its work: once a second, and less often where that takes much CPU time."""

from collections import deque

_EVERY_S = 1.0
_AVERAGED = 5  # times that the work was done


class RefreshPace:
    """The interval that keeps some work below a share of a core, whatever the machine and the number of runs."""

    def __init__(self, max_share: float, at_most_every_s: float) -> None:
        """max_share: of a core. at_most_every_s: the longest interval, even if that is more."""
        self._max_share = max_share
        self._longest_s = at_most_every_s
        self._costs_s: deque[float] = deque(maxlen=_AVERAGED)

    def interval_s(self, cpu_s: float) -> float:
        """How long to wait until the next time. cpu_s: what it took this time."""
        self._costs_s.append(cpu_s)
        mean_s = sum(self._costs_s) / len(self._costs_s)
        return min(max(_EVERY_S, mean_s / self._max_share), self._longest_s)
