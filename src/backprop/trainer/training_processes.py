"""Which processes of a session train: the supervisor interrupts them at the end, and no worker."""

from __future__ import annotations

import os
from contextlib import suppress
from time import monotonic
from typing import Optional

from .plain_files import open_plain

_ALONE_AFTER_S = 2.0  # processes that train side by side begin within this time


class TrainingProcesses:
    """The list of them in the run directory, as this process knows it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._own_pid: Optional[int] = None  # as it was registered
        self._registered_at = 0.0
        self._are_several = False  # some trained at the same time

    def register(self) -> bool:
        """Add this process, once. Returns whether it was added now."""
        pid = os.getpid()  # a fork of this process has another
        if self._own_pid == pid:
            return False
        self._own_pid, self._registered_at = pid, monotonic()
        _append_process(self._path, pid)
        return True

    def is_alone(self) -> bool:
        """Whether this process has trained for a moment, and no other one has at the same time."""
        if not self._are_several:
            try:
                with os.fdopen(open_plain(self._path), encoding="ascii") as file:
                    others = {int(line.split()[0]) for line in file if line.endswith("\n")} - {os.getpid()}
            except (OSError, ValueError):  # a full disk: not known
                return False
            self._are_several = any(map(_is_alive, others))
        is_registered = self._own_pid == os.getpid()
        return is_registered and not self._are_several and monotonic() >= self._registered_at + _ALONE_AFTER_S


def _append_process(path: str, pid: int) -> None:
    """Add this process to the list of those that train."""
    with suppress(OSError):  # a full disk: the supervisor finds out by itself, or interrupts it like the others
        fd = open_plain(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(fd, f"{pid} {_start_ticks()}\n".encode())
        finally:
            os.close(fd)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _start_ticks() -> str:
    """When this process started, in clock ticks since the boot (proc(5)): pids are reused."""
    try:
        with open("/proc/self/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[19].decode()
    except OSError:
        return "-"
