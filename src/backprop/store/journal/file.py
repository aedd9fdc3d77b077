"""The file journal.jsonl: what was done about a run (or a sweep) and why, one entry per line.

The supervisor appends while it is alive. A command that requests something of it (lifecycle/requests.py) appends the
request, and a process that finds the supervisor dead appends the end. fold.py turns entries into a Run. The kernel's
lock on the file marks the owner of the run: the kernel releases it as soon as its holder dies.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

from backprop.store.files import open_plain, read_plain, write_plain
from backprop.store.journal.entries import SYNCED, AnyEntry, Entry, encode, parse
from backprop.store.rundir import NO_ROOM

_E = TypeVar("_E", bound=AnyEntry)

_ASKED = "asked"  # folder of a run, for requests
HEARTBEAT_INTERVAL_S = 10.0  # between two updates of the file's modification time by the process that has it locked
_TAKEN = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK}  # what a kernel says of a lock that another process has
_LOOKING_S = 0.01  # a look at the lock is shorter
HEARTBEAT_TIMEOUT_S = 35.0  # without an update its holder counts as lost; on a busy machine it may be late


def read(path: Path) -> tuple[list[Entry], int]:
    """All entries, and how many bytes they are. Raises OSError, but not when there is no journal yet."""
    try:
        return parse(read_plain(path))
    except FileNotFoundError:
        return [], 0


def pending_requests(path: Path) -> list[Entry]:
    """Requests to the run (see `Journal.ask`) that are not in its journal yet, oldest first."""
    asked_path = path.with_name(_ASKED)
    entries: list[Entry] = []
    for name in _request_names(asked_path):
        with suppress(OSError):  # it was handled a moment ago
            entries += parse(read_plain(asked_path / name) + b"\n")[0]
    return entries


def _request_names(asked_path: Path) -> list[str]:
    """The names of the requests, in the order in which they were made."""
    try:
        return sorted(name for name in os.listdir(asked_path) if not name.startswith("."))  # noqa: PTH208
    except OSError:  # there was no request yet, or a shared file system fails for a moment
        return []


class JournalFile(Generic[_E]):
    """Appends entries to a journal, and reads what any process appended."""

    def __init__(
        self,
        path: Path,
        parse: Callable[[bytes], tuple[list[_E], int]],
        synced: tuple[type[_E], ...],
        *,
        is_read_only: bool = False,
        fd: int | None = None,
    ) -> None:
        """Open for appending, or only to look: what is appended then stays in memory. Raises OSError.

        parse: see `parse_lines`. synced: entries that must survive a power failure.
        fd: of a file that is already open for reading and appending; closed by this object.
        """
        self._parse = parse
        self._synced = synced
        flags = os.O_RDONLY if is_read_only else os.O_RDWR | os.O_APPEND | os.O_CREAT
        self._fd = open_plain(path, flags) if fd is None else fd
        self._is_read_only = is_read_only
        self.is_locked = False  # by this object
        self._asked_path = path.with_name(_ASKED)
        self._unwritten: list[tuple[bytes, bool]] = []
        self._read_to = 0
        self._next_heartbeat_at = 0.0  # monotonic
        self._handled: set[str] = set()  # requests that are in the journal, but could not be deleted

    def close(self) -> None:
        """Close the file, which releases its lock."""
        os.close(self._fd)

    def try_lock(self) -> bool:
        """Own the run until the journal is closed or this process dies. False if another process owns it."""
        if not self._has_lock(fcntl.LOCK_EX):
            return False
        self.is_locked = True
        return True

    def own(self) -> bool:
        """The same, but wait for processes that only look at the lock."""
        while not self.try_lock():
            if self.is_owned():
                return False
            time.sleep(_LOOKING_S)
        return True

    def is_owned(self) -> bool:
        """Whether another process owns the run. A look: others may look at once."""
        if self.is_locked:
            return False
        if not self._has_lock(fcntl.LOCK_SH):
            return True
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        return False

    def _has_lock(self, kind: int) -> bool:
        """Take a lock on the file; False if that of another process excludes it."""
        try:
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            raise
        return True

    def is_in_place(self, path: Path) -> bool:
        """Whether the file that we have open is the one at this path: not removed, nor replaced."""
        try:
            return os.path.samestat(path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False
        except OSError:  # a shared file system that fails for a moment
            return True

    def unlock(self) -> None:
        """Give up the run: this process writes nothing more about it."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        self.is_locked = False

    def ask(self, entry: _E) -> None:
        """Leave a request for the owner of the run, which writes it into the journal when it handles it.

        In a file of its own, because on a shared file system two machines cannot append to one file safely. Raises
        OSError.
        """
        self._asked_path.mkdir(mode=0o700, exist_ok=True)
        name = f"{time.time_ns()}-{os.uname().nodename}-{os.getpid()}"
        draft = self._asked_path / f".{name}"
        write_plain(draft, encode(entry))
        draft.rename(self._asked_path / name)

    def take_requests(self) -> None:
        """Write pending requests into the journal, which must be locked. One failed `listdir` if there are none.

        On a full disk a request stays where it is until there is room.
        """
        self.beat()
        for name in self._requests():
            if name not in self._handled and not self._take(name):
                return
            with suppress(OSError):  # a shared file system that fails for a moment: at the next look
                (self._asked_path / name).unlink()
                self._handled.discard(name)

    def beat(self) -> None:
        """Send a heartbeat, when one is due, to other machines, on which our lock is not visible: see `lost_in_s`."""
        now = time.monotonic()
        if now >= self._next_heartbeat_at:
            self._next_heartbeat_at = now + HEARTBEAT_INTERVAL_S
            with suppress(OSError):  # a shared file system that fails for a moment
                os.utime(self._fd)

    def has_recent_heartbeat(self, now_unix_s: float) -> bool:
        """Whether the holder of the lock was alive recently. now_unix_s: by the clock of the file system's server."""
        return self.lost_in_s(now_unix_s) > 0

    def lost_in_s(self, now_unix_s: float) -> float:
        """Seconds until the holder of the lock counts as lost, unless it sends a heartbeat; 0 or less: it does."""
        return os.fstat(self._fd).st_mtime + HEARTBEAT_TIMEOUT_S - now_unix_s

    def _take(self, name: str) -> bool:
        """Write one request into the journal. False if that must be retried."""
        if not self.append():
            return False
        try:
            entries, _ = self._parse(read_plain(self._asked_path / name) + b"\n")
        except OSError:  # as above: it must not end the supervisor
            return False
        if not self.append(*entries):
            self._unwritten.clear()  # else it would be written twice: its file is read again
            return False
        self._handled.add(name)
        return True

    def forget_requests(self) -> None:
        """Delete pending requests: they were meant for a session that will not start. The journal must be locked.

        Raises OSError: a request that stays would apply to the next session, which has the same number.
        """
        for name in self._requests():
            (self._asked_path / name).unlink(missing_ok=True)

    def _requests(self) -> list[str]:
        return _request_names(self._asked_path)

    def skip(self) -> None:
        """Let `read_new` skip what is in the journal by now."""
        self._read_to = self.size_bytes()

    def size_bytes(self) -> int:
        """Bytes in the file now, those of other processes included."""
        return os.fstat(self._fd).st_size

    def append(self, *entries: _E) -> bool:
        """Write entries in order. Those that change the run's state are synced to disk when this returns.

        On a full or failing disk entries are kept and retried at the next call, so that training and its supervisor
        continue. Returns False while there are unwritten entries.
        """
        self._unwritten += [(encode(entry), isinstance(entry, self._synced)) for entry in entries]
        while self._unwritten and not self._is_read_only:
            line, synced = self._unwritten[0]
            try:
                self._write_line(line)
                if synced:
                    os.fsync(self._fd)
            except OSError as error:
                if error.errno not in {*NO_ROOM, errno.EIO}:
                    raise
                return False
            self._unwritten.pop(0)
        return not self._unwritten

    @property
    def unwritten(self) -> list[_E]:
        """Entries for which the disk has no room."""
        return self._parse(b"".join(line + b"\n" for line, _ in self._unwritten))[0]

    def drop_unwritten(self) -> None:
        """Discard unwritten entries: what they record was not done."""
        self._unwritten.clear()

    def _write_line(self, line: bytes) -> None:
        # one write a line: O_APPEND keeps lines of several processes apart. A line cut short by a full disk
        # or a power loss ends here, so that it cannot swallow the next one
        size = self.size_bytes()
        torn = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + line + b"\n"
        if os.write(self._fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read_new(self) -> list[_E]:
        """Entries since the last call, this process's own included, after pending requests were written.

        The journal must be locked. Cheap if there are none.
        """
        self.take_requests()
        unread = self.size_bytes() - self._read_to
        if unread <= 0:
            return []
        entries, length = self._parse(os.pread(self._fd, unread, self._read_to))
        self._read_to += length
        return entries


class Journal(JournalFile[Entry]):
    """The journal of a run."""

    def __init__(self, path: Path, *, is_read_only: bool = False, fd: int | None = None) -> None:
        super().__init__(path, parse, SYNCED, is_read_only=is_read_only, fd=fd)
