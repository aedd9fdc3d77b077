"""Signals for the process that answers for a run: it has the run's journal open, and no other process has.

The pid in a journal may be another process's by now, or of another machine or container that has the same name.
"""

import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from backprop import host


def signal_holder(journal_path: Path, pid: int, number: signal.Signals) -> bool:
    """Send a signal to the process of this pid, if it is one that has the journal open. Gives whether it was sent."""
    if host.table_problem() is not None:
        return False  # unknown who has it open
    return host.send(pid, lambda: has_open(pid, journal_path), number)


def has_open(pid: int, path: Path) -> bool:
    """Whether a process of this machine has a file open; False where that cannot be seen."""
    try:
        wanted = path.stat()
        if sys.platform != "linux":
            return any(path.samefile(file.path) for file in psutil.Process(pid).open_files())
        folder = Path(f"/proc/{pid}/fd")
        names = os.listdir(folder)  # noqa: PTH208  names, not paths
    except (OSError, psutil.Error):  # it has ended, or is not ours to look into
        return False
    for name in names:
        with suppress(OSError):  # closed meanwhile
            if os.path.samestat((folder / name).stat(), wanted):
                return True
    return False
