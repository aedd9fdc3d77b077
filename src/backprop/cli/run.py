"""Commands that train: run and resume."""

import os
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from backprop import command as commands
from backprop import config, provenance
from backprop.cli import completing, session
from backprop.cli.common import check_text, find_run, json_option, open_caught_up, say, working_folder
from backprop.errors import UsageError
from backprop.records import Limits, Run, RunSpec, SlurmRequest, Status
from backprop.store import journal as journals
from backprop.store.journal import Submitted
from backprop.store.rundir import Home, RunDir, check_run_id, new_run_id

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from backprop.turns import Claim, Request

_AFTER_DASHES = "backprop.after_dashes"
Function = TypeVar("Function", bound=Callable[..., Any])


class SessionCommand(click.Command):
    """Lets `--wait` stand without a value, also before a script's name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        told = [
            "--wait=true" if word == "--wait" and not _is_number(next_word) else word
            for word, next_word in zip(args, [*args, ""][1:], strict=True)
        ]
        return super().parse_args(ctx, told)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


class RunCommand(SessionCommand):
    """Keeps what follows the first `--` apart: the script's own arguments, or a whole command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            position = args.index("--")
            ctx.meta[_AFTER_DASHES] = args[position + 1 :]
            args = args[:position]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem[str]]":
        if _AFTER_DASHES in ctx.meta:
            return completing.files(ctx, self.params[0], incomplete)
        return super().shell_complete(ctx, incomplete)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- ARGS...]"]


def _setting(key: str, text: str, metavar: str | None = None, **options: Any) -> Callable[[Function], Function]:
    """An option for a configuration key. Its value is checked by `config`, like that of every other source."""
    default = config.default(key)
    if isinstance(default, (float, int)) and not isinstance(default, bool):
        text += f" [default: {default:g}]"
    if words := config.choices(key):
        options["shell_complete"] = completing.choices(*words)
    return click.option(*config.ALLOWED[key][0].split("/"), _destination(key), metavar=metavar, help=text, **options)


def _destination(key: str) -> str:
    """The parameter that click puts an option's value into; it knows no dots."""
    return key.replace(".", "_")


def _settings(options: dict[str, Any]) -> dict[str, Any]:
    """What the command line says of each setting. Raises UsageError."""
    if options.pop("no_wait"):
        if options["wait"] is not None:
            raise UsageError("--wait and --no-wait exclude one another.")
        options["wait"] = "false"
    # an option that may be given again is never None
    return {
        key: options[_destination(key)] or None if key == "slurmArgs" else options[_destination(key)]
        for key in config.KEYS
        if _destination(key) in options
    }


# options that a session has, whether it is the first of a run or not
_SESSION_OPTIONS = (
    _setting("maxRunMinutes", "The timebox: train for so long, then stop gracefully.", "MINUTES"),
    _setting("checkpointEveryMinutes", "Ask a script that listens for a checkpoint every so often.", "MINUTES"),
    click.option(
        "-r",
        "--resume-from",
        metavar="PATH",
        shell_complete=completing.files,
        help="Continue from this checkpoint, whole or not.",
    ),
    _setting("graceSeconds", "Time to stop before the trainer is killed.", "SECONDS"),
    _setting("maxParallel", "Start only while fewer runs are going on.", "N"),
    click.option("--wait", metavar="[MINUTES]", help="Stand in line, at most so long. [default: as long as it takes]"),
    click.option("--no-wait", is_flag=True, help="Do not stand in line: exit with 75."),
    _setting("minFreeRamGB", "Do not start with less RAM available.", "GB"),
    _setting("minFreeDiskGB", "Do not start with less disk free.", "GB"),
    _setting("ramLimitGB", "Stop when the trainer and its children hold more RAM.", "GB"),
    _setting("gpus", "So many GPUs; 0: none. [default: 1 where there is one]", "N"),
    _setting("gpuMemoryLimit", "Use no more of each GPU: 80% of it, or GB.", "LIMIT"),
    _setting("gpu.minFreeVramMB", "Choose only GPUs with so much memory free.", "MB"),
    _setting("gpu.maxTempC", "Pause while a GPU is hotter.", "CELSIUS"),
    _setting("maxPauseMinutes", "Stop after so long a pause in all.", "MINUTES"),
    _setting("gpu.probe", "auto, nvml, nvidia-smi, rocm or none: whom to ask about GPUs. [default: auto]", "NAME"),
    _setting("retries", "Start again when the trainer fails, so often, within the timebox.", "N"),
    _setting("sessions", "After a timebox line up again, up to N sessions in all.", "N"),
    _setting("resumeArg", "On resume add FLAG and the checkpoint to the script's arguments.", "FLAG"),
    _setting("on", "Where to run: here, slurm or slurm:PARTITION. [default: here]", "ENGINE"),
    _setting("cpus", "Of Slurm: so many CPUs on each node.", "N"),
    _setting("nodes", "Of Slurm: so many nodes; srun starts the trainer once on each.", "N"),
    _setting("slurmArgs", "For sbatch, as it is: --slurm-arg=--account=ml. May be repeated.", "OPTION", multiple=True),
    _setting("detach", "Go on in the background; print the run's id at once.", is_flag=True, default=None),
    click.option(
        "--config", "config_file", metavar="PATH", type=click.Path(path_type=Path), help="Read this configuration file."
    ),
    json_option,
)


def session_options(function: Function) -> Function:
    """Declare them, in the order in which --help shows them."""
    for option in reversed(_SESSION_OPTIONS):
        function = option(function)
    return function


@click.command(cls=RunCommand)
@click.argument("script", required=False, shell_complete=completing.files)
@session_options
@_setting("framework", "auto, pytorch or tensorflow; told to the script. [default: auto]", "NAME")
@click.option("--run-id", metavar="ID", help="The run's id; else a random one.")
@_setting("name", "A name to call the run by.", "NAME")
@_setting("python", "The Python that runs the script.", "PATH", shell_complete=completing.files)
@click.option(
    config.ALLOWED["hooks"][0],
    "hooks",
    default=None,
    help="Look after frameworks inside the trainer, so that scripts stop, save and resume unedited. [default: on]",
)
@click.option(
    "--vary",
    multiple=True,
    metavar="NAME=V1,V2",
    help="In the background a run for each value, given to the script as --NAME. Given again: for each combination.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
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
    vary: tuple[str, ...],
    dry_run: bool,
    **options: Any,
) -> None:
    """Train: run a script, or a command after '--', in a timeboxed session."""
    flags = _settings(options)
    after_dashes: list[str] | None = ctx.meta.get(_AFTER_DASHES)
    if script is None and not after_dashes:
        raise UsageError("name a script (backprop run train.py) or a command (backprop run -- torchrun train.py).")
    if script is None and flags["python"] is not None:
        raise UsageError("--python goes with a script; a command after '--' names its own interpreter.")
    home = Home.from_environment()
    check_text(str(home.path), "the home folder's name")
    folder = Path(script).absolute().parent if script is not None else working_folder()
    settings = _load_config(home, flags, folder, config_file).config
    _check_for_engine(flags, is_for_slurm=settings.slurm is not None)
    if script is None:
        command = commands.for_command(after_dashes or [])
    else:
        command = commands.for_script(script, after_dashes or [], settings.python, os.environ)
    if run_id is not None:
        check_run_id(run_id)
        if home.rundir(run_id).path.exists():
            raise UsageError(f"a run {run_id!r} exists already; choose another --run-id.")
    checkpoint = None if resume_from is None else _forced_checkpoint(resume_from)
    git = provenance.GitProbe(folder, Path(command.script) if command.script else None)

    state, patch = git.collect()
    spec = RunSpec(
        id=run_id or _free_id(home),
        name=settings.name,
        command=command.argv,
        script=command.script,
        python=command.python,
        cwd=str(working_folder()),
        created_at=datetime.now(timezone.utc),
        host=provenance.host(),
        user=provenance.user(),
        params=commands.params_in(commands.script_arguments(command.argv)),
        limits=settings.limits,
        framework=settings.framework,
        resume_arg=settings.resume_arg,
        hooks=settings.hooks,
        git=state,
        slurm=settings.slurm,
    )
    request = _request(settings, settings.limits, checkpoint)
    specs = [spec]
    if vary:
        if run_id is not None:
            raise UsageError("--run-id and --vary exclude one another: each run gets an id of its own.")
        specs = [_varied(home, spec, number, words) for number, words in enumerate(commands.variations(vary), start=1)]
        specs = [_in_array(one, specs) for one in specs]
    if dry_run:
        session.tell_plan(home, specs, request, as_json=as_json)
        return
    if vary:
        claims = [_claim(home, one, patch, settings) for one in specs]
        session.train_many(claims, request, as_json=as_json)
    session.train(_claim(home, spec, patch, settings), request, detach=settings.detach, as_json=as_json)


def _check_for_engine(flags: dict[str, Any], *, is_for_slurm: bool) -> None:
    """Refuse words of this command line that only Slurm can obey, and say which it cannot. Raises UsageError.

    A file may say both, for the runs that go there, or do not.
    """
    if is_for_slurm:
        for flag, key in (("--wait and --no-wait do", "wait"), ("--max-parallel does", "maxParallel")):
            if flags[key] is not None:
                say(f"note: {flag} nothing on Slurm: who waits there, and how many run, is Slurm's affair")
        return
    for flag, key in (("--cpus", "cpus"), ("--nodes", "nodes"), ("--slurm-arg", "slurmArgs")):
        if flags[key] is not None:
            raise UsageError(f"{flag} goes with --on slurm: on this machine a run takes what it finds.")


def _claim(home: Home, spec: RunSpec, patch: bytes | None, settings: config.Config) -> "Claim":
    from backprop.turns import Claim

    rundir, journal = session.make_run(home, spec, patch)
    session.remember_notifications(rundir, settings.notify)
    return Claim(home, rundir, spec, journal, is_new=True)


def _varied(home: Home, spec: RunSpec, number: int, words: Sequence[str]) -> RunSpec:
    """The same run with these arguments as well, under an id and a name of its own."""
    command = (*spec.command, *words)
    return msgspec.structs.replace(
        spec,
        id=_free_id(home),
        name=None if spec.name is None else f"{spec.name}-{number}",
        command=command,
        params=commands.params_in(commands.script_arguments(command)),
    )


def _in_array(spec: RunSpec, together: Sequence[RunSpec]) -> RunSpec:
    """The run as one task of a Slurm array."""
    if spec.slurm is None or len(together) == 1:
        return spec
    return msgspec.structs.replace(spec, slurm=msgspec.structs.replace(spec.slurm, array=together[0].id))


@click.command(cls=SessionCommand)
@click.argument("run", shell_complete=completing.runs)
@session_options
def resume(*, run: str, resume_from: str | None, config_file: Path | None, as_json: bool, **options: Any) -> None:
    """Give a run another session, from its newest whole checkpoint; let one that is paused go on.

    What no option names stays as it was.
    """
    from backprop import recovery, turns

    flags = _settings(options)
    home = Home.from_environment()
    checked = _load_config(home, flags, working_folder(), config_file)
    forced = None if resume_from is None else _forced_checkpoint(resume_from)
    with open_caught_up(home) as index:
        view = find_run(index, run)
    spec = view.run.spec
    if not view.run.status.is_final:
        # --detach is what happens anyway
        has_options = (
            as_json or resume_from is not None or any(flags[key] is not None for key in flags.keys() - {"detach"})
        )
        _let_go_on(home, view.run, has_options=has_options)
        return
    _check_still_there(spec)
    rundir = home.rundir(spec.id)
    spec = msgspec.structs.replace(spec, slurm=_resumed_slurm(view.run, rundir, checked, flags))
    journal = recovery.claim(home, view.run, say)
    with open_caught_up(home) as index:
        view = find_run(index, spec.id)  # the claim may have brought the last words of a dead session
        if view.run.status is Status.COMPLETED:
            say(f"run {spec.id} has completed: it is given another session")
        checkpoint = forced
        if checkpoint is None:
            chosen = turns.choose_checkpoint(
                view.checkpoints, lambda one: index.saved_over_by(spec.id, one), journal, say
            )
            checkpoint = None if chosen is None else chosen.path
    last = view.run.last_session
    if last is not None and last.script_sha256 not in {None, provenance.sha256(spec.script)}:
        say(f"note: {spec.script} has changed since the last session")
    limits = _resumed_limits(spec.limits, checked, flags)
    if flags["resumeArg"] is not None:
        spec = msgspec.structs.replace(spec, resume_arg=checked.config.resume_arg)
    session.remember_notifications(rundir, checked.config.notify)
    claim = turns.Claim(home, rundir, spec, journal, is_new=False)
    request = _request(checked.config, limits, checkpoint)
    session.train(claim, request, detach=checked.config.detach, as_json=as_json)


def _let_go_on(home: Home, run: Run, *, has_options: bool) -> None:
    """Let a run that a user paused go on; for any other that has not ended, raise BusyError."""
    from backprop import orders
    from backprop.errors import BusyError

    run_id = run.spec.id
    if orders.look(home, run.spec).is_paused_by_user and has_options:
        raise UsageError(f"run {run_id} is paused, and goes on as it was begun: backprop resume {run_id}, no options.")
    orders.ask_to_go_on(home, run)
    now = orders.wait_for(home, run, lambda now: not now.is_paused_by_user, orders.PAUSE_S)
    if now is None:
        raise BusyError(f"the supervisor of run {run_id} does not answer yet; look with: backprop status {run_id}")
    if now.has_ended:
        say(f"run {run_id} has ended meanwhile ({now.run.status.value}).")
    elif now.pausers:
        say(f"run {run_id} is not paused by you any more, but still by others: {now.run.reason}")
    else:
        say(f"run {run_id} goes on")


def _request(settings: config.Config, limits: Limits, checkpoint: str | None) -> "Request":
    from backprop.turns import Request

    return Request(
        limits=limits,
        checkpoint=checkpoint,
        gpu_probe=settings.gpu_probe,
        wait_s=settings.wait_s,
        retries=settings.retries,
        sessions=settings.sessions,
    )


def _load_config(home: Home, flags: dict[str, Any], folder: Path, config_file: Path | None) -> config.Loaded:
    if config_file is not None and not config_file.is_file():
        raise UsageError(f"--config {config_file}: no such file.")
    return config.load(
        flags=flags,
        environment=os.environ,
        start=folder,
        user_file=home.user_config_path,
        project_file=config_file,
    )


def _resumed_limits(before: Limits, loaded: config.Loaded, flags: dict[str, Any]) -> Limits:
    """The limits the run was made with, changed by what this command line says."""
    now = loaded.config.limits
    changed = {
        "timebox_s": "maxRunMinutes",
        "grace_s": "graceSeconds",
        "checkpoint_every_s": "checkpointEveryMinutes",
        "min_free_ram_bytes": "minFreeRamGB",
        "min_free_disk_bytes": "minFreeDiskGB",
        "max_parallel": "maxParallel",
        "ram_limit_bytes": "ramLimitGB",
        "gpu_count": "gpus",
        "gpu_memory_fraction": "gpuMemoryLimit",
        "gpu_memory_bytes": "gpuMemoryLimit",
        "gpu_min_free_vram_bytes": "gpu.minFreeVramMB",
        "gpu_max_temp_c": "gpu.maxTempC",
        "max_pause_s": "maxPauseMinutes",
    }
    return msgspec.structs.replace(
        before, **{field: getattr(now, field) for field, key in changed.items() if flags[key] is not None}
    )


def _resumed_slurm(run: Run, rundir: RunDir, loaded: config.Loaded, flags: dict[str, Any]) -> SlurmRequest | None:
    """What to ask of Slurm, as it was asked last, changed by what this command line says; None: it goes on here.

    Raises UsageError for what only Slurm gives, where the run is not for Slurm.
    """
    now = loaded.config
    is_for_slurm = run.is_on_slurm if flags["on"] is None else now.slurm is not None
    _check_for_engine(flags, is_for_slurm=is_for_slurm)
    if not is_for_slurm:
        return None
    entries, _ = journals.read(rundir.journal_path)
    asked = next((entry.slurm for entry in reversed(entries) if isinstance(entry, Submitted) and entry.slurm), None)
    before = asked or run.spec.slurm or now.slurm or SlurmRequest()
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


def _forced_checkpoint(path: str) -> str:
    from backprop import checkpoints

    check_text(path, "-r/--resume-from")
    if not Path(path).exists():
        raise UsageError(f"-r/--resume-from {path}: no such file or folder.")
    if (reason := checkpoints.problem(path)) is not None:
        say(f"warning: {path} is used because you say so, but {reason}")
    return str(Path(path).absolute())


def _free_id(home: Home) -> str:
    while home.rundir(run_id := new_run_id()).path.exists():
        pass
    return run_id


def _check_still_there(spec: RunSpec) -> None:
    """Raise UsageError when what a run needs to go on has gone."""
    if not Path(spec.cwd).is_dir():
        raise UsageError(f"the folder this run was started in is gone: {spec.cwd}.")
    if spec.script is not None and not Path(spec.script).exists():
        raise UsageError(f"the script of this run is gone: {spec.script}.")
    import shutil

    if shutil.which(spec.command[0]) is None:
        raise UsageError(f"the program of this run is gone: {spec.command[0]}.")
