"""journal.jsonl: what was done about a run and why, one entry a line, and the state that follows from it.

The supervisor appends while it lives; whoever asks something of it (see requests.py) appends the request, and whoever
finds the supervisor dead appends the ending. `fold` turns entries into a Run and is the only place that knows how.
The file's kernel lock says who answers for the run: it is free at the instant its holder dies.
"""

import errno
import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path

from backprop.store.files import open_plain, read_plain, write_plain
from backprop.store.journal.entries import (
    _SYNCED,
    Entry,
    _encode,
    parse,
)

_ASKED = "asked"  # folder of a run, for requests
HEARTBEAT_INTERVAL_S = 10.0  # that whoever has a journal locked says by the time of its last change: I live
_LIFE_S = 35.0  # that it is believed: a machine so busy that its supervisor is late is not a lost one


def read(path: Path) -> tuple[list[Entry], int]:
    """All entries, and how many bytes they are. Raises OSError, but not when there is no journal yet."""
    try:
        return parse(read_plain(path))
    except FileNotFoundError:
        return [], 0


def pending_requests(path: Path) -> list[Entry]:
    """What was asked of the run with this journal (see `Journal.ask`), and is not in it yet: oldest first."""
    asked_path = path.with_name(_ASKED)
    entries: list[Entry] = []
    for name in _request_names(asked_path):
        with suppress(OSError):  # it was heard a moment ago
            entries += parse(read_plain(asked_path / name) + b"\n")[0]
    return entries


def _request_names(asked_path: Path) -> list[str]:
    """The names of the requests, in the order in which they were made."""
    try:
        return sorted(name for name in os.listdir(asked_path) if not name.startswith("."))  # noqa: PTH208
    except OSError:  # nobody ever asked; or a shared file system that fails for a moment
        return []


class Journal:
    """Appends entries to a journal; reads from it as it grows, whoever wrote."""

    def __init__(self, path: Path, *, is_read_only: bool = False, fd: int | None = None) -> None:
        """Open for appending, or only to see who has it locked. Raises OSError.

        fd: of a file that is open for both already, and is closed by this object.
        """
        flags = os.O_RDONLY if is_read_only else os.O_RDWR | os.O_APPEND | os.O_CREAT
        self._fd = open_plain(path, flags) if fd is None else fd
        self.is_locked = False  # by this object
        self._asked_path = path.with_name(_ASKED)
        self._unwritten: list[tuple[bytes, bool]] = []
        self._read_to = 0
        self._next_sign_at = 0.0  # monotonic
        self._heard: set[str] = set()  # requests that are in the journal, and could not be taken away

    def close(self) -> None:
        """Close the file; its lock, if held, is free from now on."""
        os.close(self._fd)

    def try_lock(self) -> bool:
        """Take the run for this process until the journal is closed or the process dies; False if it is taken."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK}:
                return False
            raise
        self.is_locked = True
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
        """Leave the run to whoever wants it: nothing of ours is to come."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        self.is_locked = False

    def ask(self, entry: Entry) -> None:
        """Leave a request to whoever has the run locked on another machine; it lands in the journal when heard.

        A file system that several machines share does not keep apart what two of them append to one file. Raises
        OSError.
        """
        self._asked_path.mkdir(mode=0o700, exist_ok=True)
        name = f"{time.time_ns()}-{os.uname().nodename}-{os.getpid()}"
        draft = self._asked_path / f".{name}"
        write_plain(draft, _encode(entry))
        draft.rename(self._asked_path / name)

    def take_requests(self) -> None:
        """Write down what others asked for. Costs one failed look where nobody ever did.

        Call it with the journal locked. On a full disk a request lies where it is until there is room.
        """
        self._give_sign_of_life()
        for name in self._requests():
            if name not in self._heard and not self._take(name):
                return
            with suppress(OSError):  # a shared file system that fails for a moment: at the next look
                (self._asked_path / name).unlink()
                self._heard.discard(name)

    def _give_sign_of_life(self) -> None:
        """A heartbeat, for other machines, on which our lock is not seen: see `has_recent_heartbeat`."""
        now = time.monotonic()
        if now >= self._next_sign_at:
            self._next_sign_at = now + HEARTBEAT_INTERVAL_S
            with suppress(OSError):  # a shared file system that fails for a moment
                os.utime(self._fd)

    def has_recent_heartbeat(self, now_unix_s: float) -> bool:
        """Whether its holder has been at work lately. now_unix_s: by the clock of the file system's server."""
        return now_unix_s - os.fstat(self._fd).st_mtime < _LIFE_S

    def _take(self, name: str) -> bool:
        """Write one request down; False when that must be tried again."""
        if not self.append():
            return False
        try:
            entries, _ = parse(read_plain(self._asked_path / name) + b"\n")
        except OSError:  # as above: whoever trains must not be ended by it
            return False
        if not self.append(*entries):
            self._unwritten.clear()  # else it would be written twice: its file is read again
            return False
        self._heard.add(name)
        return True

    def forget_requests(self) -> None:
        """Throw away what nobody heard: it was asked of a session that will not be. Call it with the journal locked.

        Raises OSError: what stays would be asked of the next session, which has the same number.
        """
        for name in self._requests():
            (self._asked_path / name).unlink(missing_ok=True)

    def _requests(self) -> list[str]:
        return _request_names(self._asked_path)

    def skip(self) -> None:
        """What is in the journal by now is no news to `read_new`."""
        self._read_to = self.size_bytes()

    def size_bytes(self) -> int:
        return os.fstat(self._fd).st_size

    def append(self, *entries: Entry) -> bool:
        """Write entries in order; those that change the run's state are on the disk when this returns.

        On a full disk they are kept and tried again at the next call: training goes on, and so must its supervisor.
        Returns False while something waits to be written.
        """
        self._unwritten += [(_encode(entry), isinstance(entry, _SYNCED)) for entry in entries]
        while self._unwritten:
            line, synced = self._unwritten[0]
            try:
                self._write_line(line)
                if synced:
                    os.fsync(self._fd)
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
                    raise
                return False
            self._unwritten.pop(0)
        return True

    @property
    def unwritten(self) -> list[Entry]:
        """What the disk has no room for."""
        return parse(b"".join(line + b"\n" for line, _ in self._unwritten))[0]

    def drop_unwritten(self) -> None:
        """Forget what could not be written: it was not done."""
        self._unwritten.clear()

    def _write_line(self, line: bytes) -> None:
        # one write a line: O_APPEND keeps lines of several processes apart. A line cut short by a full disk
        # or a power loss ends here, so that it cannot swallow the next one
        size = self.size_bytes()
        torn = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + line + b"\n"
        if os.write(self._fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read_new(self) -> list[Entry]:
        """Entries since the last call, this process's own included, and what others asked for.

        Call it with the journal locked. Costs little when there are none.
        """
        self.take_requests()
        unread = self.size_bytes() - self._read_to
        if unread <= 0:
            return []
        entries, length = parse(os.pread(self._fd, unread, self._read_to))
        self._read_to += length
        return entries
