"""Inside a Slurm job: execute what the journal of a run has as submitted.

    reconcile what an earlier attempt left ──> a session ──> what next? ──> requeue, or end

Not for users: the batch script that `--on slurm` writes calls it.
"""

import os
import tempfile
import time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import click
import msgspec

from backprop import host
from backprop.cli import messages
from backprop.cli.context import say
from backprop.engines.slurm import client as slurm_client
from backprop.engines.slurm import rendezvous
from backprop.engines.slurm.client import SlurmError
from backprop.errors import BusyError, ExitCode
from backprop.lifecycle import continuation, driver, owned_run
from backprop.lifecycle.admission import NotAdmitted
from backprop.lifecycle.continuation import Assignment
from backprop.lifecycle.driver import choose_checkpoint
from backprop.lifecycle.owned_run import OwnedRun, Request
from backprop.records import Run, RunSpec, Status
from backprop.store.files import open_to_append, send_output_to
from backprop.store.home import Home
from backprop.store.journal import file as journals
from backprop.store.journal.entries import MessageShown, NotContinued, Refused, StopRequested
from backprop.store.journal.file import Journal
from backprop.store.journal.fold import fold
from backprop.store.rundir import RunDir
from backprop.supervisor.plan import Observer, Outcome, SessionPlan

_LOCK_PATIENCE_S = 60.0  # the submitting process locks the journal until Slurm has answered, others for a moment


@click.command(hidden=True)
@click.argument("folders", metavar="FOLDER...", nargs=-1, required=True, type=click.Path(path_type=Path))
def execute(*, folders: tuple[Path, ...]) -> None:
    """Carry out what was submitted for the run in FOLDER: of several, the one of this task of an array."""
    folder = folders[int(os.environ.get("SLURM_ARRAY_TASK_ID", "0"))]
    rundir = RunDir(folder.resolve())
    # Slurm has one file for a whole array, and runs are removed one by one
    send_output_to(open_to_append(rundir.job_log_path(_own_job())))
    host.be_on(os.environ.get("SLURMD_NODENAME"))
    # an index of its own for this one run, thrown away at the end: no index is ever opened by two machines
    with tempfile.TemporaryDirectory(prefix="backprop-") as own:
        raise click.exceptions.Exit(_execute(Home(rundir.path.parent.parent, Path(own)), rundir, rundir.read_spec()))


def _execute(home: Home, rundir: RunDir, spec: RunSpec) -> int:
    from backprop.lifecycle import recovery

    home.make()
    journal = _locked(rundir)
    entries, _ = journals.read(rundir.journal_path)
    if (newest := continuation.newest_job(entries)) != _own_job():
        say(f"run {spec.id} no longer belongs to this job, but to Slurm job {newest}")
        return ExitCode.OK
    owned = owned_run.own(home, rundir, spec, journal, say, is_new=False, is_in_job=True)
    recorder = owned.recorder
    recorder.begin()
    run, _ = recorder.read_run()
    was_going_on = not run.status.is_final
    if run.last_session is not None and not run.last_session.status.is_final:
        lost = "Slurm restarted its job: its node or its supervisor was lost"
        recovery.reconcile(rundir, spec, journal, None, say, lost)
    recorder.record_state(publish=True)
    recorder.output.ingest_all()
    run, left, stop = _look(owned)
    if left is None:
        if was_going_on and stop is not None:
            _record_unwanted(owned, run, stop)
        say(f"run {spec.id}: nothing left to do")
        recorder.finish()
        if was_going_on:
            owned_run.notify_end(owned, is_in_job=True)
        return ExitCode.OK
    code = _session(owned, left)
    recorder.close()
    return code


def _look(owned: OwnedRun) -> tuple[Run, Assignment | None, StopRequested | None]:
    """The run, its next session, and a request for no more; requests made while no process listened count, too."""
    owned.journal.take_requests()
    entries, _ = journals.read(owned.rundir.journal_path)
    run = fold(owned.spec, entries)
    return run, continuation.remaining(run, entries), continuation.unwanted(run, entries)


def _record_unwanted(owned: OwnedRun, run: Run, stop: StopRequested) -> None:
    at, reason = datetime.now(timezone.utc), f"{stop.detail} while queued"
    owned.journal.append(
        NotContinued(at=at, reason=reason, by=stop.by)
        if run.sessions
        else Refused(at=at, reason=reason, figures={}, by=stop.by)
    )


def _locked(rundir: RunDir) -> Journal:
    """The run's journal, for this process alone. Raises BusyError."""
    journal = Journal(rundir.journal_path)
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while not journal.try_lock():
        if time.monotonic() > deadline:
            raise BusyError(f"run {rundir.run_id} is locked by another process.")
        time.sleep(0.1)
    return journal


def _session(owned: OwnedRun, left: Assignment) -> int:
    """Run the session that is due; the exit code."""
    recorder, submitted = owned.recorder, left.submitted
    spec = recorder.read_run()[0].spec.revised(left.submitted.revision)
    checkpoint = submitted.checkpoint
    observer = _Log(owned)
    if not left.is_first:
        view = recorder.whole_view()
        if view is None:
            raise BusyError(f"the record of run {spec.id} cannot be updated in {owned.home.index_path}.")
        chosen = choose_checkpoint(view, recorder.saved_over_by, owned.journal, observer.message)
        checkpoint = None if chosen is None else chosen.path
    job = _own_job()
    request = Request(
        limits=msgspec.structs.replace(submitted.limits, timebox_s=left.timebox_s),
        checkpoint=checkpoint,
        gpu_probe=submitted.gpu_probe,
        retries=left.retries,
        sessions=1,  # another timebox is queued by Slurm again
        job=job,
        revision=submitted.revision,
        only_once=submitted.only_once if left.timebox == 1 else (),
        request_id=submitted.request_id,
    )
    spec = msgspec.structs.replace(spec, resume_arg=submitted.resume_arg, slurm=submitted.slurm or spec.slurm)
    if spec.nodes > 1:
        os.environ.update(rendezvous.variables(os.environ, spec.nodes))
        spec = msgspec.structs.replace(spec, command=(*rendezvous.launcher(os.environ, spec.nodes), *spec.command))
    result = driver.drive(
        replace(owned, spec=spec),
        request,
        observer,
        ignore_hangup=True,
        afterwards=lambda result: _what_next(owned, job, left, result),
    )
    messages.say_if_refused(owned, result)
    return result.exit_code


def _what_next(owned: OwnedRun, job: str, taken: Assignment, result: Outcome | NotAdmitted) -> None:
    """Requeue the job where another session is due. taken: the one that this job ran."""
    run, left, stop = _look(owned)
    status = None if run.last_session is None else run.last_session.status
    if isinstance(result, NotAdmitted) or result.is_broken_off:  # it waited in the job
        left, status = (taken if result.is_broken_off and stop is None else None), Status.STOPPED
    if left is None:
        return
    try:
        state, restarts = slurm_client.standing(job)
        is_requeued = restarts > int(os.environ.get("SLURM_RESTART_COUNT", "0"))  # by Slurm: it was preempted
        is_unwanted = status is Status.STOPPED and not is_requeued and state != "RUNNING"
        if is_unwanted:  # it was cancelled
            return
        due = f"session {left.timebox} of {left.submitted.sessions}" if status is Status.TIMEBOXED else "the rest"
        _record_requeued(owned, left, job, f"{due} queued as Slurm job {job}")
        run, _, stop = _look(owned)
        if stop is not None:  # asked just before that was recorded
            _record_unwanted(owned, run, stop)
            owned.recorder.finish()
        elif not is_requeued:
            slurm_client.requeue(job)
    except SlurmError as error:
        owned.journal.append(NotContinued(at=datetime.now(timezone.utc), reason=f"not requeued: {error}"))
        owned.recorder.finish()
        say(str(error))


def _record_requeued(owned: OwnedRun, left: Assignment, job: str, reason: str) -> None:
    recorder = owned.recorder
    run, _ = recorder.read_run()
    recorder.begin()
    owned.journal.append(
        msgspec.structs.replace(
            left.submitted,
            at=datetime.now(timezone.utc),
            session=1 + run.newest_number,
            job=job,
            is_again=True,
            reason=reason,
        )
    )
    recorder.begin()
    recorder.record_state(publish=True)


def _own_job() -> str:
    """The id of the Slurm job we are in, as squeue writes it."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")


class _Log:
    """The observer of a run in a job: every message goes to the job's log.

    What no other journal entry has goes into the journal as well, for a process that follows from elsewhere.
    """

    def __init__(self, owned: OwnedRun) -> None:
        self._owned = owned

    def waits(self, reason: str) -> None:
        say(f"run {self._owned.spec.id} queued: {reason}")

    def begins(self, plan: SessionPlan) -> Observer:
        say(messages.planned_start_line(self._owned.spec, plan))
        return self

    def started(self, out_path: Path, err_path: Path) -> None:
        pass  # its output lies in the run's folder, and is copied nowhere

    def looked(self, progress: object, left_s: float) -> None:
        pass

    def ended(self, outcome: Outcome) -> None:
        messages.say_end(self._owned, outcome.session)

    def message(self, text: str) -> None:
        say(text)
        self._owned.journal.append(MessageShown(at=datetime.now(timezone.utc), text=text))
