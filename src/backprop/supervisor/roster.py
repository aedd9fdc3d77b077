"""The processes of a trainer's tree, recorded while its supervisor is alive, so that recovery can end them.

The mark in their environment is not enough to find them later: a process that changes its title overwrites its
environment, and one may be started without any. A process is identified by its pid and start time, within one boot of
the machine and one pid namespace: neither alone is unique. In a copy of the run directory the file is ignored: that
trainer may well have a supervisor.
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


class _RosterFile(Record, frozen=True):
    """The file's content."""

    session: int
    boot_id: str | None
    pid_namespace: str | None
    folder: tuple[int, int] | None  # device and inode of the run directory
    members: tuple[tuple[int, float], ...]  # pid and start: see `_start_of`


class Roster:
    """The file of one session. It is written when the tree has changed since the last call."""

    def __init__(self, path: Path, session: int, boot_id: str | None) -> None:
        self._path = path
        self._session = session
        self._boot_id = boot_id
        self._starts: dict[Process, float] = {}

    def record(self, members: Iterable[Process]) -> None:
        """Record the members of the tree. Reads the start of new ones, and writes a small file when any are new."""
        starts: dict[Process, float] = {}
        for process in members:
            start = self._starts.get(process) or _start_of(process)
            if start is not None and len(starts) < _MAX_MEMBERS:
                starts[process] = start
        if starts.keys() != self._starts.keys() and self._write(starts):
            self._starts = starts

    def remove(self) -> None:
        """Remove the file: nothing is left of the tree."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _write(self, starts: dict[Process, float]) -> bool:
        members = tuple((process.pid, start) for process, start in starts.items())
        roster = _RosterFile(
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
    """Recorded processes of this session that still run; none where their identity cannot be checked."""
    try:
        roster = read_record(path, _RosterFile)
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
    """When a process started, in clock ticks since the boot: changes of the clock do not affect it."""
    try:
        if not _PROC.joinpath("self", "stat").exists():
            return float(process.create_time())
        stat = host.process_stat(process.pid)
        start = None if stat is None else float(stat[19])
        return start if process.is_running() else None  # its pid may have been reused before it was read
    except (psutil.Error, OSError, ValueError, IndexError):
        return None


def _folder(path: Path) -> tuple[int, int] | None:
    try:
        info = path.parent.stat()
    except OSError:
        return None
    return info.st_dev, info.st_ino
