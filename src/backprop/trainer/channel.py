"""The two files between this process and the supervisor: events are appended to one, requests are read from the other.

$BACKPROP_EVENTS gets a line of JSON for each event, so that the script's stdout stays the script's. The supervisor
writes its requests to $BACKPROP_CONTROL (control.json). The formats: docs/reference/json-lines.md, control-file.md.
"""

from __future__ import annotations

import errno
import json
import os
from functools import lru_cache
from time import monotonic

from .failsafe import guarded
from .plain_files import open_plain

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Iterable, Mapping, Optional

HOOK = "the supervisor"
POLL_INTERVAL_S = 0.1  # checking control.json costs microseconds, and a training step may take no longer
_DISK_IS_FULL = {errno.ENOSPC, errno.EDQUOT}


class EventsFile:
    """Appends events for the supervisor. Never raises: see failsafe.py."""

    def __init__(self, path: str) -> None:
        """The file is opened at the first event."""
        self._path = path
        self._fd: Optional[int] = None
        self._may_be_torn = False  # the last line may have been written in part

    def send(self, fields: Mapping[str, Any]) -> None:
        """Write an event as one line of JSON. What JSON has no type for becomes a number or text."""
        self._write(_encode(fields))

    def send_metrics(self, step: int, metrics: Mapping[str, Any], total_steps: Optional[int]) -> None:
        """Write metrics as one line of JSON, without those that are not numbers."""
        # assembled by hand, because this is done at every step: json.dumps alone takes longer than all of this
        line = f'{{"step": {_number_text(step)}'
        for name, value in metrics.items():
            text = _number_text(value)
            if text is not None and name not in {"step", "event"}:
                line += f", {_quoted(name)}: {text}"
        if total_steps is not None:
            line += f', "total_steps": {total_steps}'
        self._write(line + "}")

    def send_lines(self, lines: Iterable[str]) -> None:
        """Write lines of JSON in one go."""
        if text := "\n".join(lines):
            self._write(text)

    @guarded(HOOK)
    def _write(self, line: str) -> None:
        if self._fd is None:
            self._fd = open_plain(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        data = (("\n" if self._may_be_torn else "") + line + "\n").encode()
        self._may_be_torn = True
        try:
            # one write per line: lines of several processes do not mix, and nothing is lost when we are killed
            self._may_be_torn = os.write(self._fd, data) != len(data)
        except OSError as error:
            if error.errno not in _DISK_IS_FULL:  # the supervisor handles a full disk; later lines may fit again
                raise


class ControlFileReader:
    """What the supervisor requests, as of the last look at control.json."""

    def __init__(self, path: str) -> None:
        """Reads nothing yet."""
        self._path = path
        self._poll_at = 0.0
        self._version: Optional[tuple[int, int]] = None  # inode and time of the file that was read last
        self.stop_requested = False
        self.checkpoint_requests = 0  # how many so far
        self.deadline: Optional[float] = None  # the end of the timebox in monotonic seconds; None before the first read
        self.grace_s = 0.0
        self.is_checkpoint_read = False  # whether a process has read the checkpoint to resume from

    def poll(self) -> None:
        """Read the file, but no more often than every POLL_INTERVAL_S."""
        now = monotonic()
        if now >= self._poll_at:
            self._poll_at = now + POLL_INTERVAL_S
            self.read()

    def expire(self) -> None:
        """Let the next `poll` read the file, whenever that comes."""
        self._poll_at = 0.0

    @guarded(HOOK)
    def read(self) -> None:
        """Read the file if it has changed."""
        try:
            info = os.stat(self._path)
        except FileNotFoundError:
            return  # the record was removed while its run is running
        version = (info.st_ino, info.st_mtime_ns)
        if version == self._version:
            return
        with open(self._path, encoding="utf-8") as file:
            control = json.load(file)
        self._version = version
        self.stop_requested = bool(control["stop_wanted"])
        self.checkpoint_requests = int(control["checkpoint_wanted"])
        self.deadline = float(control["deadline_monotonic_s"])
        self.grace_s = float(control["grace_s"])
        self.is_checkpoint_read = bool(control.get("checkpoint_was_read", False))


def as_number(value: Any) -> Optional[float]:
    """A metric's value as a number: numbers, and tensors or arrays of one item; None for anything else."""
    if type(value) is float or type(value) is int:
        return value
    if isinstance(value, (bool, str, bytes)) or value is None:
        return None
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _number_text(value: Any) -> Optional[str]:
    """A metric's value as JSON; None when it is not a number."""
    number = as_number(value)
    if number is None:
        return None
    return repr(number) if number - number == 0 else json.dumps(number)  # NaN, Infinity


_quoted = lru_cache(maxsize=1000)(json.dumps)  # the same few names at every step


def _as_json(value: Any) -> Any:
    """Called for values that JSON has no type for."""
    number = as_number(value)
    return str(value) if number is None else number


_encode = json.JSONEncoder(default=_as_json).encode  # json.dumps would make one at every call
