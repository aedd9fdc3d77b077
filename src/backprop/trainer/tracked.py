"""What the script logs to trackers (TensorBoard, W&B, ...), for the record: scalars enter, lines of JSON leave.

The taps in hooks/trackers call `add` after the tracker has taken a scalar. That only appends to a list; a thread writes
the list to `session-N.tracked` a moment later, because a system call for each scalar would cost more than all the rest.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import threading
import time
from _thread import allocate_lock
from contextlib import suppress
from typing import Any, Iterator, Optional

from . import distributed, file_events, save_marks
from .channel import EventsFile, as_number
from .failsafe import is_off, turn_off
from .link import SupervisorLink, current

_KIND = "tracked"  # the ending of its file, and the mark of its lines
WRITE_EVERY_S = 0.1  # what is logged is in the file after this time
_MAX_PENDING = 1000  # scalars that are kept where no thread can write them
_END = ', "tracked": true}'
_RESERVED = ("step", "event", "tracked")  # keys that mean something else in a line
# in the place of a tracker: a checkpoint of this name was saved; a place of the tracker of this name was closed
_SAVED, _CLOSED = "", "closed"

Scalar = tuple[str, str, str, float, Optional[int], bool]  # tracker, place, name, value, step, whether we may shift it


class TrackedMetrics:
    """The scalars of this process that are not written yet, and the names under which they are recorded."""

    def __init__(self, link: SupervisorLink) -> None:
        """Touches no file."""
        self._link = link
        self._file = EventsFile(os.path.join(link.run_dir, f"session-{link.session_number}.{_KIND}"))
        self._pending: list[Scalar] = []
        self._is_due = False  # the thread will look
        self._is_rank_0 = False  # when the first of them was added: its process group may be gone when they are written
        self._asleep = allocate_lock()  # not an Event, whose lock a signal handler that logs would wait for forever
        self._asleep.acquire()
        self._writing = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._first: dict[str, tuple[str, str]] = {}  # name -> tracker and place that logged it first
        self._names: dict[tuple[str, str, str], Optional[str]] = {}  # see _name
        self._counts: dict[str, int] = {}  # of these -> scalars without a step
        self._begin: Optional[int] = None  # see _first_step
        self._counted_step: Optional[int] = None  # the greatest of these, in this session
        os.register_at_fork(after_in_child=self._forget_parent)

    def add(self, tracker: str, place: str, name: str, value: Any, step: Any, *, is_shifted: bool = False) -> None:
        """Keep a scalar. What is not a number is left out.

        place: tells apart what one tracker logs under one name at the same time; may be empty. step: None where the
        tracker got none. is_shifted: the tracker counts from 0 in every session.
        """
        number = value if type(value) is float else as_number(value)
        if number is None:
            return
        if type(step) is not int and step is not None:
            step = int(step)
        self._pending.append((tracker, place, name, number, step, is_shifted))
        if not self._is_due:
            self._wake()

    def saved(self, checkpoint: str) -> None:
        """Keep that a checkpoint was saved, for a session that continues from it."""
        self._note(_SAVED, "", os.path.abspath(checkpoint))

    def closed(self, tracker: str, place: str) -> None:
        """Keep that a run of a tracker is over: the next one to log the same names continues its curves."""
        self._note(_CLOSED, place, tracker)

    def _note(self, kind: str, place: str, name: str) -> None:
        if self._names or self._pending:  # else nothing was logged
            self._pending.append((kind, place, name, 0.0, None, False))
            if not self._is_due:
                self._wake()

    def _wake(self) -> None:
        self._is_rank_0 = distributed.rank() == 0
        self._is_due = True
        if self._thread is None and not self._start():
            self._is_due = False
            if len(self._pending) >= _MAX_PENDING:
                self.write()
            return
        with suppress(RuntimeError):  # another thread has just done the same
            self._asleep.release()

    def _start(self) -> bool:
        """Start the thread that writes; False where no thread can be started: a limit, or Python is exiting."""
        thread = threading.Thread(target=self._write_forever, name="backprop-tracked", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        self._write_at_end_of_worker()
        return True

    def _write_at_end_of_worker(self) -> None:
        # a worker of multiprocessing ends without `atexit`, and forgets what its parent has registered
        if (multiprocessing := sys.modules.get("multiprocessing.util")) is not None:
            multiprocessing.Finalize(None, self.write, exitpriority=0)

    def _write_forever(self) -> None:
        while True:
            self._asleep.acquire()
            time.sleep(WRITE_EVERY_S)
            self._is_due = False  # before it is read: what is added afterwards wakes us again
            self.write()

    def write(self) -> None:
        """Write what there is, from rank 0 only."""
        with self._writing:
            scalars = self._pending[:]
            del self._pending[: len(scalars)]
            if scalars and self._is_rank_0 and not is_off("trackers"):
                try:
                    if distributed.rank() == 0:
                        self._file.send_lines(self._lines(scalars))
                except Exception as error:  # noqa: BLE001  a step or a name that nobody expects
                    turn_off("trackers", error)

    def _lines(self, scalars: list[Scalar]) -> Iterator[str]:
        """A line of JSON for scalars that follow each other at one step."""
        # assembled by hand, and in one function: this is most of what a scalar costs
        line, line_step = "", 0
        names: set[str] = set()  # in the line
        for scalar in scalars:
            source = scalar[:3]
            name = self._names[source] if source in self._names else self._name(*source)
            if name is None:
                if source[0] == _SAVED and self._counted_step is not None:
                    if line:
                        yield line + _END
                        line = ""
                    yield save_marks.mark(_KIND, self._counted_step, source[2])
                continue
            value, step, is_shifted = scalar[3:]
            if step is None or is_shifted:
                step = self._first_step() + (self._count(name) if step is None else step)
                self._counted_step = max(step, self._counted_step or 0)
            if step != line_step or name in names or not line:
                if line:
                    yield line + _END
                line, line_step = f'{{"step": {step}', step
                names.clear()
            names.add(name)
            line += f"{name}{value!r}" if value - value == 0 else f"{name}{json.dumps(value)}"
        if line:
            yield line + _END

    def _name(self, tracker: str, place: str, name: str) -> Optional[str]:
        """The name in the record, as it stands in a line; None for what another tracker has logged: once is enough."""
        if tracker == _SAVED:
            return None
        if tracker == _CLOSED:
            self._first = {key: first for key, first in self._first.items() if first != (name, place)}
            return None
        first, first_place = self._first.setdefault(name, (tracker, place))
        if name in _RESERVED or first != tracker:
            found = None
        else:
            found = name if first_place == place else f"{os.path.basename(place)}/{name}"
        self._names[tracker, place, name] = spelt = None if found is None else f", {json.dumps(found)}: "
        return spelt

    def _count(self, name: str) -> int:
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        return count

    def _first_step(self) -> int:
        """What is added to steps that are counted: in a resumed session, they follow those before the checkpoint."""
        if self._begin is None:
            link = self._link
            before = None
            if link.offered is not None:
                before = save_marks.last_step_before(link.run_dir, _KIND, link.session_number, link.offered)
            self._begin = 0 if before is None else before + 1
        return self._begin

    def _forget_parent(self) -> None:
        """After a fork: the parent writes what it has kept, and threads are not copied."""
        self._pending.clear()
        self._thread = None
        self._is_due = False
        self._asleep, self._writing = allocate_lock(), threading.Lock()
        self._asleep.acquire()


_tracked: Optional[TrackedMetrics] = None


def tracked() -> TrackedMetrics:
    """The one of this process, which must be part of a run."""
    global _tracked  # noqa: PLW0603  one in a process
    if _tracked is None:
        link = current()
        if link is None:
            raise RuntimeError("not in a run")
        _tracked = TrackedMetrics(link)
        file_events.on_checkpoint_reported(lambda path, _: tracked().saved(path), "trackers")
    return _tracked


def _write_last() -> None:
    if _tracked is not None:
        _tracked.write()


atexit.register(_write_last)  # with the import of a tracker: what the script registers later runs before, and may log
