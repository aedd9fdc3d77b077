"""Which processes get SIGINT: those that train, never their data-loading workers, and launchers only later.

In a terminal Ctrl-C reaches every process of the foreground group, so a trainer below a launcher must get it, too. But
a launcher that gets it at once may exit, or kill its children, before these have saved: it gets it later.

`look` describes the processes, from what the kernel reports and what training processes announced (see
`trainer.session.Session.announce`). `choose` decides, pure.
"""

import os
import signal
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from pathlib import Path

import psutil
from psutil import Process

from backprop import host
from backprop.records import Record

_SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "fish", "busybox", "ash"}
_PROC = Path("/proc")
_FORKED_WITHOUT_EXEC = 0x40  # PF_FORKNOEXEC: linux/sched.h
_WORKER_ARGUMENTS = (  # of processes that multiprocessing, libraries like it, or PyTorch's compiler start
    "from multiprocessing.",
    "from multiprocess.",
    "--multiprocessing-fork",
    "loky.backend",
    "_inductor/compile_worker",
)
_OF_AN_AGENT = "TORCHELASTIC_RUN_ID"  # in the environment of what torchrun's agent starts
_MAX_ANNOUNCED_BYTES = 1 << 20


class ProcessKind(Enum):
    """What a process is, as far as that is visible from outside."""

    SHELL = "waits for its child before it reacts to an interrupt"
    PYTHON = "a Python program"
    WORKER = "of Python's multiprocessing, or forked by a Python program: loads data, or trains"
    OTHER = "any other program"


class Member(Record, frozen=True):
    """A living process of the tree."""

    pid: int
    parent_pid: int
    group: int | None = None  # its process group
    kind: ProcessKind = ProcessKind.PYTHON
    trains: bool = False  # it announced that
    waits: bool = False  # its main thread waits for a child to end
    passes_on: bool = False  # an agent that forwards signals to its ranks
    ignores_sigint: bool = False


class InterruptTargets(Record, frozen=True):
    """Pids, from the root downwards."""

    first: tuple[int, ...] = ()
    later: tuple[int, ...] = ()  # when the first ones have ended, or take long


def choose(
    root_pid: int, members: Iterable[Member], asked: Collection[int] = (), helpers: Collection[int] = ()
) -> InterruptTargets:
    """Which processes to interrupt. asked: interrupted before. helpers: started by those since then, to save."""
    return _Chooser(members, asked, helpers).choose(root_pid)


class _Chooser:
    def __init__(self, members: Iterable[Member], asked: Collection[int], helpers: Collection[int]) -> None:
        self._members = {member.pid: member for member in members}
        self._asked = asked
        self._helpers = helpers
        self._children: dict[int, list[Member]] = {}
        for member in self._members.values():
            self._children.setdefault(member.parent_pid, []).append(member)
        self._first: list[int] = []
        self._later: list[int] = []

    def choose(self, root_pid: int) -> InterruptTargets:
        if root_pid in self._members:
            self._walk(self._members[root_pid], is_reached=True)
        for member in self._members.values():  # its parent has ended, so it is no worker any more
            if member.parent_pid not in self._members and member.pid != root_pid:
                self._walk(member, is_reached=False)
        return InterruptTargets(first=tuple(self._first), later=tuple(self._later))

    def _walk(self, member: Member, *, is_reached: bool) -> None:
        """is_reached: by a Ctrl-C in a terminal, and no ancestor announced that it trains."""
        if member.pid in self._helpers:
            return
        if member.pid in self._asked:
            if member.waits and not member.trains:  # it ends, and joins the processes it has started
                for child in self._children.get(member.pid, ()):
                    self._walk(child, is_reached=child.kind is ProcessKind.WORKER)
            return
        place, before = len(self._first), len(self._first)
        is_trainer = member.passes_on or (member.trains and not (member.waits and self._has_below(member, trains=True)))
        for child in () if member.passes_on else self._children.get(member.pid, ()):
            self._walk(child, is_reached=is_reached and not is_trainer and self._reaches(member, child))
        if member.ignores_sigint or not (is_reached or is_trainer):
            return
        has_asked_below = len(self._first) > before
        is_launcher = member.kind is ProcessKind.OTHER or member.waits or self._has_below(member, trains=True)
        if has_asked_below and is_launcher and not is_trainer and member.kind is not ProcessKind.SHELL:
            self._later.insert(0, member.pid)
        else:
            self._first.insert(place, member.pid)

    def _reaches(self, parent: Member, child: Member) -> bool:
        """Whether a Ctrl-C that reaches the parent is meant for this child, too."""
        if parent.kind in {ProcessKind.SHELL, ProcessKind.OTHER}:
            if self._has_below(parent, kind=ProcessKind.PYTHON):
                # not `tee`: it must live to the end, or the trainer's last output is lost
                return child.kind is ProcessKind.PYTHON or self._has_below(child, kind=ProcessKind.PYTHON)
            return parent.kind is ProcessKind.SHELL or parent.waits
        if parent.waits:
            return True
        return child.kind is ProcessKind.PYTHON and child.group == parent.group

    def _has_below(self, member: Member, *, trains: bool | None = None, kind: ProcessKind | None = None) -> bool:
        for child in self._children.get(member.pid, ()):
            if child.trains if trains else child.kind is kind:
                return True
            if self._has_below(child, trains=trains, kind=kind):
                return True
        return False


def look(processes: Sequence[Process], announced: Mapping[int, int | None]) -> list[Member]:
    """Describe these processes, without those that have ended meanwhile.

    announced: processes that train: pid -> start in clock ticks since the boot, None where it is unknown.
    """
    parents: dict[int, int] = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            parents[process.pid] = process.ppid()
    pythons = {process.pid for process in processes if process.pid in parents and _is_python(process)}
    from_agents = {process.pid for process in processes if process.pid in pythons and _is_from_agent(process)}
    agents = {parents[pid] for pid in from_agents} - from_agents
    found = []
    for process in processes:
        pid = process.pid
        if pid not in parents:
            continue
        stat = host.process_stat(pid)
        start = None if stat is None else int(stat[19])
        is_forked = parents[pid] in pythons and _is_forked(process, stat)
        with suppress(psutil.NoSuchProcess):
            found.append(
                Member(
                    pid=pid,
                    parent_pid=parents[pid],
                    group=None if stat is None else int(stat[2]),
                    kind=_kind(process, is_python=pid in pythons, is_forked=is_forked),
                    trains=pid in announced and announced[pid] in {None, start},
                    waits=_read(pid, "wchan") == b"do_wait",
                    passes_on=pid in agents,
                    ignores_sigint=_ignores_sigint(pid),
                )
            )
    return found


def announced(path: Path) -> dict[int, int | None]:
    """The processes that announced in this file that they train: pid -> start in clock ticks since the boot."""
    found: dict[int, int | None] = {}
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _MAX_ANNOUNCED_BYTES))
        for line in file.read(_MAX_ANNOUNCED_BYTES).splitlines():
            with suppress(ValueError):
                pid, start = line.split()
                found[int(pid)] = None if start == b"-" else int(start)
    return found


def program(process: Process) -> str:
    """The name of a process's executable."""
    try:
        return os.path.basename(process.exe()) or process.name()  # noqa: PTH119
    except (psutil.ZombieProcess, psutil.AccessDenied):
        return process.name()


def _is_python(process: Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "python" in program(process)
    return False


def _kind(process: Process, *, is_python: bool, is_forked: bool) -> ProcessKind:
    if not is_python:
        return ProcessKind.SHELL if program(process) in _SHELLS else ProcessKind.OTHER
    return ProcessKind.WORKER if is_forked or _is_started_as_worker(process) else ProcessKind.PYTHON


def _is_started_as_worker(process: Process) -> bool:
    with suppress(psutil.AccessDenied):
        words = process.cmdline()[1:4]
        return any(mark in word for word in words for mark in _WORKER_ARGUMENTS)
    return False


def _is_forked(process: Process, stat: Sequence[bytes] | None) -> bool:
    """Whether a child of a Python program runs on in its parent's image."""
    if stat is not None:
        return bool(int(stat[6]) & _FORKED_WITHOUT_EXEC)
    with suppress(psutil.Error):
        parent = process.parent()
        return parent is not None and parent.cmdline() == process.cmdline()
    return False


def _is_from_agent(process: Process) -> bool:
    with suppress(psutil.Error, OSError):
        return _OF_AN_AGENT in process.environ()
    return False


def _ignores_sigint(pid: int) -> bool:
    for line in (_read(pid, "status") or b"").splitlines():
        if line.startswith(b"SigIgn:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGINT - 1) & 1)
    return False


def _read(pid: int, name: str) -> bytes | None:
    with suppress(OSError):
        return (_PROC / str(pid) / name).read_bytes()
    return None
