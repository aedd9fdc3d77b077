"""What `run` and `resume` have in common: their options, and what these come to with the settings of all files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from backprop import config
from backprop.cli import completing
from backprop.cli.common import check_text, json_option, say
from backprop.errors import UsageError
from backprop.records import Limits
from backprop.store.rundir import Home

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from backprop.turns import Request

Function = TypeVar("Function", bound=Callable[..., Any])


class SessionCommand(click.Command):
    """Keeps what follows the first `--` apart: the script's own arguments, or a whole command.

    Lets `--wait` stand without a value, also before a script's name.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            position = args.index("--")
            ctx.meta[completing.AFTER_DASHES] = args[position + 1 :]
            args = args[:position]
        told = [
            "--wait=true" if word == "--wait" and not _is_number(next_word) else word
            for word, next_word in zip(args, [*args, ""][1:], strict=True)
        ]
        return super().parse_args(ctx, told)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem[str]]":
        if completing.AFTER_DASHES in ctx.meta:
            return completing.files(ctx, self.params[0], incomplete)
        return super().shell_complete(ctx, incomplete)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- ARGS...]"]


def after_dashes(ctx: click.Context) -> list[str]:
    """What follows the first `--`; empty where there is none."""
    found: list[str] = ctx.meta.get(completing.AFTER_DASHES, [])
    return found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def setting(key: str, text: str, metavar: str | None = None, **options: Any) -> Callable[[Function], Function]:
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


def settings_of(options: dict[str, Any]) -> dict[str, Any]:
    """What the command line says of each setting. Raises UsageError."""
    if options.pop("no_wait"):
        if options["wait"] is not None:
            raise UsageError("--wait and --no-wait exclude one another.")
        options["wait"] = "false"
    told = {key: options[_destination(key)] for key in config.KEYS if _destination(key) in options}
    return {key: None if value == () else value for key, value in told.items()}  # may be given again, and was not


# options that a session has, whether it is the first of a run or not
_SESSION_OPTIONS = (
    setting("maxRunMinutes", "The timebox: train for so long, then stop gracefully.", "MINUTES"),
    setting("checkpointEveryMinutes", "Ask a script that listens for a checkpoint every so often.", "MINUTES"),
    click.option(
        "-r",
        "--resume-from",
        metavar="PATH",
        shell_complete=completing.files,
        help="Continue from this checkpoint, whole or not.",
    ),
    setting("graceSeconds", "Time to stop before the trainer is killed.", "SECONDS"),
    setting("finishMinutes", "Beyond the timebox, once training has finished. [default: the grace]", "MINUTES"),
    setting("maxParallel", "Start only while fewer runs are going on.", "N"),
    click.option("--wait", metavar="[MINUTES]", help="Stand in line, at most so long. [default: as long as it takes]"),
    click.option("--no-wait", is_flag=True, help="Do not stand in line: exit with 75."),
    setting("minFreeRamGB", "Do not start with less RAM available.", "GB"),
    setting("minFreeDiskGB", "Do not start with less disk free.", "GB"),
    setting("ramLimitGB", "Stop when the trainer and its children hold more RAM.", "GB"),
    setting("gpus", "So many GPUs; 0: none. [default: 1 where there is one]", "N"),
    setting("gpuMemoryLimit", "Use no more of each GPU: 80% of it, or GB.", "LIMIT"),
    setting("gpu.minFreeVramMB", "Choose only GPUs with so much memory free.", "MB"),
    setting("gpu.maxTempC", "Pause while a GPU is hotter.", "CELSIUS"),
    setting("maxPauseMinutes", "Stop after so long a pause in all.", "MINUTES"),
    setting("gpu.probe", "auto, nvml, nvidia-smi, rocm or none: whom to ask about GPUs. [default: auto]", "NAME"),
    setting("retries", "Start again when the trainer fails, so often, within the timebox.", "N"),
    setting("sessions", "After a timebox line up again, up to N sessions in all.", "N"),
    setting(
        "resumeArg",
        "On resume add FLAG and the checkpoint to the script's arguments, or words: --ckpt={path}. May be repeated.",
        "FLAG",
        multiple=True,
    ),
    setting("on", "Where to run: here, slurm or slurm:PARTITION. [default: here]", "ENGINE"),
    setting("cpus", "Of Slurm: so many CPUs on each node.", "N"),
    setting("nodes", "Of Slurm: so many nodes; srun starts the trainer once on each.", "N"),
    setting("slurmArgs", "For sbatch, as it is: --slurm-arg=--account=ml. May be repeated.", "OPTION", multiple=True),
    setting("python", "The Python that runs the script.", "PATH", shell_complete=completing.files),
    setting("detach", "Go on in the background; print the run's id at once.", is_flag=True, default=None),
    click.option(
        "--config", "config_file", metavar="PATH", type=click.Path(path_type=Path), help="Read this configuration file."
    ),
    click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing."),
    json_option,
)


def session_options(function: Function) -> Function:
    """Declare them, in the order in which --help shows them."""
    for option in reversed(_SESSION_OPTIONS):
        function = option(function)
    return function


def check_for_engine(flags: dict[str, Any], *, is_for_slurm: bool) -> None:
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


def load_config(home: Home, flags: dict[str, Any], folder: Path, config_file: Path | None) -> config.Loaded:
    if config_file is not None and not config_file.is_file():
        raise UsageError(f"--config {config_file}: no such file.")
    return config.load(
        flags=flags,
        environment=os.environ,
        start=folder,
        user_file=home.user_config_path,
        project_file=config_file,
    )


def request_of(settings: config.Config, limits: Limits, checkpoint: str | None) -> "Request":
    from backprop.turns import Request

    return Request(
        limits=limits,
        checkpoint=checkpoint,
        gpu_probe=settings.gpu_probe,
        wait_s=settings.wait_s,
        retries=settings.retries,
        sessions=settings.sessions,
    )


def forced_checkpoint(path: str) -> str:
    from backprop import checkpoints

    check_text(path, "-r/--resume-from")
    if not Path(path).exists():
        raise UsageError(f"-r/--resume-from {path}: no such file or folder.")
    if (reason := checkpoints.problem(path)) is not None:
        say(f"warning: {path} is used because you say so, but {reason}")
    say(f"offering {path}")
    return str(Path(path).absolute())
