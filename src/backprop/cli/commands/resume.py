"""`backprop resume`: another session of a run, or the end of a pause."""

import os
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec

from backprop import config
from backprop.cli import completion, start
from backprop.cli.config_sources import Loaded
from backprop.cli.context import check_readable, open_caught_up, say, working_folder
from backprop.cli.dry_run import print_plan
from backprop.cli.messages import print_documents
from backprop.cli.options import (
    SessionCommand,
    after_dashes,
    check_for_engine,
    forced_checkpoint,
    load_config,
    request_id_option,
    request_of,
    session_options,
    settings_of,
)
from backprop.cli.several import ENDED, Choice, each, several_runs
from backprop.errors import BusyError, ExitCode, NoCheckpointError, UsageError
from backprop.lifecycle import catalog, driver
from backprop.lifecycle.owned_run import Request
from backprop.records import Limits, Record, Run, RunSpec, RunView, SlurmRequest, Status
from backprop.store import checkpoints
from backprop.store.code import snapshot
from backprop.store.home import Home
from backprop.store.journal import file as journals
from backprop.store.journal.entries import SessionRequested, Submitted
from backprop.store.journal.fold import FoldedRun, RunReader
from backprop.store.rundir import LAST, RunDir
from backprop.supervisor import command as commands

_RESUMABLE = ENDED | {Status.PAUSED}


@click.command(cls=SessionCommand)
@several_runs("All paused runs.", of_all={Status.PAUSED}, of_filter=_RESUMABLE, asks=True, default=LAST)
@click.option("--again", is_flag=True, help="Start another session of a completed run without asking.")
@session_options(kept="the run's own")
@click.option(
    "--script", metavar="PATH", shell_complete=completion.files, help="Run this script from now on, if it has moved."
)
@click.option("--cwd", metavar="DIR", shell_complete=completion.folders, help="Run in this directory from now on.")
@click.option("--strict", is_flag=True, help="Exit with 76, and start nothing, if there is no valid checkpoint.")
@click.option("--from-scratch", is_flag=True, help="Offer no checkpoint: train from the beginning.")
@request_id_option
@click.option("--only-once", is_flag=True, help="Use the arguments after '--' for this session only.")
@click.pass_context
def resume(
    ctx: click.Context,
    /,
    *,
    choice: Choice,
    again: bool,
    resume_from: str | None,
    config_file: Path | None,
    as_json: bool,
    script: str | None,
    cwd: str | None,
    strict: bool,
    from_scratch: bool,
    request_id: str | None,
    only_once: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Start another session of a run from its latest valid checkpoint, or resume a paused run.

    Settings that no option changes stay as they were. Arguments after '--' are added to the script's, for later
    sessions too. Without RUN, the last run is resumed; several runs are resumed in the background.
    """
    flags = settings_of(options)
    arguments = after_dashes(ctx)
    if only_once and not arguments:
        raise UsageError("--only-once needs arguments after '--': backprop resume RUN --only-once -- --lr 1e-4")
    if from_scratch and (strict or resume_from is not None):
        raise UsageError("--from-scratch offers no checkpoint: leave --strict and -r/--resume-from out.")
    home = Home.from_environment()
    checked = load_config(home, flags, working_folder(), config_file)
    with open_caught_up(home) as index:
        views = choice.find(home, index)
        folded = {view.run.spec.id: index.folded(view.run.spec.id) for view in views}
    of_one = {"--dry-run": dry_run, "--request-id": request_id, "-r/--resume-from": resume_from, "--script": script}
    if len(views) > 1 and (option := next((option for option, value in of_one.items() if value), None)):
        raise UsageError(f"{option} takes one RUN, not {len(views)}.")
    choice.confirm(views, "Resume")
    asked = _ResumeRequest(
        home=home,
        folded=folded,
        checked=checked,
        flags=flags,
        arguments=arguments,
        forced=None if resume_from is None else forced_checkpoint(resume_from),
        script=script,
        cwd=cwd,
        is_strict=strict,
        is_from_scratch=from_scratch,
        request_id=request_id,
        is_only_once=only_once,
        is_again=again,
        is_dry_run=dry_run,
        as_json=as_json,
    )
    if choice.is_by_name and len(views) == 1:
        _resume(asked, views[0])
        return
    code = each(views, lambda view: _resume(msgspec.structs.replace(asked, is_one_of_many=True), view))
    if as_json:
        with open_caught_up(home) as index:
            newest = [catalog.get_run(home, index, view.run.spec.id, say) for view in views]
        print_documents(newest, is_full=True)
    raise click.exceptions.Exit(code)


class _ResumeRequest(Record, frozen=True):
    """What the command line asks for each of its runs."""

    home: Home
    folded: dict[str, FoldedRun | None]  # the stored state of each run, by its id
    checked: Loaded
    flags: dict[str, Any]
    arguments: list[str]  # after '--'
    forced: str | None  # the checkpoint
    script: str | None
    cwd: str | None
    is_strict: bool
    is_from_scratch: bool
    request_id: str | None
    is_only_once: bool
    is_again: bool
    is_dry_run: bool
    as_json: bool
    is_one_of_many: bool = False

    @property
    def sha256(self) -> str:
        """Of what is to be trained. Settings may differ when a request is repeated, as in `run`."""
        import hashlib

        words = [self.arguments, self.is_only_once, self.script, self.cwd, self.forced, self.is_from_scratch]
        return hashlib.sha256(msgspec.json.encode(words)).hexdigest()

    @property
    def has_options(self) -> bool:
        """Whether it asks for more than that a run continue; --detach is what happens then anyway."""
        return bool(
            (self.as_json and not self.is_one_of_many)
            or self.arguments
            or self.script
            or self.cwd
            or self.is_dry_run
            or self.is_strict
            or self.is_from_scratch
            or self.forced is not None
            or any(self.flags[key] is not None for key in self.flags.keys() - {"detach"})
        )


def _resume(asked: _ResumeRequest, view: RunView) -> None:
    """Another session, in the background where it is one of many; or the end of a pause. Raises click's Exit."""
    from backprop.lifecycle import driver, owned_run, recovery, run_state

    home, checked = asked.home, asked.checked
    check_readable(view.run)
    if asked.request_id is not None:
        _end_if_repeated(asked, run_state.look(home, view.run.spec).run)
    if not view.run.status.is_final:
        _end_pause(home, view.run, has_options=asked.has_options)
        return
    if (log := view.run.spec.imported_from) is not None:
        raise UsageError(f"run {view.run.spec.id} was imported from {log}: there is no command to execute.")
    spec, request = _next_session(asked, view.run)
    rundir = home.rundir(spec.id)
    executed = snapshot.executed(spec, rundir)
    _check_still_there(executed)
    _check_arguments(executed, asked.arguments)
    if asked.is_dry_run:
        _print_plan(asked, executed, request, view)
        return
    if view.run.status is Status.COMPLETED and not asked.is_again:
        _confirm_again(spec.id)
    # as it is recorded: `view` has its name and settings of now
    reader = RunReader(rundir.journal_path, rundir.read_spec(), asked.folded[spec.id])
    try:
        with home.changing():
            journal = recovery.claim(home, view.run, say, reader)
    except BusyError:
        _end_if_repeated(asked, run_state.look(home, view.run.spec).run)  # a command with the same request was faster
        raise
    owned_run.remember_notifications(rundir, checked.config.notify, say)
    owned = owned_run.own(home, rundir, spec, journal, say, is_new=False, reader=reader)
    with open_caught_up(home) as index:
        # the claim may have recorded the end of a dead session, and another process may be filling a new index
        found = owned.recorder.use(index).whole_view()
        if found is None:
            raise BusyError(f"the record of run {spec.id} cannot be updated right now; try again.")
        view = found
        if asked.request_id is not None:  # another command may have been first
            _end_if_repeated(asked, view.run)
        if asked.forced is None and not asked.is_from_scratch:
            chosen = driver.choose_checkpoint(
                view, lambda one: index.saved_over_by(spec.id, one), journal, say, is_strict=asked.is_strict
            )
            if chosen is None and asked.is_strict:
                journal.close()
                raise NoCheckpointError(_nothing_to_continue_from(spec.id))
            request = msgspec.structs.replace(request, checkpoint=None if chosen is None else chosen.path)
    if asked.request_id is not None:
        now = datetime.now(timezone.utc)
        journal.append(SessionRequested(at=now, request_id=asked.request_id, sha256=asked.sha256))
    owned.recorder.give_back()
    start.train(
        owned,
        request,
        detach=asked.is_one_of_many or checked.config.detach,
        as_json=asked.as_json,
        is_one_of_many=asked.is_one_of_many,
    )


def _next_session(asked: _ResumeRequest, run: Run) -> tuple[RunSpec, Request]:
    """The run as it will be executed from now on, and what is asked of its sessions. Raises UsageError."""
    flags, checked = asked.flags, asked.checked
    revision = commands.revision(
        run.spec,
        os.environ,
        arguments=() if asked.is_only_once else asked.arguments,
        script=asked.script,
        python=None if flags["python"] is None else checked.config.python,
        cwd=asked.cwd,
        resume_arg=None if flags["resumeArg"] is None else checked.config.resume_arg,
    )
    spec = run.spec.revised(revision)
    slurm = _resumed_slurm(run, asked.home.rundir(spec.id), checked, flags)
    request = msgspec.structs.replace(
        request_of(checked.config, _resumed_limits(spec.limits, checked, flags), asked.forced),
        revision=revision,
        only_once=tuple(asked.arguments) if asked.is_only_once else (),
        request_id=asked.request_id,
    )
    return msgspec.structs.replace(spec, slurm=slurm), request


def _end_if_repeated(asked: _ResumeRequest, run: Run) -> None:
    """Exit where the session that is asked for was started, or queued, by an earlier command with the same request.

    Raises UsageError if that asked for something else.
    """
    request_id, run_id = asked.request_id, run.spec.id
    if request_id is None or not run.has_session_for(request_id):
        return
    entries, _ = journals.read(asked.home.rundir(run_id).journal_path)
    before = [one.sha256 for one in entries if isinstance(one, SessionRequested) and one.request_id == request_id]
    # an older version has written none
    is_other = before[-1] != asked.sha256 if before else run.spec.request_id == request_id
    if is_other:
        raise UsageError(
            f"request {request_id!r} has started a session of run {run_id} by another command or with other arguments; "
            "choose another --request-id."
        )
    start.repeated(asked.home, run_id, request_id, detach=asked.checked.config.detach, as_json=asked.as_json)


def _nothing_to_continue_from(run_id: str) -> str:
    return (
        f"run {run_id} has no valid checkpoint to continue from, and was not started. "
        f"To let it start over: backprop resume {run_id}"
    )


def _confirm_again(run_id: str) -> None:
    """Ask whether a run that has completed is to train more. Raises UsageError without a terminal."""
    if not sys.stdin.isatty():
        raise UsageError(f"run {run_id} has completed; for another session: backprop resume {run_id} --again")
    if not click.confirm(f"Run {run_id} has completed. Start another session?", err=True):
        raise click.exceptions.Exit(ExitCode.OK)


def _end_pause(home: Home, run: Run, *, has_options: bool) -> None:
    """Resume a run that a user paused; for any other that has not ended, raise BusyError."""
    from backprop.lifecycle import requests, run_state

    run_id = run.spec.id
    try:
        requests.request_resume(home, run, has_options=has_options)
    except UsageError as error:
        standing = run_state.look(home, run.spec)
        if not standing.has_ended:
            raise
        ended = f"run {run_id} has just ended ({standing.run.status.value})"
        again = " --again" if standing.run.status is Status.COMPLETED else ""
        raise BusyError(f"{ended}; for another session: backprop resume {run_id}{again}") from error
    now = run_state.wait_for(home, run, lambda now: not now.is_paused_by_user, requests.PAUSE_S)
    if now is None:
        raise BusyError(f"the supervisor of run {run_id} is not responding yet; check with: backprop status {run_id}")
    if now.has_ended:
        say(f"run {run_id} has just ended ({now.run.status.value}).")
    elif now.pausers:
        say(f"run {run_id} is still paused, though no longer by you: {now.run.reason}")
    else:
        say(f"run {run_id} resumed")


def _resumed_limits(before: Limits, loaded: Loaded, flags: dict[str, Any]) -> Limits:
    """The limits the run was made with, changed by the options of this command; some are of one session alone."""
    given = [one for key, one in config.SETTINGS.items() if flags.get(key) is not None or not one.is_kept]
    now = loaded.config.limits
    return msgspec.structs.replace(before, **{name: getattr(now, name) for one in given for name in one.limits})


def _resumed_slurm(run: Run, rundir: RunDir, loaded: Loaded, flags: dict[str, Any]) -> SlurmRequest | None:
    """What its last session asked of Slurm, changed by the options of this command; None: it continues on this machine.

    Raises UsageError for what only Slurm gives, where the run is not for Slurm.
    """
    now = loaded.config
    is_for_slurm = run.is_on_slurm if flags["on"] is None else now.slurm is not None
    check_for_engine(flags, is_for_slurm=is_for_slurm)
    if not is_for_slurm:
        return None
    entries, _ = journals.read(rundir.journal_path)
    submitted = [entry for entry in entries if isinstance(entry, Submitted)]
    begun = {session.job for session in run.sessions}
    asked = [entry.slurm for entry in submitted if entry.job in begun] or [entry.slurm for entry in submitted]
    before = next((slurm for slurm in reversed(asked) if slurm), None) or run.spec.slurm or now.slurm or SlurmRequest()
    changed = {
        field: value
        for field, key, value in (
            ("partition", "on", now.slurm and now.slurm.partition),
            ("cpus", "cpus", now.cpus),
            ("nodes", "nodes", now.nodes),
            ("arguments", "slurmArgs", now.slurm_args),
        )
        if flags[key] is not None
    }
    return msgspec.structs.replace(before, **changed)


def _check_still_there(spec: RunSpec) -> None:
    """Raise UsageError when what a run needs no longer exists."""
    if not Path(spec.cwd).is_dir():
        raise UsageError(f"the folder of this run no longer exists: {spec.cwd}; run in another one with: --cwd DIR")
    if spec.script is not None and not Path(spec.script).exists():
        raise UsageError(
            f"the script of this run no longer exists: {spec.script}; give its new path with: --script PATH"
        )

    program = spec.command[0]
    place = os.path.join(spec.cwd, program) if "/" in program else program  # noqa: PTH118  ./train.sh is not train.sh
    if shutil.which(place) is None:
        advice = "put it on PATH" if spec.script is None else "choose a Python with: --python PATH"
        raise UsageError(f"the program of this run was not found: {program}; {advice}")


def _check_arguments(spec: RunSpec, arguments: Sequence[str]) -> None:
    """Raise UsageError for arguments that name the checkpoint: two ways to say it would be one too many."""
    if (name := commands.naming_itself(arguments, driver.resume_args(spec))) is not None:
        raise UsageError(f"{name} is set by Backprop; to choose another checkpoint: -r PATH")


def _print_plan(asked: _ResumeRequest, spec: RunSpec, request: Request, view: RunView) -> None:
    """What would be done now. Writes nothing down. Raises NoCheckpointError as the real command."""
    home, step = asked.home, None
    if request.checkpoint is None and not asked.is_from_scratch:
        with open_caught_up(home) as index:
            saved_over_by = partial(index.saved_over_by, spec.id)
            found = checkpoints.choose(view.checkpoints, saved_over_by, lambda: view.run.sessions).checkpoint
        if found is not None:
            request, step = msgspec.structs.replace(request, checkpoint=found.path), found.step
        elif asked.is_strict:
            raise NoCheckpointError(_nothing_to_continue_from(spec.id))
    spec = msgspec.structs.replace(spec, limits=request.limits)
    print_plan(home, [spec], request, step=step, as_json=asked.as_json)
