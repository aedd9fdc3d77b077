"""Slurm's own commands: submit, list, cancel and requeue jobs. Every call has a time limit.

Facts behind the choices, measured on Slurm 22.05: `squeue --json` ignores `-j` and changes between versions; unknown
ids among known ones are dropped silently, and an unknown one alone is an error, so all jobs of the user are listed;
without slurmdbd `sacct` is useless, and a job that has ended vanishes after MinJobAge.
"""

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress

from backprop import host
from backprop.engines.base import Phase
from backprop.errors import BackpropError
from backprop.records import Record

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")
LOOK_LIMIT_S = 5.0  # a command waits for the answer, and can do without it
CALL_LIMIT_S = 20.0  # for a busy controller; one that is down makes its clients wait for a minute
_FORMAT = "%i|%T|%N|%V|%r|%j"  # the reason may hold anything, and our names hold no bar


class SlurmError(BackpropError):
    """Slurm rejected a request, or did not answer."""


class JobIsOverError(SlurmError):
    """The job has ended, or the controller does not know it."""


class CallKilledError(SlurmError):
    """A signal ended the call. In a job it comes from Slurm, which signals all processes of a job that it ends."""


_PENDING = frozenset({"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD"})
# any other state, also of newer versions of Slurm: the job is alive
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
HELD = "JobHeldUser"  # the reason of a job that is pending until it is released
# a line about one of our jobs; other jobs may have any name
_LINE = re.compile(rf"(\d+(?:_\d+)?)\|([A-Z_]+)\|([^|]*)\|([^|]*)\|(.*)\|({NAME_PREFIX}[A-Za-z0-9._-]+)")
# variables that change what squeue and scontrol print
_OUTPUT_SETTINGS = re.compile(r"SQUEUE_.*|SLURM_CLUSTERS|SCANCEL_.*|SLURM_BITSTR_LEN|SLURM_TIME_FORMAT")

# reasons that waiting does not change: the partition does not have what is requested
_UNSATISFIABLE = frozenset(
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

# errors of a change to a job that has ended or is unknown
_JOB_IS_OVER = ("Invalid job id", "already finished", "already completing or completed")


class Job(Record, frozen=True):
    """A job as the controller knows it."""

    id: str  # "12", or "12_3" for a task of an array
    name: str
    state: str  # in Slurm's terms: PENDING, RUNNING, NODE_FAIL, ...
    nodes: str = ""
    queued_at: str = ""  # in the controller's local time: a requeue sets it anew
    reason: str | None = None  # why it is pending; None: Slurm gives no reason

    @property
    def is_unsatisfiable(self) -> bool:
        """Whether Slurm can never start it as it was submitted."""
        return self.reason in _UNSATISFIABLE

    @property
    def is_failure(self) -> bool:
        """Whether it failed by itself, or by its node."""
        return self.state in _FAILED

    @property
    def phase(self) -> Phase:
        """Its state in the terms of all engines."""
        if self.state in _PENDING:
            return Phase.PENDING
        return Phase.ENDED if self.state in _ENDED else Phase.RUNNING


def version() -> str:
    """The version of Slurm's commands on this machine: `slurm-wlm 22.05.8`. Raises SlurmError."""
    return _call("sbatch", "--version", limit_s=LOOK_LIMIT_S).strip()


def submit(script: str, options: Sequence[str], environment: Mapping[str, str]) -> str:
    """Submit a batch script; returns the job's id. Raises SlurmError with Slurm's own message.

    environment: of sbatch, which may pass it on to the job.
    """
    answer = _call("sbatch", "--parsable", *options, script, environment=environment).strip()
    if (job := re.fullmatch(r"(\d+)(;.*)?", answer)) is None:  # the cluster's name follows in a federation
        raise SlurmError(f"sbatch printed {answer[:80]!r} instead of a job id.")
    return job[1]


def jobs(user: str) -> Mapping[str, Job]:
    """All of a user's jobs by Backprop that the controller knows, by id, including ended ones. Raises SlurmError."""
    found = {}
    answer = _call(
        "squeue",
        "--noheader",
        "--all",
        "--array",
        "--states=all",
        f"--user={user}",
        f"--format={_FORMAT}",
        limit_s=LOOK_LIMIT_S,
    )
    for line in answer.split("\n"):
        if (match := _LINE.fullmatch(line)) is None:
            continue
        job_id, state, nodes, queued_at, reason, name = match.groups()
        found[job_id] = Job(
            id=job_id,
            name=name,
            state=state,
            nodes=nodes,
            queued_at=queued_at,
            reason=None if reason in {"", "None", "(null)"} else reason,
        )
    return found


def cancel(job_id: str, *, only_pending: bool = False) -> None:
    """End a job for good: SIGTERM and, after KillWait, SIGKILL. One that has ended already is no error.

    only_pending: do nothing to a job that has started.
    """
    if not only_pending:
        _call("scancel", job_id)
        return
    with suppress(JobIsOverError):
        if "_" in job_id:
            # scancel with a state cancels the whole array unless the task is a separate job: any change makes it one
            _call("scontrol", "update", f"JobId={job_id}", "Comment=backprop")
        _call("scancel", "--state=PENDING", job_id)


def terminate_tasks(job_id: str) -> None:
    """Send SIGTERM to all tasks that srun has started in this job. Does not wait: the call becomes a child process.

    srun itself passes SIGTERM on as SIGKILL. Without a controller nothing is sent.
    """
    null = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in range(3)]
    with suppress(OSError):  # no scancel on this node
        os.posix_spawnp("scancel", ["scancel", "--signal=TERM", job_id], _environment(), file_actions=null, setsid=True)


def standing(job_id: str) -> tuple[str, int]:
    """The state of one job in Slurm's terms, and how often it was requeued. Raises SlurmError."""
    try:
        fields = _fields(job_id)
    except CallKilledError:  # retry: the caller asks why this signal came
        fields = _fields(job_id)
    return fields.get("JobState", ""), int(fields.get("Restarts", "0"))


def _fields(job_id: str) -> Mapping[str, str]:
    answer = _call("scontrol", "--oneliner", "show", "job", job_id)
    return dict(word.partition("=")[::2] for word in answer.split())


def release(job_id: str) -> None:
    """Release a job that was submitted with --hold. Raises SlurmError."""
    _call("scontrol", "release", job_id)


def was_ever_released(job_id: str) -> bool:
    """Whether a job that was submitted with --hold was ever released. Raises SlurmError.

    A later manual hold resets EligibleTime, but not AccrueTime. A job with a --begin of its own always has an
    EligibleTime: it is taken for released.
    """
    fields = _fields(job_id)
    return fields.get("EligibleTime") != "Unknown" or fields.get("AccrueTime") != "Unknown"


def requeue(job_id: str) -> None:
    """Requeue this job; Slurm ends it a moment later.

    Raises SlurmError where that is rejected.
    """
    with suppress(CallKilledError):  # by its own effect: the job is being ended
        _call("scontrol", "requeue", job_id)


def start_now(job_id: str, queued_at: str) -> bool:
    """Let a requeued job start as soon as resources are free; by default it waits two minutes. Raises SlurmError.

    Not within two seconds of the requeue: its node would mistake it for the job that it has just killed. So False, and
    nothing is done, where it has not waited since `queued_at`.
    """
    fields = _fields(job_id)
    if (fields.get("JobState"), fields.get("SubmitTime")) != ("PENDING", queued_at):
        return False
    _call("scontrol", "update", f"JobId={job_id}", "StartTime=now")
    return True


def host_names(nodes: str) -> list[str]:
    """Expand a node list: node[1-3] -> node1, node2, node3. Raises SlurmError."""
    return _call("scontrol", "show", "hostnames", nodes).split()


def address(node: str) -> str:
    """The address by which Slurm reaches a node, whose name may not resolve. Raises SlurmError."""
    found = re.search(r"\bNodeAddr=(\S+)", _call("scontrol", "--oneliner", "show", "node", node))
    return found[1] if found else node


def _environment() -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not _OUTPUT_SETTINGS.fullmatch(name)},
        "LC_ALL": "C",
    }


def _call(
    program: str, *arguments: str, limit_s: float | None = None, environment: Mapping[str, str] | None = None
) -> str:
    limit_s = CALL_LIMIT_S if limit_s is None else limit_s
    if environment is None:
        environment = _environment()
    try:
        process = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,  # Ctrl-C in the terminal must not interrupt a submission
        )
    except FileNotFoundError as error:
        raise SlurmError(f"{program} is not on PATH: no Slurm cluster is available on this machine.") from error
    except OSError as error:
        raise SlurmError(f"{program} {host.why_not_started(error)}.") from error
    with process:
        try:
            out, err = process.communicate(timeout=limit_s)
        except BaseException as error:
            if process.returncode is None:  # else its pid may be another process's
                with suppress(ProcessLookupError):  # with its children: some sites replace it by a script
                    os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            raise SlurmError(f"Slurm does not answer ({program}, {limit_s:g} s): is its controller up?") from error
    if process.returncode < 0:
        raise CallKilledError(f"{program} was killed by {signal.Signals(-process.returncode).name}.")
    if process.returncode:
        errors = [line.split("error: ", 1)[-1].strip() for line in err.splitlines() if line.strip()]
        message = "; ".join(dict.fromkeys(errors)) or f"exit code {process.returncode}"
        is_over = any(words in message for words in _JOB_IS_OVER)
        raise (JobIsOverError if is_over else SlurmError)(f"{program}: {message}.")
    return out


def cancel_named(name: str, user: str) -> None:
    """Cancel all pending jobs of a user that have this name; there may be none. Raises SlurmError."""
    _call("scancel", "--state=PENDING", f"--user={user}", f"--name={name}", limit_s=LOOK_LIMIT_S)
