"""`backprop run`: the first session of a run."""

import fcntl
import os
import stat
import termios
from array import array
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import click
import msgspec

from backprop import config, host
from backprop.cli import completion, start
from backprop.cli.context import (
    check_text,
    find_run,
    full_option,
    open_caught_up,
    say,
    say_whose_home,
    working_folder,
)
from backprop.cli.dry_run import print_plan
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
from backprop.errors import UsageError
from backprop.lifecycle import owned_run
from backprop.lifecycle.owned_run import OwnedRun
from backprop.records import RunSpec, SweepTrial
from backprop.store.annotations import Annotation, Kind
from backprop.store.code import provenance, snapshot
from backprop.store.home import Home
from backprop.store.rundir import check_run_id, derived_run_id, new_run_id
from backprop.supervisor import command as commands
from backprop.trainer.parameters.command_line import params_in


@click.command(cls=SessionCommand)
@click.argument("script", required=False, shell_complete=completion.files)
@session_options()
@click.option("--run-id", metavar="ID", help="The run's id. [default: random]")
@request_id_option
@click.option("--sweep-trial", hidden=True, metavar="SWEEP:NUMBER", help="The trial of a sweep that this run is.")
@click.option(
    "--stdin",
    metavar="PATH",
    shell_complete=completion.files,
    help="The script's stdin: a file, or - for this command's stdin. [default: empty]",
)
@click.option(
    "--vary",
    multiple=True,
    metavar="NAME=V1,V2",
    help="Start a run for each value, in the background; the script gets it as --NAME. Repeat for all combinations.",
)
@click.option(
    "--group",
    metavar="NAME",
    shell_complete=completion.groups,
    help="Put the run into this group. [default: with --vary a group of its own]",
)
@click.option(
    "--tag",
    "tags",
    metavar="TAG",
    multiple=True,
    shell_complete=completion.tags,
    help="Give the run this tag. Repeatable.",
)
@full_option
@click.option("--note", metavar="TEXT", help="Write down what this run is about.")
@click.option("--parent", metavar="RUN", shell_complete=completion.runs, help="The run whose idea this run continues.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    *,
    script: str | None,
    resume_from: str | None,
    config_file: Path | None,
    as_json: bool,
    run_id: str | None,
    request_id: str | None,
    sweep_trial: str | None,
    vary: tuple[str, ...],
    group: str | None,
    tags: tuple[str, ...],
    note: str | None,
    parent: str | None,
    is_full: bool,
    stdin: str | None,
    dry_run: bool,
    **options: Any,
) -> None:
    """Run a training script, or a command after '--', in a timeboxed session."""
    flags = settings_of(options)
    arguments = after_dashes(ctx)
    if script is None and not arguments:
        raise UsageError("name a script (backprop run train.py) or a command (backprop run -- torchrun train.py).")
    if script is None and flags["python"] is not None:
        raise UsageError("--python needs a script; a command after '--' names its own interpreter.")
    home = Home.from_environment()
    check_text(str(home.path), "the home folder's name")
    folder = Path(script).absolute().parent if script is not None else working_folder()
    settings = load_config(home, flags, folder, config_file).config
    check_for_engine(flags, is_for_slurm=settings.slurm is not None)
    stdin = _stdin(stdin, is_here=settings.slurm is None, is_detached=bool(settings.detach or vary))
    command = _command(script, arguments, settings.python)
    _check_id(run_id, is_of_many=bool(vary))
    if request_id is not None:
        run_id = run_id or derived_run_id(request_id)  # two commands with one request cannot both make it
    if run_id is not None and not vary and home.rundir(run_id).path.exists():
        start.end_if_repeated(home, run_id, request_id, command, detach=settings.detach, as_json=as_json)
        raise UsageError(f"run {run_id!r} already exists; choose another --run-id.")
    checkpoint = None if resume_from is None else forced_checkpoint(resume_from)
    code = provenance.record(folder, Path(command.script) if command.script else None)
    spec = _spec(
        settings,
        command,
        code,
        folder,
        id=run_id or _free_id(home),
        stdin=stdin,
        request_id=request_id,
        sweep=_sweep_trial(sweep_trial),
    )
    request = msgspec.structs.replace(request_of(settings, settings.limits, checkpoint), request_id=request_id)
    if vary and group is None:
        group = settings.name or f"{Path(command.script or command.argv[0]).stem}-{spec.id}"
    annotations = _annotations(home, group, tags, note, parent)
    specs = _varied(home, spec, vary) if vary else [spec]
    missing = [one for one in specs if not start.is_repeated(home, one.id, request_id, one.script, one.command)]
    missing = [_in_array(one, missing) for one in missing]
    if dry_run and missing:
        print_plan(home, missing, request, as_json=as_json)
        return
    _say_if_same(home, missing, code, checkpoint)
    made = [_make_once(home, one, code.patch, settings, annotations) for one in missing]
    new = [owned for owned in made if owned is not None]
    if vary:
        start.train_many(home, [one.id for one in specs], new, request, as_json=as_json, is_full=is_full)
    if not new:
        start.repeated(home, spec.id, str(request_id), detach=settings.detach, as_json=as_json)
    start.train(new[0], request, detach=settings.detach, as_json=as_json)


def _command(script: str | None, arguments: Sequence[str], python: str | None) -> commands.Command:
    """What is executed: a script with its arguments, or without one the arguments as a command. Raises UsageError."""
    if script is None:
        return commands.for_command(arguments)
    return commands.for_script(script, arguments, python, os.environ)


def _spec(
    settings: config.Config, command: commands.Command, code: provenance.Recorded, folder: Path, **more: Any
) -> RunSpec:
    """What is asked for, and where. folder: of the script. more: fields of the spec that no setting gives."""
    return RunSpec(
        name=settings.name,
        command=command.argv,
        script=command.script,
        python=command.python,
        cwd=str(working_folder()),
        created_at=datetime.now(timezone.utc),
        host=host.name(),
        user=host.user(),
        params=params_in(commands.script_arguments(command.argv)),
        limits=settings.limits,
        framework=settings.framework,
        resume_arg=settings.resume_arg or None,
        hooks=settings.hooks,
        reads_printed_metrics=settings.metrics_printed,
        metric_patterns=settings.metrics_patterns,
        goals=settings.metric_goals,
        git=code.git,
        snapshot_of=str(snapshot.root_of(folder)) if settings.snapshot else None,
        code_notes=code.notes,
        script_sha256=host.sha256(command.script),
        slurm=settings.slurm,
        **more,
    )


def _stdin(asked: str | None, *, is_here: bool, is_detached: bool) -> str | None:
    """What the trainer gets as its stdin: see `RunSpec`. Raises UsageError."""
    if asked is None:
        if _is_fed():
            say("note: piped input does not reach the script; to pass it on: --stdin -")
        return None
    if not is_here:
        raise UsageError("--stdin works only for runs on this machine, not on Slurm.")
    if asked == "-":
        if is_detached:
            raise UsageError("--stdin - works only in the foreground; in the background, pass a file.")
        return "-"
    check_text(asked, "--stdin")
    if not (Path(asked).is_file() and os.access(asked, os.R_OK)):
        raise UsageError(f"--stdin {asked}: not a readable file. For a pipe: --stdin -")
    return str(Path(asked).absolute())


def _is_fed() -> bool:
    """Whether input is piped into this command: not the rest of a file that other commands read, too."""
    try:
        kind = os.fstat(0)
        if stat.S_ISREG(kind.st_mode):
            return kind.st_size > 0 and os.lseek(0, 0, os.SEEK_CUR) == 0
        return stat.S_ISFIFO(kind.st_mode) and bool(_unread_bytes())
    except OSError:  # it is closed
        return False


def _unread_bytes() -> int:
    buffer = array("i", [0])
    fcntl.ioctl(0, termios.FIONREAD, buffer)
    return buffer[0]


def _say_if_same(home: Home, specs: Sequence[RunSpec], code: provenance.Recorded, checkpoint: str | None) -> None:
    """Name an earlier run that one of these repeats. checkpoint: to begin with; from one, none repeats another."""
    from backprop.lifecycle import same_runs

    found = [same_runs.find(home, spec, code) for spec in specs] if checkpoint is None else []
    for earlier in (run for run in found if run is not None):
        name = f" ({earlier.spec.name})" if earlier.spec.name else ""
        what = "code, command and arguments; data was not compared"
        say(f"note: same as run {earlier.spec.id}{name}, {earlier.status.value}: {what}")


def _annotations(
    home: Home, group: str | None, tags: Sequence[str], note: str | None, parent: str | None
) -> list[Annotation]:
    """What the user says about the new run. Raises UsageError, or NoSuchRunError for its parent."""
    if group is None and not tags and note is None and parent is None:
        return []
    from backprop.lifecycle import annotating

    if parent is not None:
        with open_caught_up(home) as index:
            parent = find_run(home, index, parent).run.spec.id
    given = ((Kind.GROUP, group), (Kind.PARENT, parent), *((Kind.TAG, tag) for tag in tags), (Kind.NOTE, note))
    return annotating.make((kind, value) for kind, value in given if value is not None)


def _make_once(
    home: Home, spec: RunSpec, patch: bytes | None, settings: config.Config, annotations: Sequence[Annotation]
) -> OwnedRun | None:
    """The new run; None where another command, with the same request, was faster."""
    try:
        return _make(home, spec, patch, settings, annotations)
    except UsageError:
        if start.is_repeated(home, spec.id, spec.request_id, spec.script, spec.command):
            return None
        raise


def _make(
    home: Home, spec: RunSpec, patch: bytes | None, settings: config.Config, annotations: Sequence[Annotation]
) -> OwnedRun:
    say_whose_home(home.path)
    rundir, journal = owned_run.make_run(home, spec, patch, say, annotations)
    owned_run.remember_notifications(rundir, settings.notify, say)
    return owned_run.own(home, rundir, spec, journal, say, is_new=True)


def _check_id(run_id: str | None, *, is_of_many: bool) -> None:
    """Raise UsageError for an id that cannot be used, or names one of several runs."""
    if run_id is not None:
        check_run_id(run_id)
    if is_of_many and run_id is not None:
        raise UsageError("--run-id and --vary are mutually exclusive: each run gets its own id.")


def _sweep_trial(word: str | None) -> SweepTrial | None:
    """The trial that `SWEEP:NUMBER` names. Raises UsageError."""
    if word is None:
        return None
    sweep_id, _, number = word.rpartition(":")
    if not (sweep_id and number.isascii() and number.isdecimal()):
        raise UsageError(f"--sweep-trial {word!r}: invalid value: expected SWEEP:NUMBER.")
    return SweepTrial(id=sweep_id, trial=int(number))


def _varied(home: Home, spec: RunSpec, options: Sequence[str]) -> list[RunSpec]:
    """The same run for each combination of --vary, under ids and names of their own. Raises UsageError.

    By one request they have the same ids whenever it is repeated.
    """
    return [_variation(home, spec, number, words) for number, words in enumerate(commands.variations(options), start=1)]


def _variation(home: Home, spec: RunSpec, number: int, words: Sequence[str]) -> RunSpec:
    """The same run with these arguments as well."""
    command = (*spec.command, *words)
    if number == 1:
        run_id = spec.id
    elif spec.request_id is None:
        run_id = _free_id(home)
    else:
        run_id = derived_run_id(f"{spec.request_id}\0{number}")
    return msgspec.structs.replace(
        spec,
        id=run_id,
        created_at=spec.created_at + timedelta(microseconds=number),  # so that they have an order
        name=None if spec.name is None else f"{spec.name}-{number}",
        command=command,
        params=params_in(commands.script_arguments(command)),
    )


def _in_array(spec: RunSpec, together: Sequence[RunSpec]) -> RunSpec:
    """The run as one task of a Slurm array."""
    if spec.slurm is None or len(together) == 1:
        return spec
    return msgspec.structs.replace(spec, slurm=msgspec.structs.replace(spec.slurm, array=together[0].id))


def _free_id(home: Home) -> str:
    while home.rundir(run_id := new_run_id()).path.exists():
        pass
    return run_id
