"""Files of a run's directory, and of nowhere else, in bounded pieces.

What lies there may come from anybody's archive: a link that leads elsewhere is not followed, a pipe not waited for.
"""

import os
import pwd
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from backprop.errors import BackpropError
from backprop.trainer import atomic_files, plain_files

_T = TypeVar("_T")
UNDECODABLE = (ValueError, RecursionError)  # what msgspec raises for any bytes: its own errors are ValueErrors


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
        """Whether the file ends with it."""
        return self.begin + len(self.data) == self.size


def last_lines(fd: int, max_bytes: int, *, begin: int = 0, end: int | None = None) -> Piece:
    """The bytes from `begin` to `end` (None: the end of the file); of more than `max_bytes`, the last lines.

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


class NotAFileError(BackpropError, OSError):
    """A folder, a FIFO, a device or a link lies where a run's file belongs."""


class UnreadableError(BackpropError):
    """A file of a run that is damaged, or not ours to read."""


def open_plain(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of the file at this very path; one that is made is the owner's alone.

    Raises NotAFileError at once for anything that is not a file; any other OSError as `os.open` does.
    """
    try:
        return plain_files.open_plain(path, flags)
    except OSError as error:
        if error.errno in plain_files.NOT_A_FILE:
            raise NotAFileError(
                f"{path} is not a file, and is not read: put the file back, or remove what lies there."
            ) from error
        raise


def open_to_append(path: Path) -> int:
    """A descriptor to append to the file at this very path, made where it is not there. Raises as `open_plain`."""
    fd = open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.set_blocking(fd, True)  # a child may inherit it
    return fd


def send_output_to(fd: int) -> None:
    """Write the output of this process to this open file from here on; the descriptor itself is closed."""
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)


def read_plain(path: Path) -> bytes:
    """All of the file. Raises as `open_plain`."""
    with os.fdopen(open_plain(path), "rb") as file:
        return file.read()


def read_record(path: Path, type_: type[_T]) -> _T:
    """The record in a JSON file. Raises FileNotFoundError, or UnreadableError for anything but a valid record."""
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
    """The name of the user who owns a file; None if we own it, or that is unknown."""
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
    return None if is_allowed(path, os.R_OK | os.W_OK) else owner_name(path)


def is_allowed(path: "str | Path", access: int) -> bool:
    """Whether we may use a file so (os.R_OK, os.W_OK)."""
    return os.access(path, access, effective_ids=os.access in os.supports_effective_ids)


def replacing_foreign(path: Path, use: Callable[[Path], _T]) -> _T:
    """Apply `use` to a file in our own folder; if another user owns the file, remove it first. Raises OSError."""
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
