"""Metrics of a script that reports none: read in what it prints for people, and written to a source of their own.

`session-N.printed` in the run directory has a JSON line for each line that was understood, with the step that the
training was at about then: it cannot be known later. Whatever the script or a hook reports wins: from
the first metric that is reported on, nothing more is read.
"""

import json
import os
import time
from collections.abc import Collection, Sequence
from contextlib import suppress

import msgspec

from backprop.records import Source
from backprop.store.files import open_to_append
from backprop.store.metric_names import is_training_loss
from backprop.store.output import protocol
from backprop.store.output.outlook import Outlook
from backprop.store.output.printed import MAX_LINE, Reader
from backprop.store.output.printed_position import Printed
from backprop.store.output.tail import LineBlock, Tail
from backprop.store.rundir import RunDir
from backprop.trainer import save_marks

_PATIENCE_S = 3.0  # for the next number of steps: an evaluation makes none
_BAR_EVERY_S = 1.0  # how often a progress bar is looked at, which has no end of line until it is full
_COUNTED_LINE = "printed line"  # the unit of steps if nothing else is counted
_LOOK_S = 0.5  # of a look: the supervisor must not be blocked, and a script may print faster than that
_PIECE_BYTES = 1 << 16  # read between two looks at the clock, even where nothing in it is understood
_LAST_S = 2.0  # at the end of a session, for what could not be read while it went on


class PrintedMetrics:
    """Those of one session."""

    def __init__(
        self,
        rundir: RunDir,
        session: int,
        patterns: Sequence[str],
        outlook: Outlook,
        *,
        offered: str | None = None,
    ) -> None:
        """patterns: see printed.Reader. offered: the checkpoint that it is to continue from.

        outlook: knows whether a printed total covers the training, or one of its parts.
        """
        self._outlook = outlook
        self._path = rundir.source_path(session, Source.PRINTED)
        outputs = (rundir.out_path(session), rundir.err_path(session))
        self._readers = [(Tail(path, 0), Reader(patterns)) for path in outputs]
        self._is_reported = False
        # of the line that was placed last
        self._step = 0 if offered is None else _step_before(rundir, session, offered)
        self._unit: str | None = None  # of the steps, according to the lines
        self._has_total = False  # one was written
        self._has_steps = False  # some line had a step of its own
        self._counted = 0  # optimizer steps, as of the last look
        self._waiting: list[Printed] = []  # lines without a step, until more optimizer steps are counted
        self._waits_since = 0.0
        self._sampled: Collection[str] | None = None
        self._has_curve = False  # of a printed training loss
        self._losses: set[str] = set()  # those that were printed until then
        self._held: dict[str, str] = {}  # loss -> its first line, until then or until it turns out not to be sampled
        self._has_written = False
        self._marks: list[str] = []  # of checkpoints, until there is a line: a file of marks alone says nothing
        self._bars: dict[Tail, str] = {}  # the newest of each, as it was printed
        self._bars_at = 0.0

    def look(
        self,
        counted_step: int | None,
        *,
        sampled: Collection[str] | None = None,
        is_behind: bool = False,
        is_over: bool = False,
        within_s: float = _LAST_S,
    ) -> None:
        """Read on. counted_step: of the optimizer, if it is counted. is_over: nothing is printed any more; read it all.

        sampled: names of losses that are sampled by now; None: none ever is. One printed point of such a name does not
        take their place; two do. Whether it has such a name is known at the next look, before which all was read that
        was reported before it was printed; or at a later one, where events were left unread (is_behind).
        within_s: where it is over, what cannot be read in this time is left out.
        """
        self._sampled = sampled
        with suppress(OSError):  # of a disk that fails for a moment: training continues, and the next look reads on
            if not is_behind:
                self._release()
            self._look(counted_step, is_over=is_over, within_s=within_s)
            if is_over:
                self._release()

    def _look(self, counted_step: int | None, *, is_over: bool, within_s: float) -> None:
        now = time.monotonic()
        give_up_at = now + (within_s if is_over else _LOOK_S)
        has_more = True
        while has_more and not self._is_reported:
            has_more, lines = False, []
            for tail, reader in self._readers:
                if (stretch := tail.read(is_over=is_over)) is not None:
                    if tail is self._readers[0][0] and protocol.digest(stretch.data).series:
                        self._is_reported = True  # as JSON lines on stdout; the index may be too busy to take them
                        return
                    found, end = _read(reader, stretch, give_up_at)
                    has_more = is_over and now < give_up_at
                    tail.move_to(end)
                    lines += self._lines(found)
            lines += self._of_bars(now)
            if self._has_steps and self._unit == _COUNTED_LINE:
                lines += self._named("step")
            lines += self._placed(counted_step, now, is_over=is_over and not has_more)
            self._write(lines)
            now = time.monotonic()

    def _release(self) -> None:
        """Write the first values of losses that are not sampled."""
        lines = [self._held.pop(name) for name in list(self._held) if name not in (self._sampled or ())]
        if lines and not self._is_reported:
            # the script is further than they are
            self._write([*lines, f"{json.dumps({'step': self._step, 'printed': True})}\n"])

    def note_saved(self, checkpoint: str, counted_step: int | None) -> None:
        """Mark that a checkpoint was saved before the last look, at this optimizer step if they are counted."""
        self._marks.append(f"{save_marks.mark(Source.PRINTED.value, max(self._step, counted_step or 0), checkpoint)}\n")
        if self._has_written:
            self._write(())

    def _write(self, lines: Sequence[str]) -> None:
        """Write lines, and the marks that came before them."""
        self._has_written |= bool(lines)
        if self._has_written and (text := "".join([*self._marks, *lines])):
            self._marks.clear()
            # a full disk: what the script printed is kept, these are not
            with suppress(OSError), os.fdopen(open_to_append(self._path), "a") as file:
                file.write(text)

    @property
    def has_unread(self) -> bool:
        """Whether there is output that was not read."""
        with suppress(OSError):
            return not self._is_reported and any(tail.read(is_over=True) is not None for tail, _ in self._readers)
        return False

    def _of_bars(self, now: float) -> list[str]:
        """What progress bars show now: each is drawn over the one before, on a line that ends when all is done."""
        if now - self._bars_at < _BAR_EVERY_S:
            return []
        self._bars_at = now
        found = []
        for tail, reader in self._readers:
            before, text = self._bars.get(tail), tail.unfinished(MAX_LINE).decode(errors="replace")
            self._bars[tail] = text
            if "\r" in text and text != before and (bar := reader.read_unfinished(text)) is not None:
                found.append(bar)
        return self._lines(found)

    def _lines(self, printed: Sequence[Printed]) -> list[str]:
        """Lines for those that say at which step they are; others wait."""
        return [self._line(found, found.step) for found in map(self._of_training, printed) if not self._waits(found)]

    def _of_training(self, found: Printed) -> Printed:
        """The same, without its step if that is one of an epoch."""
        is_part = found.total_steps is not None and self._outlook.is_part(found.total_steps)
        return msgspec.structs.replace(found, step=None, total_steps=None) if is_part else found

    def _waits(self, found: Printed) -> bool:
        if found.step is not None or not found.values:
            self._has_steps = self._has_steps or found.step is not None
            return found.step is None
        if not self._waiting:
            self._waits_since = time.monotonic()
        self._waiting.append(found)
        return True

    def _placed(self, counted_step: int | None, now: float, *, is_over: bool) -> list[str]:
        """The lines that have waited for a step, where they need not wait any longer.

        The hooks report the number of steps once a second, and lines are read as rarely: those in between are placed
        evenly.
        """
        is_counted = counted_step is not None and counted_step > max(self._counted, self._step)
        has_patience = counted_step is not None and now - self._waits_since < _PATIENCE_S and not is_over
        if not self._waiting or (has_patience and not is_counted):
            return []
        waiting, self._waiting = self._waiting, []
        begin, count = self._step, len(waiting)
        if counted_step is None:
            # nothing else is counted
            unit = [] if self._has_steps else self._named(_COUNTED_LINE)
            return [*unit, *(self._line(found, begin + at) for at, found in enumerate(waiting, 1))]
        self._counted = counted_step
        end = max(begin, counted_step)
        return [self._line(found, begin + (end - begin) * number // count) for number, found in enumerate(waiting, 1)]

    def _named(self, unit: str) -> list[str]:
        """The event that names what one step is, if that has changed."""
        if unit == self._unit:
            return []
        self._unit = unit
        return [f"{json.dumps({'event': 'unit', 'unit': unit})}\n"]

    def _line(self, found: Printed, step: int | None) -> str:
        self._step = step or 0
        line: dict[str, object] = {"step": self._step, "printed": True}
        if found.total_steps is not None and (self._has_total or self._outlook.is_total(found.total_steps)):
            self._has_total = True  # from now on each line has its own, so that no old total stands beside other steps
            line["total_steps"] = found.total_steps
        named = self._named(found.unit) if found.unit is not None else []
        values = found.values if self._has_curve else self._without_single_losses(found.values)
        if self._has_curve:
            named, self._held = [*self._held.values(), *named], {}
        return "".join([*named, f"{json.dumps(line | values)}\n"])

    def _without_single_losses(self, values: dict[str, float]) -> dict[str, float]:
        """The values to write now: without a first one of a loss that may be sampled."""
        losses = set(filter(is_training_loss, values))
        self._has_curve = not self._losses.isdisjoint(losses)
        self._losses |= losses
        if self._has_curve or self._sampled is None:
            return values
        for name in losses:
            self._held[name] = f"{json.dumps({'step': self._step, 'printed': True, name: values[name]})}\n"
        return {name: value for name, value in values.items() if name not in losses}


def _read(reader: Reader, stretch: LineBlock, until: float) -> tuple[list[Printed], int]:
    """What a stretch contains, read until about this monotonic instant; and where reading ended."""
    found: list[Printed] = []
    data, begin = stretch.data, 0
    while begin < len(data):
        end = data.rfind(b"\n", begin, begin + _PIECE_BYTES) + 1 or data.find(b"\n", begin) + 1 or len(data)
        for at, printed in reader.read(data[begin:end]):
            found.append(printed)
            if time.monotonic() > until:
                return found, stretch.start + begin + at
        begin = end
        if begin < len(data) and time.monotonic() > until:
            return found, stretch.start + begin
    return found, stretch.end


def _step_before(rundir: RunDir, session: int, checkpoint: str) -> int:
    """The step that was read last before a checkpoint of an earlier session was saved; 0 where none was."""
    return save_marks.last_step_before(str(rundir.path), Source.PRINTED.value, session, checkpoint) or 0
