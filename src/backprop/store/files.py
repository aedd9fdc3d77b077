"""Files of a run's directory, and of nowhere else, in bounded pieces.

What lies there may come from anybody's archive: a link that leads elsewhere is not followed, a pipe not waited for.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from backprop.trainer import atomic_files


@contextmanager
def opened(run_dir: str | Path, name: str) -> Iterator[int | None]:
    """A regular file that lies in the directory itself; None where there is none."""
    fd = None
    with suppress(OSError):  # not there, not readable, a link: nothing to show
        folder = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        finally:
            os.close(folder)
    try:
        yield fd if fd is not None and stat.S_ISREG(os.fstat(fd).st_mode) else None
    finally:
        if fd is not None:
            os.close(fd)


class Piece(NamedTuple):
    """A piece of a file of lines."""

    data: bytes
    begin: int  # its first byte
    size: int  # of the whole file

    @property
    def is_last(self) -> bool:
        return self.begin + len(self.data) == self.size


def last_lines(fd: int, max_bytes: int, *, begin: int = 0, end: int | None = None) -> Piece:
    """What lies between two places, `end` at the end of the file unless told; of more than `max_bytes` the last lines.

    The last one may be unfinished. Of a single line that is too long its end.
    """
    size = os.fstat(fd).st_size
    end = size if end is None else min(end, size)
    start = max(begin, end - max_bytes)
    data = os.pread(fd, max(0, end - start), start)
    if start > begin:
        cut = data.find(b"\n", 0, len(data) - 1) + 1  # where the first whole line begins; 0: there is none
        data, start = data[cut:], start + cut
    return Piece(data, start, size)


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Give a file new content in one step: readers see the old or the new, never a half. Raises OSError.

    mode: its permissions, but for those that the umask takes.
    """
    with atomic_files.drafted(str(path), mode) as draft:
        Path(draft).write_bytes(data)
