"""Signs of life of a session: steps, output, use of CPU and GPUs; written to a small file for other commands.

Output includes the events of our hooks. The file is replaced, not appended to, at most once a second.
"""

from contextlib import suppress
from datetime import datetime

import msgspec

from backprop.records import Source
from backprop.store.files import replace_file
from backprop.store.output.tail import size_bytes
from backprop.supervisor.context import SessionContext
from backprop.supervisor.monitor import ResourceMonitor

_WRITE_EVERY_S = 1.0


class Liveness:
    """Of one session. Times are seconds of training, without pauses, so that a pause is no silence."""

    def __init__(self, context: SessionContext, monitor: ResourceMonitor, *, sees_use: bool) -> None:
        """sees_use: all of the trainer's processes are on this machine, and can be found."""
        self._context = context
        self._monitor = monitor
        self._sees_use = sees_use
        rundir, number = context.rundir, context.number
        outputs = (rundir.source_path(number, Source.OUT), rundir.source_path(number, Source.EVENTS))
        self._outputs = (*outputs, rundir.err_path(number))
        self._sizes: tuple[int, ...] = ()
        self._step: int | None = None
        self._windows = 0  # of the monitor, that were taken in
        self._spoke_s = 0.0  # the last step or output
        self._used_s = 0.0  # the end of the last window in which something was used
        self._seen_s = 0.0  # up to which use is known
        self._stepped_at: datetime | None = None
        self._write_at_s = _WRITE_EVERY_S  # a script that is over before leaves no file

    def look(self, at_s: float) -> None:
        """Note what there is to see now. at_s: seconds of training so far."""
        sizes = self._sizes
        with suppress(OSError):  # of a disk that fails for a moment: training continues
            sizes = tuple(map(size_bytes, self._outputs))
        step = self._context.meter.progress.step
        if sizes != self._sizes or step != self._step:
            self._sizes, self._spoke_s = sizes, at_s
        if step != self._step:
            self._step, self._stepped_at = step, self._context.clock.wall()
        if self._windows != self._monitor.windows:
            self._windows, self._seen_s = self._monitor.windows, at_s
            self._used_s = at_s if self._monitor.is_used else self._used_s
        self._context.meter.note_life(
            silent_s=at_s - self._spoke_s, stalled_s=self._stalled_s(), last_step_at=self._stepped_at
        )
        if at_s >= self._write_at_s:
            self._write_at_s = at_s + _WRITE_EVERY_S
            self._write()

    def _stalled_s(self) -> float | None:
        """Time without any sign of life, up to where that is known."""
        return max(0.0, self._seen_s - max(self._spoke_s, self._used_s)) if self._sees_use else None

    def _write(self) -> None:
        with suppress(OSError):  # a full disk: views show what was seen before
            data = msgspec.json.encode(self._context.meter.progress.live)
            replace_file(self._context.rundir.live_path(self._context.number), data)

    def close(self) -> None:
        """Remove the file: the session is over."""
        with suppress(OSError):
            self._context.rundir.live_path(self._context.number).unlink(missing_ok=True)
