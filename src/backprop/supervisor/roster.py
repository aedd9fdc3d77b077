"""The processes of a trainer's tree, written down while its supervisor lives.

The mark in their environment is not enough to find them once it is dead: a process that gives itself another title
writes over its environment, and one may be started with none. A process is known by its pid and its start, within one
boot of the machine and one namespace of pids: neither alone says that it is not another's by now. In a copy of the run
directory the file counts for nothing: its trainer may well have a supervisor.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil
from psutil import Process

from backprop import host
from backprop.records import Record
from backprop.store.files import UnreadableError, read_record
from backprop.trainer.atomic_files import drafted

_MAX_MEMBERS = 10_000
_PROC = Path("/proc")


class _Roster(Record, frozen=True):
    """The file's content."""

    session: int
    boot_id: str | None
    pid_namespace: str | None
    folder: tuple[int, int] | None  # device and inode of the run directory
    members: tuple[tuple[int, float], ...]  # pid and start, as `_start` tells it


class Roster:
    """The file of one session. It is written when the tree has changed since the last call."""

    def __init__(self, path: Path, session: int, boot_id: str | None) -> None:
        self._path = path
        self._session = session
        self._boot_id = boot_id
        self._starts: dict[Process, float] = {}

    def record(self, members: Iterable[Process]) -> None:
        """Take down who belongs to the tree. Costs a look at each that is new, and a small file when there are any."""
        starts: dict[Process, float] = {}
        for process in members:
            start = self._starts.get(process) or _start_of(process)
            if start is not None and len(starts) < _MAX_MEMBERS:
                starts[process] = start
        if starts.keys() != self._starts.keys() and self._write(starts):
            self._starts = starts

    def remove(self) -> None:
        """There is nobody left to be known by it."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _write(self, starts: dict[Process, float]) -> bool:
        members = tuple((process.pid, start) for process, start in starts.items())
        roster = _Roster(
            session=self._session,
            boot_id=self._boot_id,
            pid_namespace=host.namespace(),
            folder=_folder(self._path),
            members=members,
        )
        try:
            with drafted(str(self._path), 0o600) as draft:
                Path(draft).write_bytes(msgspec.json.encode(roster))
        except OSError:  # a full disk: the next call tries again
            return False
        return True


def living(path: Path, session: int, boot_id: str | None) -> list[Process]:
    """Those that were written down for this session and are still the same; none where that cannot be told."""
    try:
        roster = read_record(path, _Roster)
    except (FileNotFoundError, UnreadableError):
        return []
    place = (roster.session, roster.boot_id, roster.pid_namespace, roster.folder)
    if place != (session, boot_id, host.namespace(), _folder(path)) or host.table_problem() is not None:
        return []
    found = []
    for pid, start in roster.members:
        with suppress(psutil.Error):
            process = Process(pid)
            if pid != os.getpid() and _start_of(process) == start:
                found.append(process)
    return found


def _start_of(process: Process) -> float | None:
    """When it started, as the kernel counts: unlike a time of day, the clock's changes do not move it."""
    try:
        if not _PROC.joinpath("self", "stat").exists():
            return float(process.create_time())
        stat = _PROC.joinpath(str(process.pid), "stat").read_bytes()
        start = float(stat.rpartition(b")")[2].split()[19])  # proc(5): its name may hold anything
        return start if process.is_running() else None  # its pid was another's by the time it was read
    except (psutil.Error, OSError, ValueError, IndexError):
        return None


def _folder(path: Path) -> tuple[int, int] | None:
    try:
        info = path.parent.stat()
    except OSError:
        return None
    return info.st_dev, info.st_ino
