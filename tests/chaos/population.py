"""A small population of runs in a home of its own: what was started, what was done to it, and its processes by id.

The program forks for most commands and goes on as `backprop` in the child: that spares the start of an interpreter.
Every fourth is started as users do it. All orphans come to this process, so that none gets away.
"""

import contextlib
import ctypes
import io
import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from backprop import host
from backprop.governor.run_queue import RunQueue
from backprop.records import Run, RunSpec, Session, Status
from backprop.store.home import Home
from backprop.store.journal import file as journals
from backprop.store.journal.entries import Entry
from backprop.store.journal.fold import fold
from tests.chaos.model import Deed
from tests.chaos.output import Output, read_output
from tests.chaos.sweep import Sweep
from tests.chaos.trainer import TRAINER
from tests.conftest import BACKPROP, Runs
from tests.slurm.cluster import Cluster

SLOTS = 8
MAX_PARALLEL = 5
GRACE_S = 2
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FULL_AT_BYTES = 48_000_000


@dataclass
class Process:
    """A command that was started."""

    pid: int
    words: tuple[str, ...]
    purpose: str  # front, sweep, order, view, page
    member: "Member | None"
    started_at: float
    files: Path  # of its stdout and stderr, without the suffix
    sent: set[signal.Signals] = field(default_factory=set)
    ended_at: float | None = None
    code: int | None = None  # minus the signal's number where one ended it

    @property
    def stdout(self) -> str:
        return self.files.with_suffix(".out").read_text(errors="replace")

    @property
    def stderr(self) -> str:
        return self.files.with_suffix(".err").read_text(errors="replace")

    def __str__(self) -> str:
        return f"`backprop {' '.join(self.words)}` (pid {self.pid})"


@dataclass
class Happening:
    """A deed, with the sessions it may have met: those of one supervisor, or from one number on."""

    deed: Deed
    from_session: int
    pid: int | None = None  # of the supervisor; None: whoever answers
    to_session: int | None = None  # the last; None: it goes on


@dataclass
class MachineFault:
    """Something that is wrong with the machine for a while. By the monotonic clock."""

    deed: Deed
    since: float
    until: float = math.inf


@dataclass
class Member:
    """A run in the population."""

    run_id: str
    words: tuple[str, ...] = ()  # of `backprop run`, from the options on
    is_short: bool = False
    retries: int = 0
    sessions: int = 1
    is_notified: bool = False
    is_guest: bool = False  # its id was Backprop's choice
    is_trial: bool = False  # of the sweep
    is_on_slurm: bool = False
    checked: int = 0  # sessions that were found in order
    without_session: tuple[Status, str | None] | None = None  # state and reason that were found in order before any
    happenings: list[Happening] = field(default_factory=list)
    died_open: set[int] = field(default_factory=set)
    trainers_killed: set[int] = field(default_factory=set)  # pids
    torn: dict[str, int] = field(default_factory=dict)  # path -> the first session after that
    is_new: bool = True  # nothing was ever started
    is_doomed: bool = False  # it is being removed
    stopped_sessions: set[int] = field(default_factory=set)  # by the sweep
    is_stopped: bool = False  # by the sweep, in one of its sessions or in the queue
    outputs: dict[int, "Output"] = field(default_factory=dict)  # of the sessions that were found in order


class Population(Runs):
    """The runs, their home, and what was done to them."""

    def __init__(self, folder: Path, note: Callable[..., None]) -> None:
        super().__init__(folder)
        self.folder = folder
        self.note = note
        self.calls = folder / "calls"
        self.calls.mkdir()
        (self.work / "train.py").write_text(TRAINER)
        self.notices_path = folder / "notices"
        self.environment |= {
            "BACKPROP_MAX_PARALLEL": str(MAX_PARALLEL),
            "BACKPROP_GRACE_SECONDS": str(GRACE_S),
            "BACKPROP_NOTIFY": "[]",
        }
        self._notify = json.dumps(
            [{"command": ["sh", "-c", f'echo "$BACKPROP_RUN_ID $BACKPROP_EVENT" >> {self.notices_path}'],
              "on": ["completed", "timeboxed", "stopped", "failed", "interrupted", "refused"]}]
        )  # fmt: skip
        self.members: list[Member] = [self._new(slot, 0) for slot in range(SLOTS)]
        self.guests: list[Member] = []
        self.sweep = Sweep(self.place, "sweep-0")
        self.sweep_drivers: list[Process] = []  # commands that drive the sweep, or did in this round
        self.sweep_driven_at = 0.0  # when one was seen last
        self.cluster: Cluster | None = None
        self.slurm_members: list[Member] = []  # one, where there is a cluster
        self._generations = [0] * SLOTS
        self._slurm_generation = 0
        self._sweep_generation = 0
        self.processes: dict[int, Process] = {}
        self._codes: dict[int, int] = {}
        self._serial = 0
        self.later: list[tuple[float, str, Callable[[], None]]] = []  # what is to be undone, and when
        self.machine_faults: list[MachineFault] = []
        self.is_index_damaged = False  # in this round: pages that are zero may pass SQLite's own check
        self.is_vary_killed = False  # in this round: runs that it had made may never begin
        self.can_mount = False
        self.is_read_only = False
        self.is_full = False
        self.suspended: set[int] = set()
        self.suspended_until = 0.0  # when the last process of ours stood still
        self.spoiled_snapshot: int | None = None  # its inode: the next one is whole again
        self.ended: list[Process] = []  # commands that nobody has looked at since
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    @property
    def place(self) -> Home:
        return Home(self.home.resolve())

    def _new(self, slot: int, generation: int) -> Member:
        return Member(run_id=f"run{slot}-{generation}")

    def _new_on_slurm(self) -> Member:
        return Member(run_id=f"slurm-{self._slurm_generation}", is_on_slurm=True)

    def start_cluster(self) -> None:
        """A throw-away Slurm on this machine, and one run for it."""
        self.cluster = Cluster(first_port=27417)
        self.environment |= {"SLURM_CONF": str(self.cluster.configuration), "PATH": self.cluster.environment["PATH"]}
        self.slurm_members = [self._new_on_slurm()]

    def jobs(self) -> list[str]:
        """What Slurm has not ended yet; nothing without a cluster."""
        return [] if self.cluster is None else self.cluster.line()

    def replace(self, member: Member) -> None:
        """A new run in the place of one that is gone."""
        if member in self.guests:
            self.guests.remove(member)
            return
        if member.is_on_slurm:
            self._slurm_generation += 1
            self.slurm_members = [self._new_on_slurm()]
            return
        slot = self.members.index(member)
        self._generations[slot] += 1
        self.members[slot] = self._new(slot, self._generations[slot])

    def everybody(self) -> list[Member]:
        everybody = (*self.members, *self.guests, *self.slurm_members)
        return [member for member in everybody if self.rundir(member.run_id).exists()]

    def is_there(self, run_id: str) -> bool:
        """Whether this run is on disk, and nobody was asked to remove it."""
        doomed = {member.run_id for member in self.everybody() if member.is_doomed}
        return run_id not in doomed and self.rundir(run_id).exists()

    def adopt_guests(self, *, only_trials: bool = False) -> None:
        """Take in the runs whose ids were Backprop's choice."""
        known = {member.run_id for member in (*self.members, *self.guests, *self.slurm_members)}
        faults = [fault.deed for fault in self.machine_faults]
        trials = set(self.sweep.run_ids())
        for run_id in trials if only_trials else self.place.run_ids():
            if run_id not in known and self.rundir(run_id).exists():
                is_trial = run_id in trials
                is_killed = bool(self.sweep.killed_commands) if is_trial else self.is_vary_killed
                deeds = [*faults, *([Deed.KILL_SUPERVISOR] if is_killed else [])]
                happenings = [Happening(deed, 0) for deed in deeds]
                self.guests.append(Member(run_id=run_id, is_guest=True, is_trial=is_trial, happenings=happenings))

    def trials(self) -> list[Member]:
        """The runs of the sweep, as far as they are adopted."""
        return [member for member in self.guests if member.is_trial]

    def fronts_of_sweep(self) -> list[Process]:
        """Commands that drive the sweep or start who does, and have not ended."""
        return [process for process in self.processes.values() if process.purpose == "sweep"]

    def sweeper(self) -> int | None:
        """The living process that drives the sweep."""
        pid = self.sweep.sweeper_pid()
        return pid if pid is not None and self.is_ours(pid) and self.is_held(self.sweep.journal_path()) else None

    def look_for_sweeper(self) -> None:
        """Remember that somebody drives the sweep now."""
        if self.sweeper() is not None:
            self.sweep_driven_at = time.monotonic()

    def has_other_driver(self, process: Process) -> bool:
        """Whether, while a command ran, another process drove the sweep."""
        others = (one for one in self.sweep_drivers if one is not process)
        return self.sweep_driven_at >= process.started_at or any(
            one.ended_at is None or one.ended_at >= process.started_at for one in others
        )

    def starters(self) -> list[int]:
        """Commands by which a sweeper that may be dead starts sessions; and those sessions' supervisors."""
        return [process.pid for process in self.descendants() if "--request-id" in _words(process)]

    def remove_sweep(self) -> list[Process]:
        """The record of the sweep and its runs; another one comes in its place. The commands that removed them."""
        done = []
        if self.sweep.spec() is not None:
            done.append(self.call_now("sweep", "rm", self.sweep.name, "--yes", is_real=False))
        if any(self.rundir(member.run_id).exists() for member in self.trials()):
            words = ("rm", "--filter", f"group={self.sweep.name}", "--yes")
            done.append(self.call_now(*words, is_real=False))
        self.guests = [member for member in self.guests if not member.is_trial]
        self._sweep_generation += 1
        self.sweep = Sweep(self.place, f"sweep-{self._sweep_generation}")
        return done

    def wait_for_notifiers(self, timeout_s: float = 60) -> None:
        """Until everybody has been told of what has ended."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.reap()
            if not any("backprop.views.notification" in _words(process) for process in self.descendants()):
                return
            time.sleep(0.02)

    # -- processes

    def spawn(
        self, *words: object, purpose: str, member: Member | None = None, is_real: bool = False, notify: bool = False
    ) -> Process:
        """Start a command and go on."""
        self._serial += 1
        files = self.calls / f"{self._serial:06}"
        texts = tuple(map(str, words))
        environment = {**self.environment, **({"BACKPROP_NOTIFY": self._notify} if notify else {})}
        out = os.open(files.with_suffix(".out"), os.O_WRONLY | os.O_CREAT, 0o600)
        err = os.open(files.with_suffix(".err"), os.O_WRONLY | os.O_CREAT, 0o600)
        sys.stdout.flush()
        sys.stderr.flush()
        # what is sent to the child waits until our own handlers are not its any more
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
        pid = os.fork()
        if pid == 0:
            self._become(texts, environment, out, err, is_real=is_real)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(out)
        os.close(err)
        made = self.processes[pid] = Process(pid, texts, purpose, member, time.monotonic(), files)
        if purpose == "sweep" or texts[:2] in {("sweep", "tick"), ("sweep", "stop"), ("sweep", "rm")}:
            self.sweep_drivers.append(made)
        return made

    def _become(self, words: Sequence[str], environment: dict[str, str], out: int, err: int, *, is_real: bool) -> None:
        """The child: `backprop`, until it ends."""
        code = 1
        try:
            os.setsid()
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
            null = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((null, 0), (out, 1), (err, 2)):
                os.dup2(source, target)
            os.closerange(3, 256)
            os.chdir(self.work)
            for number in _ENDING:
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)
            if is_real:
                os.execve(BACKPROP, [BACKPROP, *words], environment)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv = ["backprop", *words]
            sys.stdout = io.TextIOWrapper(open(1, "wb", closefd=False), write_through=True)  # noqa: SIM115
            sys.stderr = io.TextIOWrapper(open(2, "wb", closefd=False), write_through=True)  # noqa: SIM115
            from backprop.__main__ import main

            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except KeyboardInterrupt:  # before anybody listens, as an interpreter that ends of it
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException:  # noqa: BLE001  whatever it is, it is to be found in what it said
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
                sys.stdout.flush()
            os._exit(code)

    def reap(self) -> list[Process]:
        """Collect the dead, orphans too; the commands among them."""
        ended = []
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                code = os.waitstatus_to_exitcode(status)
                self._codes[pid] = code
                self.suspended.discard(pid)
                if (process := self.processes.pop(pid, None)) is not None:
                    process.code, process.ended_at = code, time.monotonic()
                    ended.append(process)
                    self.ended.append(process)
        return ended

    def wait_for_end(self, process: Process, timeout_s: float = 120) -> bool:
        """Whether it has ended in time."""
        deadline = time.monotonic() + timeout_s
        while process.code is None and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.005)
        return process.code is not None

    def wait_for_end_of_run(self, run_id: str, timeout_s: float = 120) -> bool:
        """Whether the session that is queued or goes on ends, however long the machine takes: nothing is done to it."""
        member = next(member for member in self.everybody() if member.run_id == run_id)
        began_at, run = time.monotonic(), self.fold(member)
        number = 0 if run is None else run.newest_number + (run.waiter is not None)
        while run is not None and not run.status.is_final and run.newest_number <= number:
            if time.monotonic() > began_at + timeout_s:
                return False
            self.undo_due()
            self.reap()
            time.sleep(0.02)
            run = self.fold(member)
        self.note(f"{run_id} has ended {time.monotonic() - began_at:.1f} s after `stop` gave up")
        return True

    def call_now(self, *words: object, is_real: bool = True) -> Process:
        """Run a command to its end."""
        process = self.spawn(*words, purpose="check", is_real=is_real)
        self.wait_for_end(process)
        return process

    def is_ours(self, pid: int) -> bool:
        """Whether a living process descends from us: of a dead one somebody else may have the number."""
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            while process.pid != os.getpid():
                parent = process.ppid()
                if parent == 0:
                    return False
                process = psutil.Process(parent)
        except psutil.NoSuchProcess:
            return False
        return True

    def send(self, pid: int, number: signal.Signals) -> bool:
        """False when there is no such process of ours any more."""
        if not self.is_ours(pid):
            return False
        if (process := self.processes.get(pid)) is not None:
            process.sent.add(number)
            self.is_vary_killed |= number is signal.SIGKILL and "--vary" in process.words
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        return True

    def kill_and_reap(self, pid: int) -> bool:
        """SIGKILL to a supervisor, and wait until nothing is left of it."""
        self._codes.pop(pid, None)
        if not self.send(pid, signal.SIGKILL):
            return False
        deadline = time.monotonic() + 30
        while self.is_ours(pid) and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.002)
        return True

    # -- runs

    def spec(self, member: Member) -> RunSpec | None:
        try:
            return self.place.rundir(member.run_id).read_spec()
        except (OSError, ValueError):
            return None

    def entries(self, member: Member) -> list[Entry]:
        try:
            return journals.read(self.rundir(member.run_id) / "journal.jsonl")[0]
        except OSError:
            return []

    def fold(self, member: Member) -> Run | None:
        """The run as its journal tells it."""
        spec = self.spec(member)
        return None if spec is None else fold(spec, self.entries(member))

    def supervisor_of(self, member: Member) -> int | None:
        """The living process that answers for a run, or is about to."""
        run = self.fold(member)
        pids = []
        if run is not None and run.waiter is not None:
            pids.append(run.waiter.supervisor_pid)
        if run is not None and run.last_session is not None:
            pids.append(run.last_session.supervisor_pid)
        pids += [process.pid for process in self.fronts(member)]
        return next((pid for pid in pids if self.is_ours(pid)), None)

    def is_held(self, journal: Path) -> bool:
        """Whether a process has it locked: one that it does not name yet, too."""
        inode = journal.stat().st_ino
        locks = (line.split() for line in Path("/proc/locks").read_text().splitlines())
        return any(words[1] == "FLOCK" and words[5].rpartition(":")[2] == str(inode) for words in locks)

    def fronts(self, member: Member) -> list[Process]:
        """Commands that start it, and have not ended."""
        return [p for p in self.processes.values() if p.member is member and p.purpose == "front"]

    def open_session(self, member: Member) -> Session | None:
        return _open_session(self.fold(member))

    def trainer_of(self, member: Member) -> int | None:
        session = self.open_session(member)
        pid = None if session is None else session.trainer_pid
        return pid if pid is not None and self.is_ours(pid) else None

    def read_output(self, member: Member, session: int) -> Output:
        """What the trainer of one session wrote."""
        return member.outputs.get(session) or read_output(
            self.rundir(member.run_id) / f"session-{session}.out", self.work
        )

    def happened(self, member: Member, deed: Deed, pid: int | None = None) -> None:
        """Remember a deed before it is done."""
        run = self.fold(member)  # once: a session may begin at any instant
        newest = 0 if run is None else run.newest_number
        member.happenings.append(Happening(deed, newest if _open_session(run) is not None else newest + 1, pid))

    def note_death(self, member: Member, pid: int) -> None:
        """Its supervisor is dead: a session without an end in the journal can only be filed as interrupted."""
        run = self.fold(member)
        for session in () if run is None else run.sessions:
            if session.supervisor_pid == pid and not session.status.is_final:
                member.died_open.add(session.number)

    # -- the machine

    def fault(self, deed: Deed) -> None:
        """Remember something done to the machine, before it is done. Until `fault_is_over` it may meet anything."""
        self.machine_faults.append(MachineFault(deed, time.monotonic()))
        there = self.everybody()
        for member in there:
            self.happened(member, deed)
        # one whose front is at work may be there in a moment
        for member in self.members:
            if member not in there:
                member.happenings.append(Happening(deed, 0))

    def fault_is_over(self, deed: Deed) -> None:
        """It meets no session that begins from now on."""
        for fault in self.machine_faults:
            if fault.deed is deed:
                fault.until = min(fault.until, time.monotonic())
        for member in self.members:
            run = self.fold(member)
            newest = 0 if run is None else run.newest_number
            is_beginning = self.supervisor_of(member) is not None and self.open_session(member) is None
            for happening in member.happenings:
                if happening.deed is deed and happening.to_session is None:
                    happening.to_session = newest + is_beginning

    def faults_since(self, started_at: float) -> set[Deed]:
        """What was wrong with the machine at some time since then."""
        return {fault.deed for fault in self.machine_faults if fault.until >= started_at}

    def mount_home(self) -> bool:
        """A small file system for the home; False where none can be mounted."""
        self.home.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={_FULL_AT_BYTES},mode=700", "tmpfs", self.home],
            capture_output=True,
            check=False,
        )
        self.can_mount = done.returncode == 0
        return self.can_mount

    def fill_disk(self) -> None:
        self.is_full = True
        with contextlib.suppress(OSError), open(self.home / "hog", "wb", buffering=0) as hog:
            while True:
                hog.write(b"x" * 65536)

    def make_room(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self.home / "hog", 0)
            self.is_full = False
            self.fault_is_over(Deed.FULL_DISK)

    def set_read_only(self, *, wanted: bool) -> None:
        """Nothing can be opened for writing, as when the kernel has met an error; what is open stays so."""
        if wanted and not self.is_read_only:
            subprocess.run(["mount", "--bind", self.home, self.home], check=True)
            done = subprocess.run(
                ["mount", "-o", "remount,bind,ro", self.home], capture_output=True, text=True, check=False
            )
            if done.returncode:
                self.note(f"the home cannot be made read-only: {done.stderr.strip()}")
                subprocess.run(["umount", "--lazy", self.home], check=True)
                return
        elif not wanted and self.is_read_only:
            subprocess.run(["umount", "--lazy", self.home], check=True)
            self.fault_is_over(Deed.READ_ONLY)
        self.is_read_only = wanted

    # -- order

    def undo_due(self, *, everything: bool = False) -> None:
        """Undo what was to last for a while."""
        now = time.monotonic()
        due = [entry for entry in self.later if everything or entry[0] <= now]
        self.later = [entry for entry in self.later if entry not in due]
        for _, told, undo in due:
            self.note(told)
            undo()

    def tickets(self) -> list[str]:
        """Who holds a slot. Not who is just writing his ticket, and is taken for somebody who may."""
        entries = RunQueue(self.place.line_path, host.name()).read()
        return [entry.ticket.run_id for entry in entries if entry.holds_a_slot and entry.ticket is not None]

    def descendants(self) -> list[psutil.Process]:
        daemons = set() if self.cluster is None else self.cluster.daemon_pids()
        return [p for p in psutil.Process().children(recursive=True) if p.pid not in daemons and _is_alive(p)]

    def end_everything(self) -> None:
        """No process, no mount and no cluster is left."""
        if self.cluster is not None:
            self.cluster.stop()
            self.cluster = None
        for _ in range(200):
            for process in self.descendants():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            self.reap()
            if not self.descendants():
                break
            time.sleep(0.02)
        if self.is_read_only:
            self.set_read_only(wanted=False)
        if self.can_mount:
            subprocess.run(["umount", "--lazy", self.home], check=False)


def _open_session(run: Run | None) -> Session | None:
    last = None if run is None else run.last_session
    return None if last is None or last.status.is_final else last


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def preload() -> None:
    """Import what commands import, so that each child need not."""
    import importlib
    import pkgutil

    import backprop

    for module in pkgutil.walk_packages(backprop.__path__, "backprop."):
        if not module.name.startswith(
            ("backprop.trainer", "backprop.views.web", "backprop.views.watch", "backprop.views.exports")
        ):
            if module.name in {"backprop.__main__", "backprop.views.notification"}:
                continue
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)


def lines_of(path: Path) -> Iterator[str]:
    """A text file's lines; nothing where it is not there."""
    if path.exists():
        yield from path.read_text(errors="replace").splitlines()
