"""Where a run comes from: its machine, its user, its script. Reads only; what is not known is None."""

import getpass
import os
import subprocess
from contextlib import suppress
from pathlib import Path

_SYSCTL_TIMEOUT_S = 5.0

_node: str | None = None


def be_on(node: str | None) -> None:
    """From now on this machine is called so: for the supervisor of a Slurm job, which has Slurm's name for it."""
    global _node  # noqa: PLW0603  a process executes one job
    _node = node


def host() -> str:
    """The machine's name. A shell inside a job of Slurm's is no job of ours: there it is the machine's own."""
    return _node or os.uname().nodename


def user() -> str:
    try:
        return getpass.getuser().encode(errors="replace").decode()
    except (KeyError, OSError):  # a uid without an account, as in many containers
        return str(os.getuid())


def boot_id() -> str | None:
    """Changes with every boot of the machine, and with nothing else."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.check_output(["sysctl", "-n", "kern.boottime"], text=True, timeout=_SYSCTL_TIMEOUT_S).strip()
    return None


def sha256(path: str | None) -> str | None:
    """Of a file's content."""
    if path is not None:
        import hashlib

        with suppress(OSError):
            return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return None
