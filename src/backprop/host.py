"""The local machine and its processes: names, the boot, whether pids can be trusted, a signal to one process.

Unknown values are None. A pid alone identifies nothing: its process may have ended and another one have it, and in a
container /proc may belong to another pid namespace, where the same number is another process.
"""

import errno
import getpass
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

_SYSCTL_TIMEOUT_S = 5.0
_PROC = Path("/proc")
_KERNEL_LOG = Path("/dev/kmsg")  # a record each read: Documentation/ABI/testing/dev-kmsg
_MAX_RECORD_BYTES = 8192
_FIRST_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO: linux/proc_ns.h
_OOM_KILLED = re.compile(rb"[Oo]ut of memory.*: Kill(?:ed)? process (\d+) ")  # mm/oom_kill.c
_CLOCKS_DIFFER_S = 5.0  # the log's and ours, at most

_node: str | None = None


def be_on(node: str | None) -> None:
    """Set the name of this machine: the supervisor of a Slurm job uses Slurm's name for it."""
    global _node  # noqa: PLW0603  a process executes one job
    _node = node


def name() -> str:
    """The machine's name. In a shell of a Slurm job, which is no job of ours, it is the machine's own."""
    return _node or os.uname().nodename


def user() -> str:
    """The name of the user that this process runs as; the number of one without an account."""
    try:
        return getpass.getuser().encode(errors="replace").decode()
    except (KeyError, OSError):  # a uid without an account, as in many containers
        return str(os.getuid())


def boot_id() -> str | None:
    """Identifies the current boot of the machine."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.check_output(["sysctl", "-n", "kern.boottime"], text=True, timeout=_SYSCTL_TIMEOUT_S).strip()
    return None


def sha256(path: str | None) -> str | None:
    """The SHA-256 of a file's content; None when it cannot be read."""
    if path is not None:
        import hashlib

        with suppress(OSError):
            return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return None


# -- other processes


def table_problem() -> str | None:
    """Why pids in the process table cannot be trusted; None where they can."""
    if sys.platform != "linux":
        return None
    own_pid = os.getpid()
    try:
        seen = os.readlink(_PROC / "self")  # noqa: PTH115  a number, not a path
        numbers = _own_numbers()
    except OSError:
        return "/proc has no process table that includes this process"
    if seen != str(own_pid) or len(numbers) > 1:
        return f"/proc belongs to another pid namespace: process {own_pid} is {seen} there"
    return None


def _own_numbers() -> list[bytes]:
    """The pids of this process, from the namespace of /proc down to its own. Empty before Linux 4.1."""
    for line in (_PROC / "self" / "status").read_bytes().splitlines():
        if line.startswith(b"NSpid:"):
            return line.split()[1:]
    return []


def namespace() -> str | None:
    """The pid namespace of this process; None where that is not available."""
    with suppress(OSError):
        return os.readlink(_PROC / "self" / "ns" / "pid")  # noqa: PTH115  no path, but "pid:[4026531836]"
    return None


def oom_kill_count() -> int | None:
    """How many processes the kernel's out-of-memory killer has killed on this machine since it booted (Linux)."""
    if sys.platform != "linux":
        return None
    with suppress(OSError, ValueError):
        for line in (_PROC / "vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def oom_killed_pids(since_s: float) -> set[int] | None:
    """Pids that the out-of-memory killer has killed, from the kernel's log; None where that is not readable.

    since_s: by `time.monotonic`. The log uses pids of the initial pid namespace.
    """
    if namespace() != _FIRST_NAMESPACE:
        return None
    try:
        log = os.open(_KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return oom_killed_in(_records(log), since_s)
    finally:
        os.close(log)


def oom_killed_in(records: Iterable[bytes], since_s: float) -> set[int]:
    """The same, from records of the kernel's log: `priority,number,microseconds since the boot,...;text`."""
    pids = set()
    for record in records:
        head, _, text = record.partition(b";")
        with suppress(ValueError, IndexError):
            at_s = int(head.split(b",")[2]) / 1e6
            if at_s >= since_s - _CLOCKS_DIFFER_S and (found := _OOM_KILLED.search(text)) is not None:
                pids.add(int(found[1]))
    return pids


def _records(log: int) -> Iterator[bytes]:
    while True:
        try:
            yield os.read(log, _MAX_RECORD_BYTES)
        except BrokenPipeError:
            continue  # the next record was overwritten: the kernel continues with the oldest one left
        except OSError:
            return  # that was the newest


def process_stat(pid: int) -> list[bytes] | None:
    """The fields of /proc/PID/stat from the third on, the state (proc(5)); None where it cannot be read, as off Linux.

    The second field, the name, may contain anything: hence the fields after it are found from its end.
    """
    try:
        return (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None


def why_not_started(error: OSError) -> str:
    """Why a process could not be started. The kernel's own words name no limit."""
    return f"cannot be started: {error.strerror or error}" + (" (see ulimit -u)" if error.errno == errno.EAGAIN else "")


def send(pid: int, is_the_one: Callable[[], bool], number: signal.Signals) -> bool:
    """Send a signal to the process with this pid if it is the intended one. Returns whether it was sent.

    is_the_one: called once there is a handle on the process, where the system has such handles.
    """
    if pid <= 1:  # to os.kill these mean process groups; 1 is init
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
    """A handle that stays valid when the pid is reused; None where the system has none.

    Raises ProcessLookupError.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError):  # not Linux, a kernel before 5.3, a sandbox that forbids it, no file left
        return None
