"""What the script logs to trackers (TensorBoard, W&B, ...), for the record: scalars enter, lines of JSON leave.

The taps in hooks/trackers call `add` after the tracker has taken a scalar. That only appends to a list; a thread writes
the list to `session-N.tracked` a moment later, so that a scalar costs about a microsecond, and no system call.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import threading
import time
from _thread import allocate_lock
from contextlib import suppress
from typing import Any, Callable, Iterator, Optional

from . import distributed
from .channel import EventsFile, as_number
from .failsafe import is_off, turn_off
from .link import SupervisorLink, current

WRITE_EVERY_S = 0.1  # what is logged is in the file after this time
_LAST_BYTES = 1 << 16  # of a file: its last line is read from these

Scalar = tuple[str, str, str, float, Optional[int], bool]  # tracker, place, name, value, step, whether we may shift it


class TrackedMetrics:
    """The scalars of this process that are not written yet, and the names under which they are recorded."""

    def __init__(self, link: SupervisorLink) -> None:
        """Touches no file."""
        self._link = link
        self._file = EventsFile(_path(link, link.session_number))
        self._pending: list[Scalar] = []
        self._is_due = False  # the thread will look
        self._asleep = allocate_lock()  # not an Event, whose lock a signal handler that logs would wait for forever
        self._asleep.acquire()
        self._writing = threading.Lock()
        self._thread: Optional[threading.Thread] = None
        self._sources: dict[str, tuple[str, str]] = {}  # name -> tracker and place that logged it first
        self._counts: dict[str, int] = {}  # name in the record -> scalars without a step
        self._begin: Optional[int] = None  # see _first_step
        atexit.register(self.write)
        os.register_at_fork(after_in_child=self._forget_parent)

    def add(self, tracker: str, place: str, name: str, value: Any, step: Any, *, is_shifted: bool = False) -> None:
        """Keep a scalar. What is not a number is left out.

        place: tells apart what one tracker logs under the same name; may be empty. step: None where the tracker got
        none. is_shifted: the tracker counts from 0 in every session.
        """
        number = value if type(value) is float else as_number(value)
        if number is None:
            return
        if type(step) is not int and step is not None:
            step = int(step)
        self._pending.append((tracker, place, name, number, step, is_shifted))
        if not self._is_due:
            self._wake()

    def _wake(self) -> None:
        self._is_due = True
        # RuntimeError: another thread has just done the same; or Python is exiting, and `write` comes last
        with suppress(RuntimeError):
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_forever, name="backprop-tracked", daemon=True)
                self._thread.start()
            self._asleep.release()

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
            if scalars and distributed.rank() == 0 and not is_off("trackers"):
                try:
                    self._file.send_tracked(self._rows(scalars))
                except Exception as error:  # noqa: BLE001  a step or a name that nobody expects
                    turn_off("trackers", error)

    def _rows(self, scalars: list[Scalar]) -> Iterator[tuple[int, dict[str, float]]]:
        """Scalars that follow each other at one step share a row."""
        row: dict[str, float] = {}
        row_step = 0
        for tracker, place, name, value, step, is_shifted in scalars:
            curve = self._curve(tracker, place, name)
            if curve is None:
                continue
            at = self._count(curve) if step is None else step
            if is_shifted or step is None:
                at += self._first_step()
            if row and (at != row_step or curve in row):
                yield row_step, row
                row = {}
            row_step = at
            row[curve] = value
        if row:
            yield row_step, row

    def _curve(self, tracker: str, place: str, name: str) -> Optional[str]:
        """The name in the record; None for what another tracker logs, too, which is recorded once."""
        first, first_place = self._sources.setdefault(name, (tracker, place))
        if first != tracker:
            return None
        return name if first_place == place else f"{os.path.basename(place)}/{name}"

    def _count(self, curve: str) -> int:
        count = self._counts.get(curve, 0)
        self._counts[curve] = count + 1
        return count

    def _first_step(self) -> int:
        """What is added to steps that are counted: in a resumed session, they follow those of the session before."""
        if self._begin is None:
            before = _path(self._link, self._link.session_number - 1)
            self._begin = _last_step(before) + 1 if self._link.is_resumed else 0
        return self._begin

    def _forget_parent(self) -> None:
        """After a fork: the parent writes what it has kept, and threads are not copied."""
        self._pending.clear()
        self._thread = None
        self._is_due = False
        self._asleep, self._writing = allocate_lock(), threading.Lock()
        self._asleep.acquire()


def _path(link: SupervisorLink, session: int) -> str:
    return os.path.join(link.run_dir, f"session-{session}.tracked")


def _last_step(path: str) -> int:
    """The step of the last line of a file; -1 if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.path.getsize(path) - _LAST_BYTES))
            return int(json.loads(file.read().splitlines()[-1])["step"])
    except (OSError, ValueError, LookupError):
        return -1


_tracked: Optional[TrackedMetrics] = None


def tracked() -> TrackedMetrics:
    """The one of this process, which must be part of a run."""
    global _tracked  # noqa: PLW0603  one in a process
    if _tracked is None:
        link = current()
        if link is None:
            raise RuntimeError("not in a run")
        _tracked = TrackedMetrics(link)
    return _tracked


def after(original: Callable[..., Any], tap: Callable[..., None], what: str) -> Callable[..., Any]:
    """The original function, after which `tap` is called with the same arguments. It is turned off when it fails."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if not is_off(what):
            try:
                tap(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  a version of the library that we do not know
                turn_off(what, error)
        return result

    return call
