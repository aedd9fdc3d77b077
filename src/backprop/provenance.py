"""Where a run comes from: its code, its machine, its user. Reads only; what cannot be told is None."""

import getpass
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from backprop.records import GitState

GIT_TIMEOUT_S = 5.0  # a huge work tree on a slow disk must not keep a run from starting
MAX_PATCH_BYTES = 10_000_000
_NO_COMMIT = "(initial)"  # what git's porcelain v2 says for a branch without commits
_DETACHED = "(detached)"


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
        return subprocess.check_output(["sysctl", "-n", "kern.boottime"], text=True, timeout=GIT_TIMEOUT_S).strip()
    return None


def oom_kill_count() -> int | None:
    """How often the kernel's out-of-memory killer struck on this machine since it booted (Linux)."""
    if sys.platform != "linux":
        return None
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def sha256(path: str | None) -> str | None:
    """Of a file's content."""
    if path is not None:
        import hashlib

        with suppress(OSError):
            return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return None


class GitProbe:
    """Asks git in the background: started early, collected when the answer is needed."""

    def __init__(self, folder: Path, script: Path | None) -> None:
        self._folder = folder
        self._script = script
        self._status = self._start("status", "--porcelain=v2", "--branch", "--untracked-files=no")
        self._script_status = None
        if script is not None:
            self._script_status = self._start("ls-files", "--error-unmatch", "--", str(script))

    def _start(self, *arguments: str) -> "subprocess.Popen[bytes] | None":
        environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
        try:
            return subprocess.Popen(
                ["git", "-C", str(self._folder), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        except OSError:
            return None  # no git on this machine

    def collect(self) -> tuple[GitState | None, bytes | None]:
        """The state, and the uncommitted changes as a patch. (None, None) outside a work tree."""
        status, is_work_tree = _finish(self._status)
        _, is_tracked = _finish(self._script_status)
        if not is_work_tree:
            return None, None
        lines = status.decode(errors="replace").splitlines()
        header = {line.split(" ", 2)[1]: line.split(" ", 2)[2] for line in lines if line.startswith("# ")}
        commit, branch = header.get("branch.oid"), header.get("branch.head")
        has_changes = any(not line.startswith("#") for line in lines)
        script_is_new = self._script is not None and not is_tracked
        state = GitState(
            commit=None if commit == _NO_COMMIT else commit,
            branch=None if branch == _DETACHED else branch,
            dirty=has_changes or script_is_new,
        )
        return state, self._patch(state, has_changes=has_changes, script_is_new=script_is_new)

    def _patch(self, state: GitState, *, has_changes: bool, script_is_new: bool) -> bytes | None:
        plain = ("diff", "--no-color", "--no-ext-diff", "--no-textconv")
        patch = b""
        if has_changes and state.commit is not None:
            patch, _ = _finish(self._start(*plain, "HEAD", "--"))
        if script_is_new:
            # exit code 1 only says that the two differ
            addition, _ = _finish(self._start(*plain, "--no-index", "--", os.devnull, str(self._script)))
            patch += addition
        return patch if 0 < len(patch) <= MAX_PATCH_BYTES else None


def _finish(process: "subprocess.Popen[bytes] | None") -> tuple[bytes, bool]:
    """Output, and whether it succeeded."""
    if process is None:
        return b"", False
    try:
        output, _ = process.communicate(timeout=GIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return b"", False
    return output, process.returncode == 0
