"""`--on slurm` at the user's end: hand runs to Slurm, held until their journals know it, and stay with one if wanted.

The run itself is in the hands of its own supervisor inside the job: see cli/slurm/job.py. Whatever happens to this
process or its machine, the run goes on, and `backprop logs -f` shows it from anywhere.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from backprop import engines, host
from backprop.cli.context import say
from backprop.cli.slurm.follow import Follower
from backprop.engines.base import Order, Phase
from backprop.engines.slurm import client as slurm_client
from backprop.engines.slurm.client import SlurmError
from backprop.engines.slurm.engine import job_name
from backprop.errors import BackpropError, BusyError, ExitCode
from backprop.lifecycle import continuation, driver
from backprop.store.journal import file as journals
from backprop.store.journal.entries import Submitted
from backprop.supervisor.signals import Signals

if TYPE_CHECKING:
    from backprop.lifecycle.owned_run import OwnedRun, Request
    from backprop.store.ingest import Recorder

_FIRST_LOOK_S = 3.0  # what Slurm can never place, it says within a moment


def train(claim: "OwnedRun", request: "Request", recorder: "Recorder", *, detach: bool, as_json: bool) -> int:
    """Hand the run to Slurm and, unless detached, stay with it; what to exit with. Raises BackpropError."""
    with Signals(ignore_hangup=False).caught() as signals:  # a job that is held, and of nobody, would stay for ever
        (job,) = submit([(claim, recorder)], request)
        front = Follower(claim, recorder, job, as_json=as_json)
        if not detach:
            return front.follow(signals)
        refused = front.look_for_refusal(_FIRST_LOOK_S, signals)
        if refused is not None:
            return refused
        if signals.take_end():
            front.stop()
            return front.follow(signals)
    say(f"run {claim.spec.id} is Slurm job {job} · follow with: backprop logs {claim.spec.id} -f")
    if not as_json:
        print(claim.spec.id)
    return ExitCode.OK


def submit(claims: "Sequence[tuple[OwnedRun, Recorder]]", request: "Request") -> list[str]:
    """Hand claimed runs to Slurm; their jobs. The claims are given up: the runs are the jobs'.

    Raises BackpropError; then runs that were just made are taken back.
    """
    cluster = engines.cluster()
    orders = [Order(claim.rundir, claim.spec, request.limits.timebox_s) for claim, _ in claims]
    try:
        jobs = cluster.submit(orders)
    except (BackpropError, OSError) as error:
        told = f"{error}{_cancel_unheard(claims[0][0])}"
        for claim, _ in claims:
            if claim.is_new:
                claim.rundir.remove()
            claim.journal.close()
        if isinstance(error, OSError):
            raise claims[0][0].home.unusable(error) from error
        raise type(error)(told) from error
    try:
        for (claim, recorder), job in zip(claims, jobs, strict=True):
            _end_earlier_job(claim, recorder, job)
            _tell_submitted(claim, recorder, request, job)
        cluster.release(jobs)
    except (BackpropError, OSError) as error:
        told = f"{error}{_withdraw(jobs[0].partition('_')[0])}"
        for claim, recorder in claims:
            driver.refuse(claim, recorder, told)
        raise BusyError(f"run {claims[0][0].spec.id} was not started: {told}") from error
    finally:
        for claim, _ in claims:
            claim.journal.close()
    return jobs


def _cancel_unheard(claim: "OwnedRun") -> str:
    """An sbatch that takes too long may have submitted the job all the same, and only its name is known.

    What is left for the user to do, if Slurm does not even answer to that.
    """
    is_of_array = claim.spec.slurm is not None and claim.spec.slurm.array is not None
    if not claim.is_new and is_of_array:  # a task that is resumed has the name of all the array
        return ""
    try:
        slurm_client.cancel_named(job_name(claim.spec), host.user())
    except SlurmError:
        return f" If Slurm took the job anyway, it is held; cancel it with: scancel --name={job_name(claim.spec)}"
    return ""


def _withdraw(job: str) -> str:
    """End a job that is held, an array with all its tasks; what is left for the user to do, if that cannot be done."""
    try:
        slurm_client.cancel(job)
    except SlurmError:
        return f" Its job may still be held; cancel it with: scancel {job}"
    return ""


def train_many(claims: "Sequence[tuple[OwnedRun, Recorder]]", request: "Request") -> int:
    """Hand runs that ask for the same to Slurm, as the tasks of one array; what to exit with. Raises BackpropError."""
    with Signals(ignore_hangup=True).caught() as signals:  # half submitted is no state to be left in
        jobs = submit(claims, request)
        code = _look_for_refusals(claims, jobs, signals)
        if code == ExitCode.OK and signals.take_end():
            return _take_back(claims, jobs)
    if code == ExitCode.OK:
        say(f"{len(jobs)} runs are Slurm jobs {jobs[0]} to {jobs[-1]} · check with: backprop list")
    return code


def _take_back(claims: "Sequence[tuple[OwnedRun, Recorder]]", jobs: Sequence[str]) -> int:
    """Ctrl-C came while they were submitted: each leaves the line, and one that has begun meanwhile is stopped."""
    from backprop.lifecycle import requests, run_state

    answers = True
    try:  # by one call for all: none begins while others are asked
        slurm_client.cancel(jobs[0].partition("_")[0], only_pending=True)
    except SlurmError as error:
        say(str(error))
        answers = False
    for claim, _ in claims:
        try:
            run = run_state.look(claim.home, claim.spec).run
            if not run.status.is_final:
                requests.request_stop(claim.home, run, by="Ctrl-C", leave_line=answers)
        except BackpropError as error:  # it has ended just now, or was removed; or Slurm does not answer any more
            say(str(error))
            answers = answers and not isinstance(error.__cause__, SlurmError)
    say(f"{len(claims)} runs were asked to stop · check with: backprop list")
    return ExitCode.INTERRUPTED


def _look_for_refusals(claims: "Sequence[tuple[OwnedRun, Recorder]]", jobs: Sequence[str], signals: Signals) -> int:
    """What to exit with: of the tasks of an array all can be placed, or none. Ends early when they are unwanted."""
    watched = [Follower(*claim, job, as_json=False) for claim, job in zip(claims, jobs, strict=True)]
    if watched[0].look_for_refusal(_FIRST_LOOK_S, signals) is None:
        return ExitCode.OK
    for front in watched[1:]:
        front.look_for_refusal(_FIRST_LOOK_S, signals)
    return ExitCode.REFUSED


def _end_earlier_job(claim: "OwnedRun", recorder: "Recorder", job: str) -> None:
    """Take away what may be left in Slurm's line of an earlier session. If it stays, it finds that it is not wanted.

    One that runs, and has nothing more to do, is only telling somebody of the end. job: the new one, which has the same
    id where a controller has lost its state and counts anew.
    """
    run, _ = recorder.read_run()
    if run.job in {None, job}:
        return
    phase = engines.cluster().observe(run).phase
    may_go_on = continuation.remaining(run, journals.read(claim.rundir.journal_path)[0]) is not None
    if phase is Phase.PENDING or (phase is Phase.RUNNING and may_go_on):
        with suppress(SlurmError):
            engines.cluster().cancel(run)


def _tell_submitted(claim: "OwnedRun", recorder: "Recorder", request: "Request", job: str) -> None:
    run, _ = recorder.read_run()
    recorder.begin()
    is_told = claim.journal.append(
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
            resume_arg=claim.spec.resume_arg,
            slurm=claim.spec.slurm,
            revision=request.revision,
            only_once=request.only_once,
            reason=f"submitted as Slurm job {job}",
        )
    )
    if not is_told:  # the job would find that it is not the run's
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    recorder.begin()
    recorder.record_state(publish=True)
