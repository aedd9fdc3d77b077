"""Other processes, by number: whether the numbers that are seen are ours, and a signal to one process and no other.

A number says little: the process may have ended and another one have it, and in a container the table in /proc may be
of another namespace of pids, where the same number means a stranger.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")


def table_problem() -> str | None:
    """Why the process table does not show who is who; None where it can be trusted."""
    if sys.platform != "linux":
        return None
    own_pid = os.getpid()
    try:
        seen = os.readlink(_PROC / "self")  # noqa: PTH115  a number, not a path
        numbers = _own_numbers()
    except OSError:
        return "there is no process table in /proc of which this process is a part"
    if seen != str(own_pid) or len(numbers) > 1:
        return f"/proc is of another namespace of pids: process {own_pid} is {seen} there"
    return None


def _own_numbers() -> list[bytes]:
    """The pids of this process, from the namespace that /proc is of down to its own. Empty before Linux 4.1."""
    for line in (_PROC / "self" / "status").read_bytes().splitlines():
        if line.startswith(b"NSpid:"):
            return line.split()[1:]
    return []


def namespace() -> str | None:
    """The namespace of pids that this process is in; None where nobody can tell."""
    with suppress(OSError):
        return os.readlink(_PROC / "self" / "ns" / "pid")  # noqa: PTH115  no path, but "pid:[4026531836]"
    return None


def send(pid: int, is_the_one: Callable[[], bool], number: signal.Signals) -> bool:
    """Send a signal to the process of this pid if it is the one that is meant. Gives whether it was sent.

    is_the_one: asked once the process can be held on to, where the system has handles for processes.
    """
    if pid <= 1:  # os.kill takes these for whole groups of processes; 1 is the system's
        return False
    handle = None
    try:
        handle = _handle(pid)
        if not is_the_one():
            return False
        if handle is None:
            os.kill(pid, number)
        else:
            signal.pidfd_send_signal(handle, number)
    except (ProcessLookupError, PermissionError):  # it has ended, or is not ours to signal
        return False
    finally:
        if handle is not None:
            os.close(handle)
    return True


def _handle(pid: int) -> int | None:
    """Something that stays the process's when its number becomes another's; None where there is no such thing.

    Raises ProcessLookupError.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError):  # not Linux, a kernel before 5.3, a sandbox that forbids it, no file left
        return None
