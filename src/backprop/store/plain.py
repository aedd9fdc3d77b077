"""Opening the files of a run when somebody else may have put something in their place.

A FIFO there would keep its reader waiting for ever, and a link would show what lies elsewhere.
"""

import errno
import os
import stat
from pathlib import Path

from backprop.errors import BackpropError


class NotAFileError(BackpropError, OSError):
    """A folder, a FIFO, a device or a link lies where a run's file belongs."""


def open_plain(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of the file at this very path; one that is made is the owner's alone.

    Raises NotAFileError at once for anything that is not a file; any other OSError as `os.open` does.
    """
    try:
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        # a link, a folder opened for writing, and a FIFO that nobody reads, a socket
        if error.errno in {errno.ELOOP, errno.EISDIR, errno.ENXIO}:
            raise _refusal(path) from error
        raise
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _refusal(path)
    return fd


def read_plain(path: Path) -> bytes:
    """All of the file. Raises as `open_plain`."""
    with os.fdopen(open_plain(path), "rb") as file:
        return file.read()


def write_plain(path: Path, data: bytes) -> None:
    """Give the file this content; one that is made is the owner's alone. Raises as `open_plain`."""
    with os.fdopen(open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        file.write(data)


def _refusal(path: Path) -> NotAFileError:
    return NotAFileError(f"{path} is not a file, and is not read: put the file back, or remove what lies there.")
