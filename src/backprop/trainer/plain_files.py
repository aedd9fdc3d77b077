"""The one way to open a file that lies in a run's directory, which may come from anybody's archive."""

from __future__ import annotations

import errno
import os
import stat

NOT_A_FILE = frozenset({errno.ELOOP, errno.EISDIR, errno.ENXIO})  # a link; a folder; a FIFO, a socket, a device


def append(path: str, data: bytes) -> None:
    """Append to a file, made where it is not there, in one write. Raises as `open_plain`."""
    fd = open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def open_plain(path: str | os.PathLike[str], flags: int = os.O_RDONLY) -> int:
    """A descriptor of the file at this very path; one that is made is the owner's alone.

    Raises OSError. Anything that is not a file is neither followed nor waited for: its `errno` is in NOT_A_FILE.
    """
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), os.fspath(path))
    return fd
