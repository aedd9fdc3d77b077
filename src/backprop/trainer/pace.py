"""How long steps and saves take, which the supervisor has to know: it requests a stop that much before the deadline."""

from __future__ import annotations

from typing import Callable, Optional

_REPORT_FACTOR = 1.2  # a step or a save that took this much longer than the longest one reported is reported


class Pace:
    """The longest step and the longest save of a process. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.longest_step_s: Optional[float] = None
        self.longest_save_s: Optional[float] = None
        self._reported: Optional[tuple[Optional[float], Optional[float]]] = None
        self._step_began = 0.0
        self._steps = 0

    def begin_loop(self, now: float) -> None:
        """A loop begins, and its first step."""
        self._step_began = now
        self._steps = 0
        self._reported = None

    def end_step(self, now: float) -> None:
        """A step ended, and the next one begins."""
        duration_s = now - self._step_began
        self._step_began = now
        self._steps += 1
        # the first one compiles, allocates and warms up: it is not typical of those that follow
        if self._steps <= 2 or duration_s > (self.longest_step_s or 0.0):
            self.longest_step_s = duration_s

    def restart_step(self, now: float) -> None:
        """The step begins only now: what came before, such as an evaluation, is not part of it."""
        self._step_began = now

    def end_save(self, began: float, now: float) -> None:
        """A save ended that began at `began`. It is not part of a step."""
        self.longest_save_s = max(now - began, self.longest_save_s or 0.0)
        self._step_began = now

    def report(self, send_event: Callable[..., None]) -> None:
        """Send an event if the supervisor's numbers are much too small, or it has none for this loop."""
        longest = (self.longest_step_s, self.longest_save_s)
        if self._reported is None or any(
            value is not None and value > (reported or 0.0) * _REPORT_FACTOR
            for value, reported in zip(longest, self._reported)
        ):
            self._reported = longest
            send_event(event="listening", longest_step_s=longest[0], longest_save_s=longest[1])
