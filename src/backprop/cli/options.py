"""What `run` and `resume` share: their options, and the settings from these and all files."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from backprop import config
from backprop.cli import completion
from backprop.cli.context import check_text, json_option, say
from backprop.errors import UsageError
from backprop.records import Limits
from backprop.store.home import Home

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from backprop.lifecycle.owned_run import Request

Function = TypeVar("Function", bound=Callable[..., Any])


class SessionCommand(click.Command):
    """Keeps what follows the first `--` apart: the script's own arguments, or a whole command.

    Lets `--wait` stand without a value, also before a script's name.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            position = args.index("--")
            ctx.meta[completion.AFTER_DASHES] = args[position + 1 :]
            args = args[:position]
        words = [
            "--wait=true" if word == "--wait" and not _is_number(next_word) else word
            for word, next_word in zip(args, [*args, ""][1:], strict=True)
        ]
        return super().parse_args(ctx, words)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Grouped under titles, in the order of _GROUPS."""
        params = {param.name: param for param in self.get_params(ctx)}
        grouped = [(title, [params.pop(name) for name in names if name in params]) for title, names in _GROUPS.items()]
        for title, group in (*grouped, ("Help", list(params.values()))):
            options = [param for param in group if isinstance(param, click.Option)]
            rows = [row for option in options if (row := option.get_help_record(ctx)) is not None]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem[str]]":
        if completion.AFTER_DASHES in ctx.meta:
            return completion.files(ctx, self.params[0], incomplete)
        return super().shell_complete(ctx, incomplete)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- ARGS...]"]


def after_dashes(ctx: click.Context) -> list[str]:
    """What follows the first `--`; empty where there is none."""
    found: list[str] = ctx.meta.get(completion.AFTER_DASHES, [])
    return found


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def setting(
    key: str, text: str, metavar: str | None = None, *, default_text: str | None = None, **options: Any
) -> Callable[[Function], Function]:
    """An option for a configuration key. Its value is checked by `config`, like that of every other source.

    default_text: the default in words, where the key's own is not enough.
    """
    own = config.default(key)
    if default_text is None and isinstance(own, (float, int)) and not isinstance(own, bool):
        default_text = f"{own:g}"
    if default_text is not None:
        text += f" [default: {default_text}]"
    if words := config.choices(key):
        options["shell_complete"] = completion.choices(*words)
    return click.option(*config.ALLOWED[key][0].split("/"), _destination(key), metavar=metavar, help=text, **options)


def _destination(key: str) -> str:
    """The parameter that click puts an option's value into; it knows no dots."""
    return key.replace(".", "_")


def settings_of(options: dict[str, Any]) -> dict[str, Any]:
    """The settings given on the command line. Raises UsageError."""
    if options.pop("no_wait"):
        if options["wait"] is not None:
            raise UsageError("--wait and --no-wait are mutually exclusive.")
        options["wait"] = "false"
    given = {key: options[_destination(key)] for key in config.KEYS if _destination(key) in options}
    return {key: None if value == () else value for key, value in given.items()}  # repeatable, and not given


# the titles of --help, and the parameters under each
_GROUPS = {
    "Runs": ("filters", "is_all", "yes", "again"),
    "Timebox": (
        "maxRunMinutes",
        "graceSeconds",
        "finishMinutes",
        "maxPauseMinutes",
        "sessions",
        "retries",
    ),
    "Checkpoints and resume": ("checkpointEveryMinutes", "resume_from", "resumeArg", "only_once"),
    "Machine limits": ("minFreeRamGB", "minFreeDiskGB", "ramLimitGB"),
    "GPUs": ("gpus", "gpuMemoryLimit", "gpu_minFreeVramMB", "gpu_maxTempC", "gpu_probe"),
    "Queue": ("maxParallel", "wait", "no_wait"),
    "Where": ("on", "cpus", "nodes", "slurmArgs", "python", "script", "cwd", "detach"),
    "The script": ("framework", "hooks", "metrics_printed", "snapshot", "stdin", "vary"),
    "Name and output": ("name", "run_id", "config_file", "dry_run", "as_json"),
}


def _session_options(kept: str | None) -> "Sequence[Callable[[Any], Any]]":
    """The options that a session has, whether it is the first of a run or not.

    kept: the default of what a run keeps from session to session, once it has one.
    """
    return (
        setting("maxRunMinutes", "Timebox: stop gracefully after training this long.", "MINUTES", default_text=kept),
        setting("checkpointEveryMinutes", "Ask the script to save this often.", "MINUTES", default_text=kept),
        click.option(
            "-r",
            "--resume-from",
            metavar="PATH",
            shell_complete=completion.files,
            help="Resume from this checkpoint, without integrity checks.",
        ),
        setting("graceSeconds", "Grace period before the trainer is killed.", "SECONDS", default_text=kept),
        setting(
            "finishMinutes",
            "Time beyond the timebox, once training has finished.",
            "MINUTES",
            default_text=kept or "the grace period",
        ),
        setting("maxParallel", "Start only while fewer than N runs are active.", "N", default_text=kept),
        click.option("--wait", metavar="[MINUTES]", help="Wait in the queue, at most this long. [default: no limit]"),
        click.option("--no-wait", is_flag=True, help="Do not queue: exit with code 75 if the run cannot start now."),
        setting("minFreeRamGB", "Minimum available RAM to start.", "GB", default_text=kept),
        setting("minFreeDiskGB", "Minimum free disk space to start.", "GB", default_text=kept),
        setting("ramLimitGB", "Stop if the trainer and its children use more RAM.", "GB", default_text=kept),
        setting("gpus", "Number of GPUs (0 for none).", "N", default_text=kept or "1 if there is one"),
        setting("gpuMemoryLimit", "Maximum memory on each GPU: a share (80%) or GB.", "LIMIT", default_text=kept),
        setting("gpu.minFreeVramMB", "Use only GPUs with at least this much free memory.", "MB", default_text=kept),
        setting("gpu.maxTempC", "Pause while a GPU is hotter than this.", "CELSIUS", default_text=kept),
        setting("maxPauseMinutes", "Stop after being paused this long in total.", "MINUTES", default_text=kept),
        setting("gpu.probe", "How to query GPUs: auto, nvml, nvidia-smi, rocm or none.", "NAME", default_text="auto"),
        setting("retries", "Retry up to N times if training fails, within the timebox.", "N"),
        setting("sessions", "After each timebox, requeue, up to N sessions in total.", "N"),
        setting(
            "resumeArg",
            "On resume, pass FLAG and the checkpoint to the script, or a template: --ckpt={path}. Repeatable.",
            "FLAG",
            default_text=kept,
            multiple=True,
        ),
        setting("on", "Where to run: here, slurm or slurm:PARTITION.", "ENGINE", default_text=kept or "here"),
        setting("cpus", "On Slurm: number of CPUs per node.", "N", default_text=kept),
        setting("nodes", "On Slurm: number of nodes; srun starts the trainer once on each.", "N", default_text=kept),
        setting(
            "slurmArgs",
            "Passed to sbatch as is: --slurm-arg=--account=ml. Repeatable.",
            "OPTION",
            default_text=kept,
            multiple=True,
        ),
        setting(
            "python",
            "Python interpreter that runs the script.",
            "PATH",
            default_text=kept,
            shell_complete=completion.files,
        ),
        setting("detach", "Run in the background; print the run's id.", is_flag=True, default=None),
        click.option(
            "--config",
            "config_file",
            metavar="PATH",
            type=click.Path(path_type=Path),
            help="Read settings from this file.",
        ),
        click.option("--dry-run", is_flag=True, help="Show what would be done, without doing it."),
        json_option,
    )


def session_options(*, kept: str | None = None) -> Callable[[Function], Function]:
    """Declare the options of a session. kept: see _session_options."""

    def declare(function: Function) -> Function:
        for option in reversed(_session_options(kept)):
            function = option(function)
        return function

    return declare


def check_for_engine(flags: dict[str, Any], *, is_for_slurm: bool) -> None:
    """Refuse options that need Slurm, and name those that have no effect there. Raises UsageError.

    A file may have both kinds, for runs on Slurm and on this machine.
    """
    if is_for_slurm:
        for flag, key in (("--wait and --no-wait have", "wait"), ("--max-parallel has", "maxParallel")):
            if flags[key] is not None:
                say(f"note: {flag} no effect on Slurm, which has its own queue")
        return
    for flag, key in (("--cpus", "cpus"), ("--nodes", "nodes"), ("--slurm-arg", "slurmArgs")):
        if flags[key] is not None:
            raise UsageError(f"{flag} needs --on slurm.")


def load_config(home: Home, flags: dict[str, Any], folder: Path, config_file: Path | None) -> config.Loaded:
    if config_file is not None and not config_file.is_file():
        raise UsageError(f"--config {config_file}: no such file.")
    for name, near in config.misspelt(os.environ).items():
        say(f"warning: {name} is not a setting" + (f": did you mean {near}?" if near else ""))
    return config.load(
        flags=flags,
        environment=os.environ,
        start=folder,
        user_file=home.user_config_path,
        project_file=config_file,
    )


def request_of(settings: config.Config, limits: Limits, checkpoint: str | None) -> "Request":
    from backprop.lifecycle.owned_run import Request

    return Request(
        limits=limits,
        checkpoint=checkpoint,
        gpu_probe=settings.gpu_probe,
        wait_s=settings.wait_s,
        retries=settings.retries,
        sessions=settings.sessions,
    )


def forced_checkpoint(path: str) -> str:
    from backprop.store import checkpoints

    check_text(path, "-r/--resume-from")
    if not Path(path).exists():
        raise UsageError(f"-r/--resume-from {path}: no such file or folder.")
    if (reason := checkpoints.problem(path)) is not None:
        say(f"warning: using {path} as requested, but {reason}")
    say(f"offering checkpoint {path}")
    return str(Path(path).absolute())
