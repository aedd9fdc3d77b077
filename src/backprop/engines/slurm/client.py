"""What we ask of Slurm, through its own commands: submit, look, cancel, requeue. Every call has a time limit.

Facts behind the choices, measured on Slurm 22.05: `squeue --json` ignores `-j` and changes between versions; known and
unknown ids mixed drop the unknown silently, and an unknown one alone is an error, so all jobs of the user are listed;
without slurmdbd `sacct` is useless, and what has ended vanishes after MinJobAge.
"""

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress

from backprop.engines.base import Phase
from backprop.errors import BackpropError
from backprop.records import Record

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")
LOOK_LIMIT_S = 5.0  # somebody waits for the answer, and can do without
CALL_LIMIT_S = 20.0  # of a controller that is busy; one that is gone makes its clients wait for a minute
_FORMAT = "%i|%T|%N|%r|%j"  # the reason may hold anything, and our names hold no bar


class SlurmError(BackpropError):
    """Slurm said no, or nothing at all."""


class JobIsOverError(SlurmError):
    """The job has ended, or the controller knows nothing of it."""


class CallKilledError(SlurmError):
    """A signal ended the call. Inside a job it is Slurm's, which signals all processes of a job that is to end."""


_PENDING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
# whatever a newer Slurm may call a job besides: it lives
_ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "RECONFIG_FAIL",
        "REVOKED",
        "TIMEOUT",
    }
)
_FAILED = frozenset({"BOOT_FAIL", "FAILED", "LAUNCH_FAILED"})
NAME_PREFIX = "backprop-"
HELD = "JobHeldUser"  # the reason of a job that waits until somebody releases it
# what a line about one of our jobs looks like; other jobs may be called anything
_LINE = re.compile(rf"(\d+(?:_\d+)?)\|([A-Z_]+)\|([^|]*)\|(.*)\|({NAME_PREFIX}[A-Za-z0-9._-]+)")
# variables by which a user makes squeue and scontrol look elsewhere
_BLINDERS = re.compile(r"SQUEUE_.*|SLURM_CLUSTERS|SCANCEL_.*|SLURM_BITSTR_LEN|SLURM_TIME_FORMAT")

# reasons that waiting does not change: the request asks for what the partition does not have
_HOPELESS = frozenset(
    {
        "AccountNotAllowed",
        "BadConstraints",
        "InvalidAccount",
        "InvalidQOS",
        "PartitionConfig",
        "PartitionNodeLimit",
        "PartitionTimeLimit",
        "QOSNotAllowed",
    }
)

# how they refuse to change a job that has ended, or is unknown
_IT_IS_OVER = ("Invalid job id", "already finished", "already completing or completed")


class Job(Record, frozen=True):
    """A job as the controller knows it."""

    id: str  # "12", or "12_3" for a task of an array
    name: str
    state: str  # Slurm's own word: PENDING, RUNNING, NODE_FAIL, ...
    nodes: str = ""
    reason: str | None = None  # why it waits; None: Slurm does not say

    @property
    def is_unsatisfiable(self) -> bool:
        return self.reason in _HOPELESS

    @property
    def is_failure(self) -> bool:
        return self.state in _FAILED

    @property
    def phase(self) -> Phase:
        if self.state in _PENDING:
            return Phase.PENDING
        return Phase.ENDED if self.state in _ENDED else Phase.RUNNING


def version() -> str:
    """Of Slurm's commands here: `slurm-wlm 22.05.8`. Raises SlurmError."""
    return _call("sbatch", "--version", limit_s=LOOK_LIMIT_S).strip()


def submit(script: str, options: Sequence[str], environment: Mapping[str, str]) -> str:
    """Submit a batch script; the job's id. Raises SlurmError with Slurm's own words.

    environment: sbatch's own, and what it may pass on to the job.
    """
    told = _call("sbatch", "--parsable", *options, script, environment=environment).strip()
    if (job := re.fullmatch(r"(\d+)(;.*)?", told)) is None:  # the cluster's name follows in a federation
        raise SlurmError(f"sbatch does not say which job it made, but {told[:80]!r}.")
    return job[1]


def jobs(user: str) -> Mapping[str, Job]:
    """Our jobs of a user that the controller remembers, ended ones included, by id. Raises SlurmError."""
    found = {}
    told = _call(
        "squeue",
        "--noheader",
        "--all",
        "--array",
        "--states=all",
        f"--user={user}",
        f"--format={_FORMAT}",
        limit_s=LOOK_LIMIT_S,
    )
    for line in told.split("\n"):
        if (said := _LINE.fullmatch(line)) is None:
            continue
        job_id, state, nodes, reason, name = said.groups()
        found[job_id] = Job(
            id=job_id, name=name, state=state, nodes=nodes, reason=None if reason in {"", "None", "(null)"} else reason
        )
    return found


def cancel(job_id: str, *, only_pending: bool = False) -> None:
    """End a job for good: SIGTERM and, after KillWait, SIGKILL. One that has ended already is no error.

    only_pending: leave one alone that has begun.
    """
    if not only_pending:
        _call("scancel", job_id)
        return
    with suppress(JobIsOverError):
        if "_" in job_id:
            # scancel with a state takes the whole array, unless the task is a job of its own: any change makes it one
            _call("scontrol", "update", f"JobId={job_id}", "Comment=backprop")
        _call("scancel", "--state=PENDING", job_id)


def terminate_tasks(job_id: str) -> None:
    """Send SIGTERM to all that srun has started in the job we are in. Does not wait: the call is a child of ours.

    srun itself passes SIGTERM on as SIGKILL. Without a controller nothing is sent.
    """
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    with suppress(OSError):  # no scancel on this node
        os.posix_spawnp("scancel", ["scancel", "--signal=TERM", job_id], _seeing(), file_actions=null, setsid=True)


def standing(job_id: str) -> tuple[str, int]:
    """The state of one job in Slurm's word, and how often it was put back into the line. Raises SlurmError."""
    words = ("scontrol", "--oneliner", "show", "job", job_id)
    try:
        said = _call(*words)
    except CallKilledError:  # one signal is no reason not to know why it came
        said = _call(*words)
    told = dict(word.partition("=")[::2] for word in said.split())
    return told.get("JobState", ""), int(told.get("Restarts", "0"))


def release(job_id: str) -> None:
    """Let a job begin that was submitted with --hold. Raises SlurmError."""
    _call("scontrol", "release", job_id)


def was_ever_released(job_id: str) -> bool:
    """Whether a job that was submitted with --hold has been in the line at any time. Raises SlurmError.

    A hold by hand takes the first of these times away again, but not the second. A job with a --begin of its own has
    the first from the start: it is taken for released.
    """
    told = _call("scontrol", "--oneliner", "show", "job", job_id)
    return "EligibleTime=Unknown" not in told or "AccrueTime=Unknown" not in told


def requeue(job_id: str) -> None:
    """Put the job we are in back into the line; Slurm ends us a moment later.

    Raises SlurmError where that is refused.
    """
    with suppress(CallKilledError):  # what it asked for has reached itself
        _call("scontrol", "requeue", job_id)


def start_now(job_id: str) -> None:
    """Let a requeued job start as soon as there is room: else it waits two minutes.

    Not within two seconds of that: its node would take the start for that of the job that it has just killed. Raises
    SlurmError while it is not pending yet.
    """
    _call("scontrol", "update", f"JobId={job_id}", "StartTime=now")


def host_names(nodes: str) -> list[str]:
    """The nodes in Slurm's short form: node[1-3] -> node1, node2, node3. Raises SlurmError."""
    return _call("scontrol", "show", "hostnames", nodes).split()


def address(node: str) -> str:
    """Where Slurm itself reaches a node: its name need not be one that anybody resolves. Raises SlurmError."""
    found = re.search(r"\bNodeAddr=(\S+)", _call("scontrol", "--oneliner", "show", "node", node))
    return found[1] if found else node


def _seeing() -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if not _BLINDERS.fullmatch(name)}, "LC_ALL": "C"}


def _call(
    program: str, *arguments: str, limit_s: float | None = None, environment: Mapping[str, str] | None = None
) -> str:
    limit_s = CALL_LIMIT_S if limit_s is None else limit_s
    if environment is None:
        environment = _seeing()
    try:
        process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal is for us: a job half submitted is of no use
        )
    except FileNotFoundError as error:
        raise SlurmError(f"{program} is not on PATH: this machine submits to no Slurm cluster.") from error
    with process:
        try:
            out, err = process.communicate(timeout=limit_s)
        except BaseException as error:
            if process.returncode is None:  # else its number may be another's
                with suppress(ProcessLookupError):  # with what it has started: many a site has a script in its place
                    os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise SlurmError(f"Slurm does not answer ({program}, {limit_s:g} s): is its controller up?") from error
    if process.returncode < 0:
        raise CallKilledError(f"{program} was killed by {signal.Signals(-process.returncode).name}.")
    if process.returncode:
        said = [line.split("error: ", 1)[-1].strip() for line in err.splitlines() if line.strip()]
        told = "; ".join(dict.fromkeys(said)) or f"exit code {process.returncode}"
        is_over = any(words in told for words in _IT_IS_OVER)
        raise (JobIsOverError if is_over else SlurmError)(f"{program}: {told}.")
    return out


def cancel_named(name: str, user: str) -> None:
    """End all jobs of a user that have this name and have not begun. None is no error. Raises SlurmError."""
    _call("scancel", "--state=PENDING", f"--user={user}", f"--name={name}", limit_s=LOOK_LIMIT_S)
