"""Signals for the process that answers for a run: it has the run's journal open, and no other process has.

The pid in a journal may be another process's by now, or of another machine or container that has the same name.
"""

import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

import psutil

from backprop import host


def signal_holder(journal_path: Path, pid: int, number: signal.Signals) -> bool:
    """Send a signal to the process of this pid, if it is one that has the journal open. Gives whether it was sent."""
    if host.table_problem() is not None:
        return False  # nobody can tell who has it open
    return host.send(pid, lambda: _has_open(pid, journal_path), number)


def open_removed_journals(runs_path: Path) -> dict[str, int]:
    """The journals of runs in this folder that were removed while a process has them open, opened anew (Linux).

    By run id. Looks at every process that we may look into.
    """
    if sys.platform != "linux" or host.table_problem() is not None:
        return {}
    # how the kernel names an open file that has no name any more: proc_pid_fd(5)
    name = re.compile(rf"{re.escape(str(runs_path))}/([^/]+)/journal\.jsonl \(deleted\)")
    found: dict[str, int] = {}
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):  # it has ended, or is not ours to look into
            match = name.fullmatch(os.readlink(path))  # noqa: PTH115  a name, not a path
            if match is not None and match[1] not in found:
                fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
                if os.readlink(own_path(fd)) == match[0]:  # noqa: PTH115  else the number is another process's by now
                    found[match[1]] = fd
                else:
                    os.close(fd)
    return found


def own_path(fd: int) -> Path:
    """A path of a file that this process has open (Linux): it leads there, whatever becomes of the file's names."""
    return Path(f"/proc/self/fd/{fd}")


def _has_open(pid: int, path: Path) -> bool:
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
