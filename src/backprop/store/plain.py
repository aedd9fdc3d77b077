"""Opening the files of a run when somebody else may have put something in their place.

A FIFO there would keep its reader waiting for ever, and a link would show what lies elsewhere.
"""

import errno
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from backprop.errors import BackpropError

_T = TypeVar("_T")
UNDECODABLE = (ValueError, RecursionError)  # what msgspec raises for any bytes: its own errors are ValueErrors


class NotAFileError(BackpropError, OSError):
    """A folder, a FIFO, a device or a link lies where a run's file belongs."""


class UnreadableError(BackpropError):
    """A file of a run that is damaged, or not ours to read."""


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


def read_record(path: Path, type_: type[_T]) -> _T:
    """What the JSON file says. Raises FileNotFoundError, or UnreadableError for anything but a valid record."""
    try:
        return msgspec.json.decode(read_plain(path), type=type_)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except UNDECODABLE as error:
        raise UnreadableError(f"{path.name} is damaged: {error}") from error


def unreadable(path: Path, error: OSError) -> UnreadableError:
    """The error to raise for a file that the system does not let us read: whose it is, where that is the reason."""
    if isinstance(error, NotAFileError):
        return UnreadableError(str(error))
    whose = owner_name(path) or owner_name(path.parent) if isinstance(error, PermissionError) else None
    belongs = "" if whose is None else f": it belongs to user {whose}"
    return UnreadableError(f"{path.name} cannot be read{belongs} ({error.strerror})")


def owner_name(path: Path) -> str | None:
    """The user whom a file belongs to; None where that is us, or nobody can tell."""
    try:
        uid = path.lstat().st_uid
    except OSError:
        return None
    if uid == os.geteuid():
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def foreign_owner(path: Path) -> str | None:
    """The other user who keeps this file or folder from us; None where it is not there, or we can write to it."""
    if os.access(path, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        return None
    return owner_name(path)


def replacing_foreign(path: Path, use: Callable[[Path], _T]) -> _T:
    """What `use` makes of a file in a folder of ours, where another user's is removed first. Raises OSError."""
    try:
        return use(path)
    except PermissionError:
        path.unlink()
        return use(path)


def make_own_folder(path: Path) -> None:
    """A folder that only we can look into; what another user left in its place is set aside. Raises OSError."""
    path.mkdir(mode=0o700, exist_ok=True)
    if (owner := foreign_owner(path)) is not None:
        path.rename(path.with_name(f"{path.name}.of-{owner}-{os.urandom(3).hex()}"))
        path.mkdir(mode=0o700)
    elif path.stat().st_uid == os.geteuid() and path.stat().st_mode & 0o077:
        path.chmod(0o700)


def write_plain(path: Path, data: bytes) -> None:
    """Give the file this content; one that is made is the owner's alone. Raises as `open_plain`."""
    with os.fdopen(open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as file:
        file.write(data)


def _refusal(path: Path) -> NotAFileError:
    return NotAFileError(f"{path} is not a file, and is not read: put the file back, or remove what lies there.")
