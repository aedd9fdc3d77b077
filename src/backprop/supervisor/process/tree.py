"""The trainer and all its descendants: find them, signal them, and make sure that none is left.

On Linux the supervisor adopts orphans, so the tree is whatever descends from it: children that called `setsid` and
daemons that forked twice included. Elsewhere, and when the supervisor is dead, descendants are found by the run
directory in their environment, and in the roster that it kept: see `roster`.

Where the process table cannot be trusted (`host.table_problem`) nothing is found here. What is left then is the
process group that the trainer leads, which the kernel can identify as ours: see `signal_group`.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from psutil import Process

from backprop import host
from backprop.supervisor.process.launch import HAS_SUBREAPER, RUN_DIR_VARIABLE

_KILL_PAUSE_S = 0.005  # between two searches of a tree that is being killed
_FREEZE_ROUNDS = 20
_LABEL_LENGTH = 60
_MAX_LABELS = 20
_QUICK_ROUNDS = 50  # between two slow searches
UNKILLABLE_AFTER_S = 10.0  # a process that SIGKILL does not end hangs in the kernel: a dead disk or GPU driver

Members = Callable[[], list[Process]]


def own_children() -> frozenset[Process]:
    """The children this process has before it launches a trainer: those of a shell that became us by `exec`."""
    return frozenset(Process().children())


def members(root_pid: int, run_dir: str, preexisting_children: frozenset[Process]) -> list[Process]:
    """The living processes of the tree, for use by the process that launched `root_pid`.

    preexisting_children: our children from before the launch; they and their descendants are left alone.
    """
    if HAS_SUBREAPER:
        ours = set(Process().children(recursive=True)) - preexisting_children
        for child in preexisting_children:
            with suppress(psutil.NoSuchProcess):
                ours -= set(child.children(recursive=True))
        return alive(ours)
    return alive({*_with_descendants(root_pid), *marked(run_dir)})


def _with_descendants(root_pid: int) -> list[Process]:
    with suppress(psutil.NoSuchProcess):
        root = Process(root_pid)
        return [root, *root.children(recursive=True)]
    return []


def marked(run_dir: str) -> list[Process]:
    """Living processes with the mark of this run in their environment, whatever their parent."""
    if host.table_problem() is not None:
        return []
    own_pid = os.getpid()
    found = []
    for pid in psutil.pids():
        # a process that ends meanwhile, or belongs to another user, could not be signalled anyway
        with suppress(psutil.Error, OSError):
            if pid != own_pid and _may_be_marked(pid, run_dir):
                process = Process(pid)  # before its environment is read again: its pid may be another one's by now
                if process.environ().get(RUN_DIR_VARIABLE) == run_dir:
                    found.append(process)
    return alive(found)


def _may_be_marked(pid: int, run_dir: str) -> bool:
    """Whether psutil has to look: it takes ten times as long as this. Raises OSError."""
    if sys.platform != "linux":
        return True
    with open(f"/proc/{pid}/environ", "rb", buffering=0) as environment:  # noqa: PTH123  pathlib takes as long again
        return os.fsencode(run_dir) in environment.read()


def folders(members: Iterable[Process]) -> tuple[str, ...]:
    """The folders that processes are in, as far as that can be read."""
    found: dict[str, None] = {}
    for process in members:
        # it has ended, or belongs to another user
        with suppress(psutil.Error, OSError):
            found[process.cwd()] = None
    found.pop("", None)  # psutil's word for that of a process that is just ending
    return tuple(found)


def labels(members: Iterable[Process]) -> tuple[str, ...]:
    """Processes in words: their command and pid, oldest first. Without those that have ended."""
    found = []
    for process in members:
        with suppress(psutil.Error, OSError):
            words = " ".join(process.cmdline()) or process.name()
            text = "".join(filter(str.isprintable, words))[:_LABEL_LENGTH].rstrip()
            found.append((process.create_time(), f"{text} (pid {process.pid})"))
    return tuple(label for _, label in sorted(found)[:_MAX_LABELS])


def alive(candidates: Iterable[Process]) -> list[Process]:
    """The processes that are not zombies and have not ended."""
    living = []
    for process in candidates:
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                living.append(process)
    return living


def send(targets: Iterable[Process], number: signal.Signals) -> tuple[int, ...]:
    """Send a signal; returns the pids that got it. A process that has ended is no error."""
    return tuple(process.pid for process in targets if host.send(process.pid, process.is_running, number))


def has_group(pid: int) -> bool:
    """Whether a child of ours, or an adopted orphan, is in the process group that this child led."""
    with suppress(ChildProcessError):
        os.waitid(os.P_PGID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return True
    return False


def signal_group(pid: int, number: signal.Signals) -> bool:
    """Send a signal to the process group that a child of ours led. False when no member is known to be ours.

    The number cannot be reused meanwhile: the child that was seen in the group stays there until we reap it.
    """
    if pid > 1 and has_group(pid):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
            return True
    return False


def freeze(members: Members) -> None:
    """SIGSTOP until every member is stopped, whatever they start meanwhile. Blocks for a tenth of a second at most.

    A process that hangs in the kernel stops when it returns from there; a later call finds what was started since.
    """
    for _ in range(_FREEZE_ROUNDS):
        moving = [process for process in members() if _is_moving(process)]
        if not moving:
            return
        send(moving, signal.SIGSTOP)
        time.sleep(_KILL_PAUSE_S)


def _is_moving(process: Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.status() not in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}
    return False


def kill(members: Members, is_gone: Callable[[], bool], spared_pids: Collection[int] = ()) -> list[int]:
    """SIGKILL until nothing is left, however fast it forks. Returns the pids that would not die (normally none).

    is_gone: reaps dead children, so that we adopt theirs, and returns whether any are left.
    spared_pids: children of this process that do not belong to the trainer.
    """
    give_up_at = time.monotonic() + UNKILLABLE_AFTER_S
    while not is_gone():
        for _ in range(_QUICK_ROUNDS):
            _kill_children_at_once(spared_pids)
            if is_gone():
                return []
        living = members()
        send(living, signal.SIGKILL)
        if time.monotonic() > give_up_at:
            return [process.pid for process in living]
        time.sleep(_KILL_PAUSE_S)
    return []


def _kill_children_at_once(spared_pids: Collection[int]) -> None:
    """SIGKILL to our children as the kernel lists them now (Linux).

    A daemon that keeps forking has exited before a slower search finds it; here it has only microseconds. A pid cannot
    have been reused meanwhile: a dead child keeps it until we reap it.
    """
    with suppress(OSError):
        for task in Path("/proc/self/task").iterdir():
            for pid in map(int, (task / "children").read_bytes().split()):
                if pid not in spared_pids:
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, signal.SIGKILL)


def wait_gone(is_gone: Callable[[], bool], timeout_s: float) -> bool:
    """True as soon as nothing is left of the tree, False when something still is after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not is_gone():
        if time.monotonic() >= deadline:
            return False
        time.sleep(min(0.05, timeout_s))
    return True


def end_orphans(find: Members, patience_s: float) -> Sequence[int]:
    """End what is left of a tree whose supervisor died. Returns the pids that were found.

    find: see `orphans`. The kernel sent SIGINT when the supervisor died (Linux; elsewhere this function sends it), so
    they may be saving: they get `patience_s` to finish, then SIGTERM and a second, then SIGKILL.
    """
    found = find()
    if not found:
        return ()
    if not HAS_SUBREAPER:
        send(found, signal.SIGINT)
    send(found, signal.SIGCONT)  # a paused tree could not react to the signals

    def is_gone() -> bool:
        return not find()

    if not wait_gone(is_gone, patience_s):
        send(find(), signal.SIGTERM)
        wait_gone(is_gone, 1.0)
        kill(find, is_gone, {child.pid for child in own_children()})
    return [process.pid for process in found]


def orphans(run_dir: str, recorded: Iterable[Process]) -> list[Process]:
    """Living processes of a tree whose supervisor died: marked by the run directory, recorded, or descendants."""
    found = {*marked(run_dir), *recorded}
    for process in tuple(found):
        with suppress(psutil.NoSuchProcess):
            found.update(process.children(recursive=True))
    return alive(process for process in found if process.pid != os.getpid())
