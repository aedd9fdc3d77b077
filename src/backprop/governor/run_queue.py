"""The run queue and its slots: one ticket for each active or queued run of a home.

<home>/line/<host>/
  lock                       held for milliseconds by a process that joins or admits; contains the last number issued
  0000000012-<run-id>        a ticket; the run's supervisor holds its kernel lock, which is free when that dies

A ticket is written by its owner only, one line per change; the last complete line counts. Its number is its position,
less its priority: see `turn`.
"""

import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from backprop import host
from backprop.governor.reservations import STEADY_S, held_back_bytes
from backprop.governor.start_policy import Reservation
from backprop.records import MAX_PRIORITY, Record, Ticket
from backprop.store.files import make_own_folder, replacing_foreign

_TICKET = re.compile(r"(\d{10})-(.+)")
_TAIL_BYTES = 16_384
LOCK_PATIENCE_S = 2.0  # the queue's lock is held for milliseconds


class QueueEntry(Record, frozen=True):
    """A ticket and its position in the queue."""

    number: int
    ticket: Ticket | None  # None: alive, but not readable

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a slot."""
        return self.ticket is not None and not self.ticket.is_running

    @property
    def holds_a_slot(self) -> bool:
        """Whether it counts as active; one that cannot be read does."""
        return not self.is_waiting


def promise(entry: QueueEntry, before: QueueEntry | None, now_unix_s: float) -> Reservation:
    """What an active run was admitted for and does not use yet.

    before: its entry from before the machine was read: later use is not in that reading yet.
    """
    ticket = entry.ticket
    if ticket is None:
        return Reservation(run_id="?")
    earlier = before.ticket if before is not None else None
    if earlier is None or not earlier.is_running:
        return _reserved(ticket, ticket.ram_bytes, ticket.vram_bytes)
    grown_unix_s, seen = earlier.grown_unix_s, earlier.vram_seen_bytes
    steady_s = None if grown_unix_s is None else now_unix_s - grown_unix_s
    if seen is None:
        is_over = now_unix_s - ticket.since_unix_s > STEADY_S  # it cannot be read: by now it is taken for used
        vram = {} if is_over else dict(ticket.vram_bytes)
    else:
        vram = {uuid: held_back_bytes(size, seen.get(uuid, 0), steady_s) for uuid, size in ticket.vram_bytes.items()}
    ram_bytes = held_back_bytes(ticket.ram_bytes, earlier.ram_seen_bytes, steady_s)
    return _reserved(ticket, ram_bytes, vram)


def _reserved(ticket: Ticket, ram_bytes: int, vram_bytes: Mapping[str, int]) -> Reservation:
    return Reservation(run_id=ticket.run_id, label=ticket.label, ram_bytes=ram_bytes, vram_bytes=vram_bytes)


def promises(entries: Sequence[QueueEntry], before: Sequence[QueueEntry], but: int | None = None) -> list[Reservation]:
    """The reservations of all active runs. but: the number of a ticket to leave out."""
    known = {entry.number: entry for entry in before}
    now = time.time()
    held = [entry for entry in entries if entry.holds_a_slot and entry.number != but]
    return [promise(entry, known.get(entry.number), now) for entry in held]


def turn(number: int, priority: int) -> tuple[int, int]:
    """Where a ticket stands in the queue: the lowest first.

    Each place of priority outweighs one later arrival. Since priority is bounded, a run is overtaken by fewer than
    MAX_PRIORITY of those that came after it, however many keep coming: nobody starves.
    """
    return number - max(-MAX_PRIORITY, min(priority, MAX_PRIORITY)), number


def in_order(entries: Iterable[QueueEntry]) -> list[QueueEntry]:
    """In the order of their turns; those that cannot be read, which do not wait, first."""
    return sorted(entries, key=lambda one: turn(one.number, one.ticket.priority if one.ticket else MAX_PRIORITY))


def ahead_of(entries: Sequence[QueueEntry], number: int, priority: int = 0) -> list[QueueEntry]:
    """The runs ahead of this ticket in the queue, in order. One that is suspended is passed."""
    own = turn(number, priority)
    return [
        entry
        for entry in in_order(entries)
        if entry.is_waiting
        and entry.ticket is not None
        and not entry.ticket.is_away
        and turn(entry.number, entry.ticket.priority) < own
    ]


def to_be_first(entries: Sequence[QueueEntry], numbers: Sequence[int]) -> list[int]:
    """The priorities with which these tickets come first, in this order; as close to that as priorities go."""
    turns = {one.number: turn(one.number, one.ticket.priority)[0] for one in entries if one.ticket and one.is_waiting}
    # none of them gets a later turn than it has
    after = min(at + 1 if number in numbers else at for number, at in turns.items())
    wanted = [number - (after - len(numbers) + place) for place, number in enumerate(numbers)]
    return [max(-MAX_PRIORITY, min(priority, MAX_PRIORITY)) for priority in wanted]


def in_the_way_of(entries: Sequence[QueueEntry], within: str | None) -> list[QueueEntry]:
    """The entries that a run may wait for: not the runs that it was started inside, nor runs that wait for those.

    within: the innermost run that it was started inside, if any. Waiting for that would be a deadlock.
    """
    running = {entry.ticket.run_id: entry.ticket for entry in entries if entry.ticket and entry.ticket.is_running}
    outer: set[str] = set()
    while within in running and within not in outer:
        outer.add(within)
        within = running[within].within
    if not outer:
        return list(entries)
    tickets = [(entry, entry.ticket) for entry in entries]
    return [
        entry
        for entry, ticket in tickets
        if ticket is None or (ticket.run_id not in outer and (ticket.is_running or ticket.within in outer))
    ]


class QueueLockedError(Exception):
    """The queue's lock has been held for longer than any operation under it takes."""


class QueueSlot:
    """A run's own ticket. Its slot or position is given up when it is closed or its process dies."""

    def __init__(self, queue: "RunQueue", number: int, ticket: Ticket) -> None:
        """Make the ticket; to be called by `RunQueue.join` under the queue's lock. Raises OSError."""
        path = self.path = queue.path(number, ticket.run_id)
        self._queue = queue
        self.number = number
        self.ticket = ticket
        # readable by everyone with access to the folder: the home's owner must see the slots of runs by root
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            self.change()
        except OSError:
            self.leave()
            raise

    def change(self, **changes: object) -> None:
        """Write a changed ticket, for others to read. Raises OSError."""
        self.ticket = msgspec.structs.replace(self.ticket, **changes)
        # a line cut short by a full disk must not swallow this one
        os.write(self._fd, b"\n" + msgspec.json.encode(self.ticket) + b"\n")

    def try_to_change(self, **changes: object) -> None:
        """The same, for changes that may be late: a full disk is no error."""
        with suppress(OSError):
            self.change(**changes)

    def ahead(self, entries: Sequence[QueueEntry]) -> list[QueueEntry]:
        """The runs ahead of this one, of these entries."""
        return ahead_of(entries, self.number, self.ticket.priority)

    def others(self) -> "list[QueueEntry]":
        """All other living tickets."""
        return [entry for entry in self._queue.read() if entry.number != self.number]

    def leave(self) -> None:
        """Give up the position or the slot."""
        with suppress(OSError):
            self.path.unlink()
        os.close(self._fd)


class RunQueue:
    """The tickets of one home on one machine."""

    def __init__(self, folder: Path, host: str) -> None:
        self._folder = folder / host
        self._lock_path = self._folder / "lock"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the queue's lock: no other run joins or is admitted meanwhile. Raises QueueLockedError, or OSError."""
        make_own_folder(self._folder.parent)
        make_own_folder(self._folder)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        fd = replacing_foreign(self._lock_path, lambda path: os.open(path, flags, 0o600))
        try:
            give_up_at = time.monotonic() + LOCK_PATIENCE_S
            while not _is_locked_now(fd):
                if time.monotonic() > give_up_at:
                    raise QueueLockedError(str(self._lock_path))
                time.sleep(0.01)
            yield
        finally:
            os.close(fd)

    def join(self, ticket: Ticket) -> QueueSlot:
        """Join the queue at its end. To be called within `alone`. Raises OSError."""
        last = max((number for number, _ in self._tickets()), default=0)
        with suppress(ValueError):  # new, or damaged: the living tickets keep their order all the same
            last = max(last, int(self._lock_path.read_bytes()))
        self._lock_path.write_text(f"{last + 1}\n")
        return QueueSlot(self, last + 1, ticket)

    def path(self, number: int, run_id: str) -> Path:
        """The file of a ticket. Its name sorts by number, because that is the order of the queue."""
        return self._folder / f"{number:010}-{run_id}"

    def read(self, own: QueueSlot | None = None, *, tidy: bool = False) -> list[QueueEntry]:
        """The living tickets, in order. tidy: remove dead ones; only within `alone`, or a new one could be removed."""
        entries = []
        for number, path in self._tickets():
            if own is not None and number == own.number:
                entries.append(QueueEntry(number=number, ticket=own.ticket))
            elif _is_alive(path):
                entries.append(QueueEntry(number=number, ticket=_present(_last_line(path))))
            elif tidy:
                with suppress(OSError):  # another user's: it is ignored by all
                    path.unlink()
        return entries

    def still_waits(self, entry: QueueEntry) -> bool:
        """Whether a run ahead is still queued. Reads one file."""
        if entry.ticket is None:
            return False
        path = self.path(entry.number, entry.ticket.run_id)
        if not _is_alive(path):
            return False
        ticket = _present(_last_line(path))
        return ticket is not None and not ticket.is_running and not ticket.is_away

    def _tickets(self) -> list[tuple[int, Path]]:
        try:
            names = os.listdir(self._folder)  # noqa: PTH208  names, not paths
        except FileNotFoundError:
            return []
        return sorted(
            (int(match[1]), self._folder / name) for name in names if (match := _TICKET.fullmatch(name)) is not None
        )


def _is_locked_now(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(path: Path) -> bool:
    """Whether a ticket's owner is alive: whether its lock is held."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def _last_line(path: Path) -> Ticket | None:
    with suppress(OSError):
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
        for line in reversed(lines[:-1]):
            with suppress(msgspec.DecodeError):
                return msgspec.json.decode(line, type=Ticket)
    return None


def _present(ticket: Ticket | None) -> Ticket | None:
    """The ticket, marked as away when its owner is suspended while it waits."""
    if ticket is not None and not ticket.is_running and is_stopped(ticket.pid):
        return msgspec.structs.replace(ticket, is_away=True)
    return ticket


def is_stopped(pid: int) -> bool:
    """Whether this process is suspended (Linux): it could not start its run."""
    stat = host.process_stat(pid)
    return stat is not None and stat[:1] in ([b"T"], [b"t"])
