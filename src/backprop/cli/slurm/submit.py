"""`--on slurm` at the user's end: submit runs, held until their journals know it, and follow one if wanted.

The run belongs to its supervisor inside the job: see cli/slurm/job.py. Whatever happens to this
process or its machine, the run continues, and `backprop logs -f` shows it from anywhere.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone

from backprop import engines, host
from backprop.cli.context import say
from backprop.cli.slurm.follow import Follower
from backprop.engines.base import Phase, Submission
from backprop.engines.slurm import client as slurm_client
from backprop.engines.slurm.client import SlurmError
from backprop.engines.slurm.engine import job_name
from backprop.errors import BackpropError, BusyError, ExitCode
from backprop.lifecycle import continuation, driver
from backprop.lifecycle.owned_run import OwnedRun, Request
from backprop.store.journal import file as journals
from backprop.store.journal.entries import Submitted
from backprop.supervisor.signals import Signals

_FIRST_LOOK_S = 3.0  # Slurm reports within a moment what it can never schedule


def train(owned: OwnedRun, request: Request, *, detach: bool, as_json: bool) -> int:
    """Hand the run to Slurm and, unless detached, stay with it; what to exit with. Raises BackpropError."""
    with Signals(ignore_hangup=False).caught() as signals:  # else a held job could stay for ever
        (job,) = submit([owned], request)
        front = Follower(owned, job, as_json=as_json)
        if not detach:
            return front.follow(signals)
        refused = front.look_for_refusal(_FIRST_LOOK_S, signals)
        if refused is not None:
            return refused
        if signals.take_end():
            front.stop()
            return front.follow(signals)
    say(f"run {owned.spec.id} is Slurm job {job} · follow with: backprop logs {owned.spec.id} -f")
    if not as_json:
        print(owned.spec.id)
    return ExitCode.OK


def submit(runs: Sequence[OwnedRun], request: Request) -> list[str]:
    """Hand owned runs to Slurm; their jobs, which own the runs from now on.

    Raises BackpropError; then runs that were just made are taken back.
    """
    cluster = engines.cluster()
    orders = [Submission(owned.rundir, owned.spec, request.limits.timebox_s) for owned in runs]
    try:
        jobs = cluster.submit(orders)
    except (BackpropError, OSError) as error:
        problem = f"{error}{_cancel_unanswered(runs[0])}"
        for owned in runs:
            if owned.is_new:
                owned.rundir.remove()
            owned.journal.close()
        if isinstance(error, OSError):
            raise runs[0].home.unusable(error) from error
        raise type(error)(problem) from error
    try:
        for owned, job in zip(runs, jobs, strict=True):
            _end_earlier_job(owned, job)
            _record_submitted(owned, request, job)
        cluster.release(jobs)
    except (BackpropError, OSError) as error:
        problem = f"{error}{_withdraw(jobs[0].partition('_')[0])}"
        for owned in runs:
            driver.refuse(owned, problem)
        raise BusyError(f"run {runs[0].spec.id} was not started: {problem}") from error
    finally:
        for owned in runs:
            owned.journal.close()
    return jobs


def _cancel_unanswered(owned: OwnedRun) -> str:
    """An sbatch that takes too long may have submitted the job all the same, and only its name is known.

    What is left for the user to do, if Slurm does not even answer to that.
    """
    is_of_array = owned.spec.slurm is not None and owned.spec.slurm.array is not None
    if not owned.is_new and is_of_array:  # a task that is resumed has the name of all the array
        return ""
    try:
        slurm_client.cancel_named(job_name(owned.spec), host.user())
    except SlurmError:
        return f" If Slurm took the job anyway, it is held; cancel it with: scancel --name={job_name(owned.spec)}"
    return ""


def _withdraw(job: str) -> str:
    """End a job that is held, an array with all its tasks; what is left for the user to do, if that cannot be done."""
    try:
        slurm_client.cancel(job)
    except SlurmError:
        return f" Its job may still be held; cancel it with: scancel {job}"
    return ""


def train_many(runs: Sequence[OwnedRun], request: Request) -> int:
    """Hand runs that ask for the same to Slurm, as the tasks of one array; what to exit with. Raises BackpropError."""
    with Signals(ignore_hangup=True).caught() as signals:  # half submitted is no state to be left in
        jobs = submit(runs, request)
        code = _look_for_refusals(runs, jobs, signals)
        if code == ExitCode.OK and signals.take_end():
            return _take_back(runs, jobs)
    if code == ExitCode.OK:
        say(f"{len(jobs)} runs are Slurm jobs {jobs[0]} to {jobs[-1]} · check with: backprop list")
    return code


def _take_back(runs: Sequence[OwnedRun], jobs: Sequence[str]) -> int:
    """Ctrl-C came while they were submitted: each leaves the queue, and one that has started is stopped."""
    from backprop.lifecycle import requests, run_state

    answers = True
    try:  # by one call for all: none begins while others are asked
        slurm_client.cancel(jobs[0].partition("_")[0], only_pending=True)
    except SlurmError as error:
        say(str(error))
        answers = False
    for owned in runs:
        try:
            run = run_state.look(owned.home, owned.spec).run
            if not run.status.is_final:
                requests.request_stop(owned.home, run, by="Ctrl-C", dequeue=answers)
        except BackpropError as error:  # it has ended just now, or was removed; or Slurm does not answer any more
            say(str(error))
            answers = answers and not isinstance(error.__cause__, SlurmError)
    say(f"{len(runs)} runs were asked to stop · check with: backprop list")
    return ExitCode.INTERRUPTED


def _look_for_refusals(runs: Sequence[OwnedRun], jobs: Sequence[str], signals: Signals) -> int:
    """What to exit with: of the tasks of an array all can be placed, or none. Ends early when they are unwanted."""
    watched = [Follower(owned, job, as_json=False) for owned, job in zip(runs, jobs, strict=True)]
    if watched[0].look_for_refusal(_FIRST_LOOK_S, signals) is None:
        return ExitCode.OK
    for front in watched[1:]:
        front.look_for_refusal(_FIRST_LOOK_S, signals)
    return ExitCode.REFUSED


def _end_earlier_job(owned: OwnedRun, job: str) -> None:
    """Cancel what may still be queued of an earlier session. If it stays, it finds that it is not wanted.

    One that runs, and has nothing more to do, is only notifying of the end. job: the new one, which has the same id
    where a controller has lost its state and counts from the start.
    """
    run, _ = owned.recorder.read_run()
    if run.job in {None, job}:
        return
    phase = engines.cluster().observe(run).phase
    may_go_on = continuation.remaining(run, journals.read(owned.rundir.journal_path)[0]) is not None
    if phase is Phase.PENDING or (phase is Phase.RUNNING and may_go_on):
        with suppress(SlurmError):
            engines.cluster().cancel(run)


def _record_submitted(owned: OwnedRun, request: Request, job: str) -> None:
    recorder = owned.recorder
    run, _ = recorder.read_run()
    recorder.begin()
    is_recorded = owned.journal.append(
        Submitted(
            at=datetime.now(timezone.utc),
            session=1 + run.newest_number,
            job=job,
            host=host.name(),
            limits=request.limits,
            checkpoint=request.checkpoint,
            gpu_probe=request.gpu_probe,
            retries=request.retries,
            sessions=request.sessions,
            resume_arg=owned.spec.resume_arg,
            slurm=owned.spec.slurm,
            revision=request.revision,
            only_once=request.only_once,
            request_id=request.request_id,
            reason=f"submitted as Slurm job {job}",
        )
    )
    if not is_recorded:  # the job would find that it is not the run's
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    recorder.begin()
    recorder.record_state(publish=True)
