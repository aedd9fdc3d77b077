"""What `run` and `resume` share: their options, and the settings from these and all files."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from backprop import config
from backprop.cli import completion
from backprop.cli.config_sources import Loaded, load, misspelt
from backprop.cli.context import check_text, json_option, say
from backprop.errors import UsageError
from backprop.records import Limits
from backprop.store.home import Home

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from backprop.lifecycle.owned_run import Request

_MAX_REQUEST_ID = 200
# a sweep gives them itself, or has none
_NOT_OF_TRIALS = {"maxRunMinutes", "untilStep", "sessions", "wait", "name", "goals"}
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
        """Grouped under titles, in the order of GROUPS."""
        params = {param.name: param for param in self.get_params(ctx)}
        grouped = [(title, [params.pop(name) for name in names if name in params]) for title, names in GROUPS.items()]
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


def setting(key: str, kept: str | None = None) -> Callable[[Function], Function]:
    """The option of a setting. Its value is checked by `config`, like that of every other source.

    kept: the default of what a run keeps from session to session, once it has one.
    """
    one = config.SETTINGS[key]
    default = (one.is_kept and kept) or config.default_text(key)
    options: dict[str, Any] = {"help": one.help + (f" [default: {default}]" if default else ""), "metavar": one.metavar}
    is_switch = isinstance(config.default(key), bool)
    spellings = [one.flag] if is_switch and "/--no-" in one.flag else one.flag.split("/")
    if is_switch:
        options |= {"is_flag": True, "default": None}
    if config.default(key) == ():
        options["multiple"] = True
    if words := config.choices(key):
        options["shell_complete"] = completion.choices(*words)
    if one.metavar == "PATH":
        options["shell_complete"] = completion.files
    return click.option(*spellings, _destination(key), **options)


def _destination(key: str) -> str:
    """The parameter that click puts an option's value into; it knows no dots."""
    return key.replace(".", "_")


def settings_of(options: dict[str, Any]) -> dict[str, Any]:
    """The settings given on the command line. Raises UsageError."""
    if options.pop("no_wait", False):
        if options["wait"] is not None:
            raise UsageError("--wait and --no-wait are mutually exclusive.")
        options["wait"] = "false"
    given = {key: options[_destination(key)] for key in config.KEYS if _destination(key) in options}
    return {key: None if value == () else value for key, value in given.items()}  # repeatable, and not given


# the titles of --help, and what there is under each beside the settings
_OTHERS = {
    "Sweep": (
        "goal",
        "param",
        "budget",
        "until",
        "sampler",
        "seed",
        "seed_param",
        "confirm",
        "rung",
        "rung_steps",
        "eta",
        "max_rungs",
    ),
    "Runs": ("filters", "is_all", "yes", "again"),
    "Timebox": (),
    "Checkpoints and resume": ("resume_from", "strict", "from_scratch", "only_once"),
    "Machine limits": (),
    "GPUs": (),
    "Queue": ("no_wait",),
    "Where": ("script", "cwd"),
    "The script": ("stdin", "vary"),
    "Name and output": (
        "run_id",
        "request_id",
        "group",
        "tags",
        "note",
        "parent",
        "config_file",
        "dry_run",
        "as_json",
        "is_lines",
        "fields",
        "is_full",
    ),
}
GROUPS = {
    title: (*(_destination(key) for key, one in config.SETTINGS.items() if one.group == title), *others)
    for title, others in _OTHERS.items()
}


def _checked_request_id(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        check_text(value, "--request-id")
        if not (0 < len(value) <= _MAX_REQUEST_ID and value.isprintable()):
            raise UsageError(f"--request-id: invalid value: expected 1 to {_MAX_REQUEST_ID} printable characters.")
    return value


request_id_option = click.option(
    "--request-id",
    metavar="ID",
    callback=_checked_request_id,
    help="Name this request: a repeat with the same ID returns the same run and starts nothing.",
)


def words_of(flags: dict[str, Any]) -> list[str]:
    """The same settings as options of a command line."""
    words = []
    for key, value in flags.items():
        spellings = [word for word in config.SETTINGS[key].flag.split("/") if word.startswith("--")]
        if isinstance(value, bool):
            words.append(spellings[0] if value else spellings[-1])
        elif value is not None:
            words += [f"{spellings[0]}={one}" for one in (value if isinstance(value, tuple) else (value,))]
    return words


def trial_options() -> Callable[[Function], Function]:
    """Declare the settings that each trial of a sweep is started with."""

    def declare(function: Function) -> Function:
        for key, one in reversed(list(config.SETTINGS.items())):
            if key != one.flag and key not in _NOT_OF_TRIALS:
                function = setting(key)(function)
        return function

    return declare


def _session_options(kept: str | None) -> "Sequence[Callable[[Any], Any]]":
    """The options that a session has, whether it is the first of a run or not. kept: see `setting`."""
    settings = [
        setting(key, kept)
        for key, one in config.SETTINGS.items()
        if key not in {one.flag, "wait"} and (kept is None or not one.only_new)
    ]
    wait = config.SETTINGS["wait"]
    return (
        *settings,
        click.option("--wait", metavar=wait.metavar, help=f"{wait.help} [default: {wait.default_text}]"),
        click.option("--no-wait", is_flag=True, help="Do not queue: exit with code 75 if the run cannot start now."),
        click.option(
            "-r",
            "--resume-from",
            metavar="PATH",
            shell_complete=completion.files,
            help="Resume from this checkpoint, without integrity checks.",
        ),
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
    """Declare the options of a session: of a new run's, or with `kept` (see `setting`) of a resumed one's."""

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
        for flag, key in (
            ("--wait and --no-wait have", "wait"),
            ("--max-parallel has", "maxParallel"),
            ("--priority has", "priority"),
        ):
            if flags[key] is not None:
                say(f"note: {flag} no effect on Slurm, which has its own queue")
        return
    for flag, key in (("--cpus", "cpus"), ("--nodes", "nodes"), ("--slurm-arg", "slurmArgs")):
        if flags[key] is not None:
            raise UsageError(f"{flag} needs --on slurm.")


def load_config(home: Home, flags: dict[str, Any], folder: Path, config_file: Path | None) -> Loaded:
    """The settings in force, from flags, environment and files. Raises UsageError or ConfigError.

    flags: as `settings_of` gives them. folder: where the search for a file begins, upwards. config_file: of --config.
    """
    if config_file is not None and not config_file.is_file():
        raise UsageError(f"--config {config_file}: no such file.")
    for name, near in misspelt(os.environ).items():
        say(f"warning: {name} is not a setting" + (f": did you mean {near}?" if near else ""))
    return load(
        flags=flags,
        environment=os.environ,
        start=folder,
        user_file=home.user_config_path,
        project_file=config_file,
    )


def request_of(settings: config.Config, limits: Limits, checkpoint: str | None) -> "Request":
    """What is asked of the sessions of a run. checkpoint: offered to the first of them."""
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
    """The absolute path of a checkpoint that the user named; a warning if it is not valid. Raises UsageError."""
    from backprop.store import checkpoints

    check_text(path, "-r/--resume-from")
    if not Path(path).exists():
        raise UsageError(f"-r/--resume-from {path}: no such file or folder.")
    if (reason := checkpoints.problem(path)) is not None:
        say(f"warning: using {path} as requested, but {reason}")
    say(f"offering checkpoint {path}")
    return str(Path(path).absolute())
