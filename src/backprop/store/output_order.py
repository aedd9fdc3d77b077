"""session-N.order: in which order a trainer's stdout and stderr grew, as far as its supervisor saw it.

Lines carry no time, and the two files know nothing of one another. The supervisor looks at both several times a second,
and notes how long they were whenever stderr has grown. Of what was written between two notes the order is not known.
"""

import os
import struct
from pathlib import Path
from typing import NamedTuple

from backprop.store.files import open_to_append, read_plain

_FORM = struct.Struct("<QQ")  # of a note
_RELATIVE = 0.001  # notes are so far apart, of the time of training: a day of progress bars needs some 7,000


class OrderNote(NamedTuple):
    """How long both files were at one instant, in bytes."""

    out_bytes: int
    err_bytes: int


class OrderNotes:
    """Writes them for one session. Nothing but a view depends on it: where it cannot be written, it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._noted_err_bytes = 0
        self._noted_s = 0.0
        self._is_over = False

    def look(self, at_s: float, out_bytes: int, err_bytes: int) -> None:
        """The files are so long now. at_s: seconds of training."""
        if self._is_over or err_bytes == self._noted_err_bytes or at_s - self._noted_s < _RELATIVE * at_s:
            return
        self._noted_err_bytes, self._noted_s = err_bytes, at_s
        note = _FORM.pack(out_bytes, err_bytes)
        try:
            fd = open_to_append(self._path)
            try:
                self._is_over = os.write(fd, note) < len(note)  # half a note: whatever followed it would be misread
            finally:
                os.close(fd)
        except OSError:  # a full disk, a deleted folder: training continues
            self._is_over = True


def read(path: Path) -> list[OrderNote]:
    """All notes of a session in their order; empty if there are none. Raises OSError."""
    try:
        data = read_plain(path)
    except FileNotFoundError:
        return []
    return [OrderNote(*found) for found in _FORM.iter_unpack(data[: len(data) // _FORM.size * _FORM.size])]
