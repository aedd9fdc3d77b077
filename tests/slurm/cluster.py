"""A throw-away Slurm on loopback: munged, slurmctld and two slurmd as children of whoever makes it.

Everything lies in one folder with a short name (sockets have a path of at most 108 letters); nothing in /etc, /run or
/var is read or written. Clients find it through SLURM_CONF. Processes are known by being our children, and die with us.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.conftest import HANG_S
from tests.leftovers import owned_by_session

NODES = ("node1", "node2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "srun")
_SEARCHED = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"  # where Debian puts daemons
_PR_SET_PDEATHSIG = 1  # prctl(2)

_LIBC = ctypes.CDLL(None)

# Partitions over the same nodes: "main", "low" (preempted by "high", and requeued), "short" (no job over a minute).
_CONFIGURATION = """\
ClusterName=local
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
# without these two the daemons, and srun, listen on every address
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/munge.socket
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdSpoolDir={folder}/spool/%n
SlurmdLogFile={folder}/slurmd.%n.log
# no cgroups, no systemd; and the nodes claim what the machine need not have
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
GresTypes=gpu
SchedulerType=sched/backfill
SchedulerParameters=sched_min_interval=0,sched_interval=2,bf_interval=2
KillWait={kill_wait_s}
MinJobAge={min_job_age_s}
InactiveLimit=0
SlurmctldTimeout=10
# a node that is lost is said to be: see `give_up`
SlurmdTimeout=600
UnkillableStepTimeout=600
ReturnToService=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{preemption}
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=low  Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1  PreemptMode=REQUEUE GraceTime={grace_s}
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=20 PreemptMode=OFF
PartitionName=short Nodes=ALL MaxTime=1 State=UP PriorityTier=10 PreemptMode=OFF
"""


class Cluster:
    """Two nodes of four CPUs and two cards, and a controller."""

    def __init__(
        self,
        *,
        first_port: int = 26817,
        min_job_age_s: int = 300,
        kill_wait_s: int = 30,
        warns_of_preemption: bool = True,
    ) -> None:
        """warns_of_preemption: by the job's own `--signal`, and minutes before; else by SIGTERM to all that it runs."""
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.configuration = self.folder / "slurm.conf"
        self.environment = {**os.environ, "PATH": _SEARCHED, "SLURM_CONF": str(self.configuration)}
        owned_by_session.append(self.pids)
        try:
            port = _free_ports(first_port)
            self._configure(
                port,
                min_job_age_s=min_job_age_s,
                kill_wait_s=kill_wait_s,
                grace_s=200 if warns_of_preemption else 0,
                preemption="SlurmctldParameters=preempt_send_user_signal" if warns_of_preemption else "",
            )
            self._start()
        except BaseException:
            self.stop()
            raise

    def _configure(self, port: int, **settings: object) -> None:
        for name in ("munge", "state", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)  # munged wants its socket reachable by everybody
        (self.folder / "munge").chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        nodes = "\n".join(
            f"NodeName={node} NodeHostname=localhost NodeAddr=127.0.0.1 Port={port + number} CPUs=4 RealMemory=4000"
            f" Gres=gpu:2 State=UNKNOWN"
            for number, node in enumerate(NODES, start=1)
        )
        self.configuration.write_text(
            _CONFIGURATION.format(
                port=port, user=psutil.Process().username(), folder=self.folder, nodes=nodes, **settings
            )
        )
        # pretended cards: a device that everybody has, by two names
        for number in range(2):
            (self.folder / f"card{number}").symlink_to("/dev/zero")
        cards = "".join(f"NodeName={node} Name=gpu File={self.folder}/card[0-1]\n" for node in NODES)
        (self.folder / "gres.conf").write_text(cards)
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")

    def _start(self) -> None:
        munge = self.folder / "munge"
        self._run(
            "munged",
            "munged", "--foreground", f"--socket={munge}/munge.socket", f"--key-file={self.folder}/munge.key",
            "--num-threads=2", f"--pid-file={munge}/munged.pid", f"--seed-file={munge}/seed",
        )  # fmt: skip
        _wait((munge / "munge.socket").exists)
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        self.wait_until_idle()

    def _run(self, name: str, *command: str) -> None:
        log = self.folder / f"{name}.out"
        with log.open("ab") as out:
            self._daemons[name] = subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  one call into the C library, and no thread holds a lock there
                start_new_session=True,
            )

    # -- its daemons

    def start_controller(self) -> None:
        """Returns when it answers."""
        self._run("slurmctld", "slurmctld", "-D", "-i")
        _wait(lambda: self.call("scontrol", "ping").returncode == 0)

    def stop_controller(self) -> None:
        """It saves what it knows: killed within seconds of a submission, it would have forgotten the job."""
        self._end("slurmctld", signal.SIGTERM)

    def kill_controller(self) -> None:
        """It saves nothing any more: what it knows when it is started again is what it had saved."""
        self._end("slurmctld", signal.SIGKILL)

    def save(self, job: str) -> None:
        """Let the controller write down how a job stands: it does so some seconds after a change, which this is."""
        since = time.time()
        done = self.call("scontrol", "update", f"JobId={job}", "Comment=changed")
        assert done.returncode == 0, done.stderr
        _wait(lambda: (self.folder / "state" / "job_state").stat().st_mtime > since)

    def start_node(self, node: str) -> None:
        self._run(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str, *, with_steps: bool) -> None:
        """Its daemon; with_steps: all that it has started, too, as when the machine is lost."""
        found = self.steps(node) if with_steps else []
        doomed = [one for step in found for one in [step, *step.children(recursive=True)]]
        self._end(node, signal.SIGKILL)
        for process in doomed:  # at the same instant: a trainer that outlives its supervisor would save
            _signal(process, signal.SIGSTOP)
        for process in doomed:
            _signal(process, signal.SIGKILL)

    def give_up(self, node: str) -> None:
        """Let the controller take a node for lost, as it does after a silence; until its daemon is started again."""
        done = self.call("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")
        assert done.returncode == 0, done.stderr

    def mend(self) -> None:
        """Start whatever was killed and not started again."""
        if "slurmctld" not in self._daemons:
            self.start_controller()
        for node in NODES:
            if node not in self._daemons:
                self.start_node(node)

    def pids(self) -> set[int]:
        """Of its daemons, as they are now, and of what belongs to them: the controller has a process for its scripts."""
        found = set()
        for daemon in self._daemons.values():
            with contextlib.suppress(psutil.NoSuchProcess):
                children = psutil.Process(daemon.pid).children()
                found |= {daemon.pid, *(child.pid for child in children if child.name() == "slurmscriptd")}
        return found

    def steps(self, node: str | None = None) -> list[psutil.Process]:
        """The processes that look after jobs. They outlive their daemons."""
        ours = f"SLURM_CONF={self.configuration}"
        found = []
        for process in psutil.process_iter():
            try:
                if process.name().startswith("slurmstepd") and ours in _environment(process):
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return [step for step in found if node is None or _is_on(step, node)]

    def daemon_pids(self) -> set[int]:
        return {daemon.pid for daemon in self._daemons.values()}

    def _end(self, name: str, number: signal.Signals) -> None:
        daemon = self._daemons.pop(name, None)
        if daemon is not None:
            daemon.send_signal(number)
            try:
                daemon.wait(HANG_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    # -- its users

    def call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=HANG_S, check=False)

    def line(self) -> list[str]:
        """The jobs that have not ended."""
        done = self.call("squeue", "--noheader", "--format=%i %T %j")
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    def wait_until_idle(self) -> None:
        """No job, nor a process that looks after one, and every node ready for one."""
        told = f"--user={psutil.Process().username()}"

        def is_idle() -> bool:
            if self.line():
                self.call("scancel", told)
                return False
            states = self.call("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T").stdout.split()
            return states == ["idle"] * len(NODES) and not self.steps()

        _wait(is_idle)

    def stop(self) -> None:
        """Jobs first, while there is somebody to end them; then the daemons; then the folder."""
        if {"slurmctld", *NODES} <= self._daemons.keys():
            self.call("scancel", f"--user={psutil.Process().username()}")
            deadline = time.monotonic() + HANG_S
            while self.steps() and time.monotonic() < deadline:
                time.sleep(0.1)
        for process in self.steps():
            _signal(process, signal.SIGKILL)
        for name in reversed(list(self._daemons)):
            self._end(name, signal.SIGTERM)
        owned_by_session.remove(self.pids)
        shutil.rmtree(self.folder, ignore_errors=True)


def _die_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _environment(process: psutil.Process) -> set[str]:
    return set(Path(f"/proc/{process.pid}/environ").read_text(errors="replace").split("\0"))


def _is_on(step: psutil.Process, node: str) -> bool:
    """What it looks after knows where it is."""
    return any(f"SLURMD_NODENAME={node}" in _environment(child) for child in step.children())


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline, "Slurm did not get so far in time"
        time.sleep(0.1)


def _free_ports(first: int) -> int:
    """The first of as many free ports in a row as there are daemons."""
    while True:
        try:
            for port in range(first, first + 1 + len(NODES)):
                with socket.socket() as tried:
                    tried.bind(("127.0.0.1", port))
        except OSError:
            first += 10
        else:
            return first


def missing_programs() -> list[str]:
    """What must be installed first."""
    return [program for program in PROGRAMS if shutil.which(program, path=_SEARCHED) is None]
