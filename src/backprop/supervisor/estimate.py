"""Reads what the trainer prints for an estimate of the time that remains, where no total is reported.

Only the end of what is new is read, once a second: what it costs does not depend on how much is printed.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from backprop.store.files import open_plain
from backprop.store.output.outlook import Outlook, end_of_lines
from backprop.store.output.protocol import Batch
from backprop.supervisor.context import SessionContext

_LOOK_EVERY_S = 1.0
_READ_BYTES = 16_384


class Estimate:
    """Of one session."""

    def __init__(self, context: SessionContext) -> None:
        self._context = context
        self._ends = dict.fromkeys(
            (context.rundir.out_path(context.number), context.rundir.err_path(context.number)), 0
        )
        self._look_at = 0.0
        self.outlook = Outlook()
        self.outlook.params_given(context.spec.params)

    def look(self, batches: Sequence[Batch], now: float) -> None:
        """Take in what hooks reported of progress bars, and what was printed. now: monotonic seconds."""
        for batch in batches:
            for bar in batch.bars:
                self.outlook.bar_began(bar.total, has_optimizer=bar.has_optimizer)
            for given in (batch.params, *(seen.params for seen in batch.params_seen)):
                self.outlook.params_given(given)
        meter = self._context.meter
        if now < self._look_at or meter.progress.has_reported_total:
            return
        self._look_at = now + _LOOK_EVERY_S
        counted_step = meter.progress.counted_step
        for path in self._ends:
            self.outlook.read(self._read(path), now, counted_step)
        meter.note_estimate(self.outlook.remaining_s(now, counted_step))

    def _read(self, path: Path) -> bytes:
        """The end of what is new in a file."""
        try:
            with os.fdopen(open_plain(path), "rb") as file:
                size = file.seek(0, os.SEEK_END)
                begin = max(self._ends[path], size - _READ_BYTES)
                file.seek(begin)
                data = file.read(size - begin)
        except OSError:  # gone, or a disk that fails for a moment
            return b""
        cut = re.search(rb"[\r\n]", data) if begin > self._ends[path] else None  # the first line is not whole
        self._ends[path] = begin + end_of_lines(data)
        return data if cut is None else data[cut.start() :]
