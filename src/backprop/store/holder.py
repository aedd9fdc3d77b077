"""Signals for the process that answers for a run: it has the run's journal open, and no other process has.

The pid in a journal may be another process's by now, or of another machine or container that has the same name.
"""

import os
import signal
from contextlib import suppress
from pathlib import Path

import psutil


def signal_holder(journal_path: Path, pid: int, number: signal.Signals) -> bool:
    """Send a signal to the process of this pid, if it is one that has the journal open. Gives whether it was sent."""
    if pid <= 1:  # os.kill takes these for whole groups of processes; 1 is the system's
        return False
    with suppress(OSError, psutil.Error):  # it has ended, or is not ours
        if not hasattr(os, "pidfd_open"):
            if not _has_open(pid, journal_path):
                return False
            os.kill(pid, number)
            return True
        handle = os.pidfd_open(pid)  # first: from here on it is one process and no other
        try:
            if _has_open(pid, journal_path):
                signal.pidfd_send_signal(handle, number)
                return True
        finally:
            os.close(handle)
    return False


def _has_open(pid: int, path: Path) -> bool:
    wanted = path.stat()
    folder = Path(f"/proc/{pid}/fd")
    if not Path("/proc/self/fd").exists():
        return any(path.samefile(file.path) for file in psutil.Process(pid).open_files())
    for name in os.listdir(folder):  # noqa: PTH208  names, not paths
        with suppress(OSError):  # closed meanwhile
            if os.path.samestat((folder / name).stat(), wanted):
                return True
    return False
