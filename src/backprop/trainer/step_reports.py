"""Which steps this process has made, as the supervisor knows it: metrics, steps that are counted, their unit and total.

A script reports its steps; hooks count others (of an optimizer, environment steps), which may be of another kind.
"""

from __future__ import annotations

import weakref
from time import monotonic
from typing import Any, Callable, Mapping, Optional

from . import distributed
from .channel import EventsFile

STEP_EVERY_S = 1.0  # steps are reported this often at least, if any are made


class StepReports:
    """Sends what rank 0 does; other ranks report nothing here. Never raises: see failsafe.py."""

    def __init__(self, events: EventsFile) -> None:
        self._events = events
        self._reported_at = 0.0  # monotonic seconds
        self._reported: Optional[int] = None  # the last that the supervisor knows of
        self._counted = 0  # the last step that a hook counted
        self._units: dict[bool, str] = {}  # what the reported and the counted steps are, as the supervisor knows it
        self._last: Optional[tuple[int, Optional[int], bool]] = None  # of the loop that is running
        self._is_total_reported = False  # of the loop that is running
        self.count_now: Optional[Callable[[], int]] = None  # for steps other than those of optimizers
        self.ended_at: Optional[int] = None  # the last step of the latest loop that a hook has driven

    def log(self, step: int, metrics: Mapping[str, Any], total_steps: Optional[int] = None) -> None:
        """Report metrics at a step. Values that are not numbers are left out."""
        if distributed.rank() == 0:
            self._reported_at = monotonic()
            self._reported = step
            self._is_total_reported |= total_steps is not None
            self._events.send_metrics(step, metrics, total_steps)

    def set_unit(self, unit: str, *, is_counted: bool = False) -> None:
        """Report what one step is, once. unit: in the singular. is_counted: of the steps that we count."""
        if self._units.get(is_counted) != unit:
            self._units[is_counted] = unit
            more = {"counted": True} if is_counted else {}
            self._send(event="unit", unit=unit, **more)

    def count_as(self, unit: str, training: Any, steps_of: Callable[[Any], int]) -> None:
        """From now on a hook counts steps of this kind, instead of those of optimizers.

        training: what counts them; it holds models and data, so it is not kept alive. steps_of: how many it has made.
        """
        alive = weakref.ref(training)

        def count_now() -> int:
            training = alive()
            return self._counted if training is None else steps_of(training)

        self.count_now = count_now
        self.set_unit(unit, is_counted=True)

    def count(self, step: int, total_steps: Optional[int] = None) -> None:
        """Report a step that we count, for a script that may report steps of another kind."""
        self._reported_at = monotonic()
        self._reported = self._counted = step
        more = {} if total_steps is None else {"total_steps": total_steps}
        self._send(step=step, counted=True, **more)

    def _send(self, **fields: Any) -> None:
        if distributed.rank() == 0:
            self._events.send(fields)

    # -- of a loop that a hook drives

    @property
    def in_loop(self) -> Optional[int]:
        """The last step of the loop that is running; None before it has made one."""
        return None if self._last is None else self._last[0]

    def begin_loop(self) -> None:
        """A loop begins."""
        self._reported_at = 0.0  # the first step is reported at once, for its total
        self._is_total_reported = False
        self._reported = self._last = None

    def end_step(self, now: float, step: int, total_steps: Optional[int], *, is_counted: bool) -> None:
        """The loop has made a step: reported if nothing was for a second. now: in monotonic seconds."""
        self._last = (step, total_steps, is_counted)
        if now >= self._reported_at + STEP_EVERY_S:
            self._report(step, total_steps, is_counted=is_counted)

    def end_loop(self) -> None:
        """The loop is over: its last step is reported, unless that was done."""
        if self._last is not None:
            step, total_steps, is_counted = self._last
            self._last = None
            self.ended_at = step
            reported = self._reported  # if the script did, it may be of another kind than those that are counted
            if reported is None or (step != reported if is_counted else step > reported):
                self._report(step, total_steps, is_counted=is_counted)

    def _report(self, step: int, total_steps: Optional[int], *, is_counted: bool) -> None:
        if is_counted:
            self.count(step, total_steps)
        else:  # the total is a metric: once is enough
            self.log(step, {}, None if self._is_total_reported else total_steps)
