"""A Slurm cluster as an engine: Slurm schedules the job, and inside it our own supervisor runs the session."""

import math
import os
import re
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone

from backprop import host
from backprop.engines.base import Observation, Phase, Submission
from backprop.engines.slurm import client as slurm_client
from backprop.engines.slurm.client import NAME_PREFIX, Job, SlurmError
from backprop.errors import UsageError
from backprop.records import Run, RunSpec
from backprop.store.files import write_plain
from backprop.store.rundir import RunDir

MARGIN_S = 120.0  # added to the longest session, before Slurm ends the job: it checks its clock only every 30 s
_WARN_MARGIN_S = 60.0  # added to the grace: Slurm's warning must come early enough for a graceful stop
_HARD_RAM = 1.25  # of --ram-limit: the governor stops the run gracefully before Slurm kills it
_HURRY_AFTER_S = 3.0  # Slurm kills a job again that starts within two seconds of its requeue
_FRESH_S = 1.0  # how long one query of all jobs is used
_REST_SHARE = 10.0  # or this multiple of the time it took: a busy controller is queried less often
_AWAY_S = 30.0  # at most, and after a failed query, each of which costs seconds
_CLOCKS_APART_S = 300.0  # at most: munge, which authenticates Slurm's users, rejects clocks that are further off
_QUESTIONS = 20  # queries of single jobs, at most, per query of all of them
_SUBMITTED_S = 60.0  # a submission takes three calls of at most 20 s each

# The variables that a trainer needs; nothing else is exported, and nothing whose name suggests a secret.
_EXPORTED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|TZ|TERM|TMPDIR|MANPATH|LD_LIBRARY_PATH|LIBRARY_PATH|VIRTUAL_ENV|CPATH"
    r"|NO_COLOR|MODULEPATH|MODULESHOME|LOADEDMODULES|_LMFILES_|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|SLURM_CONF|PYTHON[A-Z]+"
    r"|(LC|CONDA|MAMBA|LMOD|MODULES|XDG|OMP|KMP|MKL|OPENBLAS|CUDA|ROCM|HIP|HSA|NCCL|RCCL|GLOO|TORCH|TORCHINDUCTOR|PYTORCH"
    r"|TRITON|JAX|XLA|TF|KERAS|HF|TRANSFORMERS|WANDB|MLFLOW|UCX|FI|SBATCH|BACKPROP)_[A-Z0-9_]+"
)
_KEPT_BACK = re.compile(
    r".*(TOKEN|SECRET|PASS|CREDENTIAL|AUTH|PRIVATE|WEBHOOK|KEY$|KEY_|_PAT$).*"
    r"|.*_PWD?$|XDG_RUNTIME_DIR|BACKPROP_(MACHINE|NOTIFY)|(CUDA|HIP|ROCR)_VISIBLE_DEVICES"  # local to this machine
    r"|SBATCH_(ARRAY_INX|CLUSTERS|WAIT)"  # refused as options, too
)
_WITH_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")
# options of sbatch that would separate a run from its job, give it what it must not have, or submit nothing
_REFUSED_LETTERS = re.compile(r"-[OQksv]*[JaMWHDoVhu].*")  # after those that have no value
_REFUSED = (
    "array", "chdir", "clusters", "export", "export-file", "get-user-env", "help", "hold", "job-name", "output",
    "parsable", "test-only", "usage", "version", "wait", "wrap",
)  # fmt: skip


class SlurmEngine:
    """Implements `engines.base.Engine`."""

    def __init__(self) -> None:
        self._seen: Mapping[str, Job] | SlurmError = {}
        self._seen_until = -math.inf
        self._looked_at = datetime.min.replace(tzinfo=timezone.utc)
        self._has_complained = False
        self._requeued: dict[str, tuple[str, float]] = {}  # job -> queued_at, when that was first seen; inf: hurried
        self._released: set[str] = set()  # jobs that were released once: a hold on one is manual
        self._questions_left = 0

    def submit(self, submissions: Sequence[Submission]) -> list[str]:
        """Returns the jobs' ids; several runs are tasks of one array. They are held until `release`."""
        first = submissions[0]
        write_plain(first.rundir.job_script_path, script([one.rundir for one in submissions]).encode())
        first.rundir.job_script_path.chmod(0o700)
        arguments = options(first, len(submissions))
        job_id = slurm_client.submit(str(first.rundir.job_script_path), arguments, exported(os.environ))
        self.invalidate()
        return [job_id] if len(submissions) == 1 else [f"{job_id}_{task}" for task in range(len(submissions))]

    def release(self, ids: Sequence[str]) -> None:
        """Release the hold on a job, which for an array is that of all its tasks. Raises SlurmError."""
        slurm_client.release(ids[0].partition("_")[0])

    def cancel(self, run: Run) -> None:
        """Cancel the job of a run, unless it has ended or its id belongs to another job by now. Raises SlurmError."""
        if (job := self._own_job(run)) is not None:
            slurm_client.cancel(job)

    def withdraw(self, run: Run) -> Observation:
        """Remove a run from Slurm's queue unless it has started; returns its state then. Raises SlurmError."""
        if (job := self._own_job(run)) is not None:
            slurm_client.cancel(job, only_pending=True)
        self.invalidate()
        return self.observe(run)

    def _own_job(self, run: Run) -> str | None:
        """The job in a run's record, if Slurm confirms that it is that run's: a record can name any job of the user's.

        Raises SlurmError.
        """
        self.invalidate()
        self._look()
        if isinstance(self._seen, SlurmError):
            raise self._seen
        job = self._seen.get(run.job or "")
        return job.id if job is not None and job.name == job_name(run.spec) else None

    def observe(self, run: Run) -> Observation:
        """The state of a run. All jobs of the user are queried at once, so that many runs cost one call.

        A job is reported as ended only after a query that is newer than the job.
        """
        is_fresh = self._look()
        seen = self._observed(run)
        if seen.phase is Phase.ENDED and not is_fresh and not self._is_older(run):
            self.invalidate()
            self._look()
            seen = self._observed(run)
        return seen

    def _is_older(self, run: Run) -> bool:
        """Whether a run's job was recorded well before the last query; False where that is not certain."""
        if run.waiter is not None:
            recorded_at = run.waiter.since
        elif run.last_session is not None:
            recorded_at = run.last_session.started_at
        else:
            return False
        return (self._looked_at - recorded_at).total_seconds() > _CLOCKS_APART_S

    def _look(self) -> bool:
        """Query Slurm unless the last answer is recent. Returns whether it was queried."""
        if time.monotonic() <= self._seen_until:
            return False
        self._looked_at, began_at = datetime.now(timezone.utc), time.monotonic()
        self._questions_left = _QUESTIONS
        try:
            self._seen = slurm_client.jobs(host.user())
            self._has_complained = False
        except SlurmError as error:
            self._seen = error
        now = time.monotonic()
        rest_s = _AWAY_S if isinstance(self._seen, SlurmError) else _REST_SHARE * (now - began_at)
        self._seen_until = now + min(_AWAY_S, max(_FRESH_S, rest_s))
        return True

    def _observed(self, run: Run) -> Observation:
        if isinstance(self._seen, SlurmError):
            return Observation(phase=Phase.UNKNOWN, message=str(self._seen))
        if run.job is None and not run.status.is_final and _may_be_submitted_yet(run.spec):
            return Observation(phase=Phase.PENDING, message="it is being submitted")
        job = self._seen.get(run.job or "")
        if job is None or job.name != job_name(run.spec):  # a controller that lost its state reuses ids
            detail = f"Slurm does not know its job {run.job} any more" if run.job else "it was never submitted to Slurm"
            return Observation(phase=Phase.ENDED, message=detail, is_known=False)
        if job.phase is not Phase.ENDED:
            return Observation(phase=job.phase, message=job.reason, is_unsatisfiable=job.is_unsatisfiable)
        why = f", {job.reason}" if job.is_unsatisfiable else ""
        detail = f"its Slurm job {run.job} ended: {job.state}{why}"
        return Observation(
            phase=Phase.ENDED, message=detail, is_unsatisfiable=job.is_unsatisfiable, is_failure=job.is_failure
        )

    def hurry(self, run: Run, seen: Observation) -> None:
        """Let a requeued job start now: by default it waits for two minutes.

        Once, after it has been seen in the queue for some seconds since its last requeue. seen: what `observe` returned
        just now.
        """
        jobs, now = self._seen, time.monotonic()
        job = None if isinstance(jobs, SlurmError) else jobs.get(run.job or "")
        if job is None or seen.phase is not Phase.PENDING or seen.message != "BeginTime":
            return
        if all(session.job != job.id for session in run.sessions):
            return  # it waits for the user's own --begin
        queued_at, since = self._requeued.get(job.id, (job.queued_at, now))
        if queued_at != job.queued_at:  # it has run since, and was requeued again
            since = now
        if now - since >= _HURRY_AFTER_S:
            with suppress(SlurmError):  # retried at the next query
                since = math.inf if slurm_client.start_now(job.id, job.queued_at) else since
        self._requeued[job.id] = job.queued_at, since

    def release_forgotten(self, run: Run, seen: Observation) -> None:
        """Release a job that is still held because its submitter died before it released it.

        A job that a user holds stays held. seen: what `observe` returned just now.
        """
        is_held = seen.message == slurm_client.HELD
        if not is_held or run.waiter is None or run.job is None or _age_s(run.waiter.since) < _SUBMITTED_S:
            return
        if run.job in self._released or not self._questions_left:
            return
        self._questions_left -= 1
        try:
            if not slurm_client.was_ever_released(run.job):
                slurm_client.release(run.job)
            self._released.add(run.job)
        except SlurmError:  # retried at the next query
            self._questions_left = 0

    def forget_unsubmitted(self, spec: RunSpec) -> None:
        """Cancel the held job of a run whose record names none: its submitter died before it recorded the job."""
        asked = spec.slurm
        is_first = asked is None or asked.array in {None, spec.id}  # the tasks of an array are recorded in order
        if is_first:
            with suppress(SlurmError):  # it can still be found in Slurm's queue by its name
                slurm_client.cancel_named(job_name(spec), host.user())

    def invalidate(self) -> None:
        """Query Slurm at the next call: we have just changed something."""
        self._seen_until = -math.inf

    def complaint(self) -> str | None:
        """A message that Slurm does not answer: once, until it does."""
        if not isinstance(self._seen, SlurmError) or self._has_complained:
            return None
        self._has_complained = True
        return f"{self._seen} Its runs are shown in their last recorded state."


def _may_be_submitted_yet(spec: RunSpec) -> bool:
    """Whether its submitter may still be working: to file the run now would leave its job held."""
    return _age_s(spec.created_at) < _SUBMITTED_S


def _age_s(since: datetime) -> float:
    return (datetime.now(timezone.utc) - since).total_seconds()


def job_name(spec: RunSpec) -> str:
    """The name of a run's job: an id, without special characters."""
    asked = spec.slurm
    return f"{NAME_PREFIX}{spec.id if asked is None or asked.array is None else asked.array}"


def script(rundirs: Sequence[RunDir]) -> str:
    """The batch script. Our supervisor replaces the shell, because Slurm's warning reaches only that process.

    A warning that comes before the supervisor handles it is ignored: a preempted job is requeued all the same.
    """
    words = shlex.join([sys.executable, "-m", "backprop", "execute", *(str(rundir.path) for rundir in rundirs)])
    return f"#!/bin/sh\n# written by backprop\ntrap '' USR1\nexec {words}\n"


def options(submission: Submission, tasks: int) -> list[str]:
    """The options of sbatch. Its time limit is a backstop: the supervisor inside the job keeps the timebox.

    tasks: more than one make an array. Raises UsageError for an argument that would separate the run from its job.
    """
    rundir, spec, timebox_s = submission.rundir, submission.spec, submission.timebox_s
    asked = spec.slurm
    if asked is None:
        raise ValueError("this run is not for Slurm")
    for argument in asked.arguments:
        _check_argument(argument)
    grace_s = spec.limits.grace_s
    arguments = [
        "--hold",
        "--requeue",
        f"--job-name={job_name(spec)}",
        f"--chdir={rundir.path.parent.parent}",  # the home: a run may be removed while others of its array wait
        "--output=/dev/null",  # see cli/slurm/job.py: each run has a log of its own
        f"--time={math.ceil((timebox_s + spec.limits.longest_end_s + MARGIN_S) / 60)}",
        f"--signal=B:USR1@{math.ceil(grace_s + _WARN_MARGIN_S)}",
        "--export=ALL",  # that sbatch itself gets: see `exported`
        f"--nodes={asked.nodes}",
        "--ntasks-per-node=1",
    ]
    arguments += [f"--array=0-{tasks - 1}"] if tasks > 1 else []
    arguments += [f"--partition={asked.partition}"] if asked.partition else []
    arguments += [f"--cpus-per-task={asked.cpus}"] if asked.cpus else []
    arguments += [f"--gpus-per-node={spec.limits.gpu_count}"] if spec.limits.gpu_count else []
    ram_bytes = spec.limits.ram_limit_bytes
    arguments += [f"--mem={math.ceil(ram_bytes * _HARD_RAM / 1e6)}M"] if ram_bytes else []
    return [*arguments, *asked.arguments]


def _check_argument(argument: str) -> None:
    """Raise UsageError for an argument that must not be passed on. sbatch accepts any prefix of an option's name."""
    if not argument.startswith("-"):
        raise UsageError(f"--slurm-arg {argument}: an option is one word, with its value: --slurm-arg=--account=ml")
    if argument.startswith("--"):
        name = argument[2:].partition("=")[0]
        is_refused = any(refused.startswith(name) for refused in _REFUSED)
    else:
        is_refused = _REFUSED_LETTERS.fullmatch(argument) is not None
    if is_refused:
        raise UsageError(
            f"--slurm-arg {argument} is not allowed: Backprop sets that itself, or would lose track of its job."
        )


def exported(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that a job gets: those that a trainer needs, without secrets.

    With names in `--export` Slurm would start the user's login shell for more of them.
    """
    return {
        name: value
        for name, value in environment.items()
        if _EXPORTED.fullmatch(name) and not _KEPT_BACK.fullmatch(name) and not _WITH_PASSWORD.search(value)
    }
