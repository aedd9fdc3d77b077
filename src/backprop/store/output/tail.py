"""Read a growing file by whole lines, in bounded memory, from an offset that only ever lies between lines."""

import os
import stat
from pathlib import Path
from typing import BinaryIO, NamedTuple

from backprop.store.files import open_plain
from backprop.store.output.protocol import MAX_LINE_BYTES

READ_BYTES = MAX_LINE_BYTES + 1  # a stretch is at most this long, so a line that is understood always fits
_SKIP_BYTES = 64 * READ_BYTES  # how much of an endless line is looked through in one call


class LineBlock(NamedTuple):
    """Whole lines, and where they lie. `data` is empty for a line that is too long to be understood."""

    data: bytes
    start: int
    end: int


def size_bytes(path: Path) -> int:
    """How long a file is; 0 when it is not there, or anything else is."""
    try:
        info = path.lstat()
    except FileNotFoundError:
        return 0
    return info.st_size if stat.S_ISREG(info.st_mode) else 0


class Tail:
    """Reads the output of one session. Opens the file for each look: it may not be there yet."""

    def __init__(self, path: Path, offset: int) -> None:
        self._path = path
        self.offset = offset
        self._searched_to = offset  # no newline between offset and here

    def move_to(self, offset: int) -> None:
        """Continue from here: another process has read up to it."""
        self.offset = self._searched_to = offset

    def read(self, *, is_over: bool = False) -> LineBlock | None:
        """The next stretch of whole lines, or None when there is none yet. Does not move: see `move_to`.

        is_over: nothing is written any more, so that text after the last newline is a line too.
        """
        size = size_bytes(self._path)
        if size <= self._searched_to and not (is_over and size > self.offset):
            return None
        try:
            fd = open_plain(self._path)
        except PermissionError:  # another user's: what follows is read without it
            return None
        with os.fdopen(fd, "rb") as file:
            file.seek(self.offset)
            data = file.read(READ_BYTES)
            end = data.rfind(b"\n") + 1
            if end:
                return LineBlock(data[:end], self.offset, self.offset + end)
            if len(data) < READ_BYTES:
                self._searched_to = self.offset + len(data)
                return LineBlock(data, self.offset, self.offset + len(data)) if is_over and data else None
            return self._skip_long_line(file, is_over=is_over)

    def unfinished(self, limit: int) -> bytes:
        """The last bytes, up to this many, of what is written so far of a line that has no end yet. Does not move."""
        size = size_bytes(self._path)
        if size <= self.offset:
            return b""
        with self._path.open("rb") as file:
            file.seek(max(self.offset, size - limit))
            return file.read(limit).rpartition(b"\n")[2]

    def _skip_long_line(self, file: BinaryIO, *, is_over: bool) -> LineBlock | None:
        file.seek(max(self._searched_to, self.offset + READ_BYTES))
        pause_at = file.tell() + _SKIP_BYTES
        while data := file.read(READ_BYTES):
            found = data.find(b"\n")
            if found >= 0:
                return LineBlock(b"", self.offset, file.tell() - len(data) + found + 1)
            self._searched_to = file.tell()
            if self._searched_to >= pause_at and not is_over:
                return None  # continued at the next call, so as not to block the supervisor
        return LineBlock(b"", self.offset, file.tell()) if is_over else None
