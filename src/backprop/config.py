"""The settings: their names, types, defaults and bounds, the help on them, and the check of a value.

Every value goes through the same check, wherever it comes from: see cli/config_sources.py. Every error names where,
which key, which value, and what is allowed.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta, field

from backprop.errors import ConfigError, UsageError
from backprop.records import GB, MAX_PRIORITY, Goal, Limits, Notification, Record, SlurmRequest, Status

_YEAR_MINUTES = 525_600.0
_MB = 1_000_000
PREFIX = "BACKPROP_"  # of environment variables
_MAX_BYTES = 1_000_000 * GB

Minutes = Annotated[float, Meta(gt=0, le=_YEAR_MINUTES)]
Gigabytes = Annotated[float, Meta(ge=0, le=1e6)]
Text = Annotated[str, Meta(min_length=1, max_length=200)]
# a flag; or a word with '=' or a place to fill in, none of which but ours (Hydra's ${...} is the script's)
ResumeArg = Annotated[
    str,
    Meta(
        pattern=r"^(?!.*(?<!\$)\{(?!(?:path|dir|step)\})\w*\})(-[^\s=]+|[^\s=]+=.+|.*\{(path|dir|step)\}.*)\Z",
        max_length=200,
    ),
]


GoalText = Annotated[str, Meta(pattern=r"^(max|min):.+\Z", max_length=300)]

# not of a session that begins: no process is started while one is active
NOTIFIABLE = tuple(status for status in Status if status not in {Status.RUNNING, Status.UNREADABLE})


class Config(Record, frozen=True):
    """The value of every setting. The `name` of a field is its key in files; SETTINGS has the rest."""

    max_run_minutes: Minutes = field(name="maxRunMinutes", default=10.0)
    grace_seconds: Annotated[float, Meta(ge=0, le=86_400)] = field(name="graceSeconds", default=30.0)
    finish_minutes: Annotated[float, Meta(ge=0, le=_YEAR_MINUTES)] | None = field(name="finishMinutes", default=None)
    until_step: Annotated[int, Meta(ge=1, le=10**15)] | None = field(name="untilStep", default=None)
    checkpoint_every_minutes: Minutes | None = field(name="checkpointEveryMinutes", default=None)
    framework: Literal["auto", "pytorch", "tensorflow"] = "auto"
    max_parallel: Annotated[int, Meta(ge=1, le=10_000)] = field(name="maxParallel", default=2)
    priority: Annotated[int, Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0
    wait: bool | Annotated[float, Meta(ge=0, le=_YEAR_MINUTES)] = True
    min_free_ram_gb: Gigabytes = field(name="minFreeRamGB", default=2.0)
    min_free_disk_gb: Gigabytes = field(name="minFreeDiskGB", default=0.1)
    ram_limit_gb: Annotated[float, Meta(gt=0, le=1e6)] | None = field(name="ramLimitGB", default=None)
    gpus: Annotated[int, Meta(ge=0, le=1000)] | None = None
    gpu_memory_limit: Annotated[str, Meta(pattern=r"^\d{1,6}(\.\d+)?%?\Z")] | float | None = field(
        name="gpuMemoryLimit", default=None
    )
    gpu_probe: Literal["auto", "nvml", "nvidia-smi", "rocm", "none"] = field(name="gpu.probe", default="auto")
    gpu_min_free_vram_mb: Annotated[float, Meta(ge=0, le=1e9)] = field(name="gpu.minFreeVramMB", default=2500.0)
    gpu_max_temp_c: Annotated[float, Meta(ge=20, le=200)] = field(name="gpu.maxTempC", default=85.0)
    max_pause_minutes: Annotated[float, Meta(ge=0, le=_YEAR_MINUTES)] = field(name="maxPauseMinutes", default=10.0)
    retries: Annotated[int, Meta(ge=0, le=1000)] = 0
    sessions: Annotated[int, Meta(ge=1, le=100_000)] = 1
    name: Text | None = None
    python: Text | None = None
    resume_arg: tuple[ResumeArg, ...] = field(name="resumeArg", default=())
    hooks: bool = True
    snapshot: bool = False
    metrics_printed: bool = field(name="metrics.printed", default=True)
    metrics_patterns: tuple[Text, ...] = field(name="metrics.patterns", default=())
    goals: tuple[GoalText, ...] = ()
    detach: bool = False
    on: Annotated[str, Meta(pattern=r"^(here|slurm(:[A-Za-z0-9_.,-]{1,200})?)\Z")] = "here"
    cpus: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    nodes: Annotated[int, Meta(ge=1, le=10_000)] = 1
    slurm_args: tuple[Text, ...] = field(name="slurmArgs", default=())
    notify: tuple[Notification, ...] = ()

    @property
    def limits(self) -> Limits:
        """The same in the program's units."""
        every = self.checkpoint_every_minutes
        fraction, vram_bytes = _vram_limit(self.gpu_memory_limit)
        return Limits(
            timebox_s=self.max_run_minutes * 60,
            grace_s=self.grace_seconds,
            finish_s=None if self.finish_minutes is None else self.finish_minutes * 60,
            until_step=self.until_step,
            checkpoint_every_s=None if every is None else every * 60,
            min_free_ram_bytes=round(self.min_free_ram_gb * GB),
            min_free_disk_bytes=round(self.min_free_disk_gb * GB),
            max_parallel=self.max_parallel,
            priority=self.priority,
            gpu_count=self.gpus,
            gpu_min_free_vram_bytes=round(self.gpu_min_free_vram_mb * _MB),
            gpu_memory_fraction=fraction,
            gpu_memory_bytes=vram_bytes,
            gpu_max_temp_c=self.gpu_max_temp_c,
            max_pause_s=self.max_pause_minutes * 60,
            ram_limit_bytes=None if self.ram_limit_gb is None else round(self.ram_limit_gb * GB),
        )

    @property
    def metric_goals(self) -> Mapping[str, Goal]:
        """The goals, by the name of the metric."""
        return goals_by_name(self.goals)

    @property
    def slurm(self) -> SlurmRequest | None:
        """What to ask of Slurm; None for a run on this machine."""
        engine, _, partition = self.on.partition(":")
        if engine == "slurm":
            return SlurmRequest(
                partition=partition or None, cpus=self.cpus, nodes=self.nodes, arguments=self.slurm_args
            )
        return None

    @property
    def wait_s(self) -> float | None:
        """How long to stand in line at most; None: as long as it takes."""
        if isinstance(self.wait, bool):
            return None if self.wait else 0.0
        return self.wait * 60


def _vram_limit(limit: str | float | None) -> tuple[float | None, int | None]:
    """--gpu-memory-limit as a share of the card, or as bytes: "80%" or GB."""
    if limit is None:
        return None, None
    if isinstance(limit, str) and limit.endswith("%"):
        return float(limit[:-1]) / 100, None
    return None, round(min(float(limit), _MAX_BYTES) * GB)  # whatever is too much stays too much, and finite


class Setting(NamedTuple):
    """What there is to say of a setting; its type and default are the field of `Config` with that name.

    Options and their help, error messages, what `resume` keeps, `init` and the reference page are made from it.
    """

    flag: str  # its spellings; the key, where it has no option
    allowed: str
    group: str  # the title over its option in --help
    help: str
    metavar: str | None = None
    default_text: str | None = None  # where the default of the field does not say it
    example: Any = None  # for `init`, where there is no default
    limits: tuple[str, ...] = ()  # the fields of `Limits` that it gives
    is_kept: bool = True  # from session to session, unless `resume` is given another
    only_new: bool = False  # `resume` does not have it


_TIMEBOX, _CHECKPOINTS, _MACHINE, _GPUS = "Timebox", "Checkpoints and resume", "Machine limits", "GPUs"
_QUEUE, _WHERE, _SCRIPT, _NAME = "Queue", "Where", "The script", "Name and output"
_YES_OR_NO = "true or false"
_GB_ALLOWED = "GB (1e9 bytes), 0 to 1000000"
_MINUTES_ALLOWED = f"minutes, 0 to {_YEAR_MINUTES:.0f}"
_SOME_MINUTES_ALLOWED = f"minutes > 0, at most {_YEAR_MINUTES:.0f}"

SETTINGS: Mapping[str, Setting] = {
    "maxRunMinutes": Setting(
        "-m/--max-run-minutes",
        _SOME_MINUTES_ALLOWED,
        _TIMEBOX,
        "Timebox: stop gracefully after training this long.",
        "MINUTES",
        limits=("timebox_s",),
    ),
    "graceSeconds": Setting(
        "--grace",
        "seconds, 0 to 86400",
        _TIMEBOX,
        "Grace period before the trainer is killed.",
        "SECONDS",
        limits=("grace_s",),
    ),
    "finishMinutes": Setting(
        "--finish-minutes",
        _MINUTES_ALLOWED,
        _TIMEBOX,
        "Time allowed beyond the timebox once training is complete.",
        "MINUTES",
        default_text="the grace period",
        example=5,
        limits=("finish_s",),
    ),
    "maxPauseMinutes": Setting(
        "--max-pause-minutes",
        _MINUTES_ALLOWED,
        _TIMEBOX,
        "Stop after being paused this long in total.",
        "MINUTES",
        limits=("max_pause_s",),
    ),
    "untilStep": Setting(
        "--until-step",
        "a whole number of steps, 1 to 1e15",
        _TIMEBOX,
        "Also stop gracefully when training reaches this step.",
        "N",
        example=10_000,
        limits=("until_step",),
        is_kept=False,
    ),
    "sessions": Setting(
        "--sessions",
        "a whole number, 1 to 100000",
        _TIMEBOX,
        "After each timebox, requeue, up to N sessions in total.",
        "N",
        is_kept=False,
    ),
    "retries": Setting(
        "--retries",
        "a whole number, 0 to 1000",
        _TIMEBOX,
        "Retry up to N times if training fails, within the timebox.",
        "N",
        is_kept=False,
    ),
    "checkpointEveryMinutes": Setting(
        "-c/--checkpoint-every-minutes",
        _SOME_MINUTES_ALLOWED,
        _CHECKPOINTS,
        "Ask the script to save a checkpoint this often.",
        "MINUTES",
        example=5,
        limits=("checkpoint_every_s",),
    ),
    "resumeArg": Setting(
        "--resume-arg",
        "a flag of your script, such as --resume, or words with '=', {path}, {dir} or {step}, such as --ckpt={path}",
        _CHECKPOINTS,
        "On resume, pass FLAG and the checkpoint's path to the script. Or a template: --ckpt={path}. Repeatable.",
        "FLAG",
        example=["--resume"],
    ),
    "minFreeRamGB": Setting(
        "--min-free-ram", _GB_ALLOWED, _MACHINE, "Minimum available RAM to start.", "GB", limits=("min_free_ram_bytes",)
    ),
    "minFreeDiskGB": Setting(
        "--min-free-disk",
        _GB_ALLOWED,
        _MACHINE,
        "Minimum free disk space to start.",
        "GB",
        limits=("min_free_disk_bytes",),
    ),
    "ramLimitGB": Setting(
        "--ram-limit",
        "GB (1e9 bytes) > 0, at most 1000000",
        _MACHINE,
        "Stop if the trainer and its children use more RAM.",
        "GB",
        example=8,
        limits=("ram_limit_bytes",),
    ),
    "gpus": Setting(
        "--gpus",
        "a whole number of GPUs, 0 to 1000",
        _GPUS,
        "Number of GPUs (0 for none).",
        "N",
        default_text="1 if there is one",
        example=1,
        limits=("gpu_count",),
    ),
    "gpuMemoryLimit": Setting(
        "-g/--gpu-memory-limit",
        "a share of the GPU's memory such as 80%, or GB (1e9 bytes) > 0",
        _GPUS,
        "Maximum memory on each GPU: a share (80%) or GB.",
        "LIMIT",
        example="80%",
        limits=("gpu_memory_fraction", "gpu_memory_bytes"),
    ),
    "gpu.minFreeVramMB": Setting(
        "--gpu-min-vram",
        "MB (1e6 bytes), 0 to 1000000000",
        _GPUS,
        "Use only GPUs with at least this much free memory.",
        "MB",
        limits=("gpu_min_free_vram_bytes",),
    ),
    "gpu.maxTempC": Setting(
        "--gpu-max-temp",
        "degrees Celsius, 20 to 200",
        _GPUS,
        "Pause while a GPU is hotter than this.",
        "CELSIUS",
        limits=("gpu_max_temp_c",),
    ),
    "gpu.probe": Setting(
        "--gpu-probe",
        "auto, nvml, nvidia-smi, rocm or none",
        _GPUS,
        "How to query GPUs: auto, nvml, nvidia-smi, rocm or none.",
        "NAME",
        default_text="auto",
        is_kept=False,
    ),
    "maxParallel": Setting(
        "-p/--max-parallel",
        "a whole number of runs, 1 to 10000",
        _QUEUE,
        "Start only while fewer than N runs are active.",
        "N",
        limits=("max_parallel",),
    ),
    "priority": Setting(
        "--priority",
        f"a whole number of places, -{MAX_PRIORITY} to {MAX_PRIORITY}",
        _QUEUE,
        "Queue up to N places further ahead; below 0: behind.",
        "N",
        limits=("priority",),
    ),
    "wait": Setting(
        "--wait/--no-wait",
        f"true, false, or {_MINUTES_ALLOWED}",
        _QUEUE,
        "Wait in the queue, at most this long.",
        "[MINUTES]",
        default_text="no limit",
        is_kept=False,
    ),
    "on": Setting(
        "--on",
        "here, slurm, or slurm:PARTITION",
        _WHERE,
        "Where to run: here, slurm or slurm:PARTITION.",
        "ENGINE",
        default_text="here",
    ),
    "cpus": Setting(
        "--cpus",
        "a whole number of CPUs for each node, 1 to 100000",
        _WHERE,
        "On Slurm: number of CPUs per node.",
        "N",
        example=8,
    ),
    "nodes": Setting(
        "--nodes",
        "a whole number of nodes, 1 to 10000",
        _WHERE,
        "On Slurm: number of nodes; srun starts the trainer once on each.",
        "N",
    ),
    "slurmArgs": Setting(
        "--slurm-arg",
        "options of sbatch, such as --account=ml",
        _WHERE,
        "Passed to sbatch as is: --slurm-arg=--account=ml. Repeatable.",
        "OPTION",
    ),
    "python": Setting(
        "--python",
        "the path of a Python interpreter",
        _WHERE,
        "Python interpreter that runs the script.",
        "PATH",
        example=".venv/bin/python",
    ),
    "detach": Setting("-d/--detach", _YES_OR_NO, _WHERE, "Run in the background; print the run's id.", is_kept=False),
    "framework": Setting(
        "-f/--framework",
        "auto, pytorch or tensorflow",
        _SCRIPT,
        "Framework to announce to the script: auto, pytorch or tensorflow.",
        "NAME",
        default_text="auto",
        only_new=True,
    ),
    "hooks": Setting(
        "--hooks/--no-hooks",
        _YES_OR_NO,
        _SCRIPT,
        "Load framework hooks into the trainer, so that unmodified scripts stop, save and resume.",
        default_text="on",
        only_new=True,
    ),
    "metrics.printed": Setting(
        "--printed-metrics/--no-printed-metrics",
        _YES_OR_NO,
        _SCRIPT,
        "Read metrics from the script's output, and sample the loss in PyTorch, unless it reports them.",
        default_text="on",
        only_new=True,
    ),
    "snapshot": Setting(
        "--snapshot/--no-snapshot",
        _YES_OR_NO,
        _SCRIPT,
        "Copy the work tree into the run's folder, and run all its sessions from that copy.",
        default_text="off",
        only_new=True,
    ),
    "metrics.patterns": Setting(
        "metrics.patterns",
        "a list of Python regular expressions, each with the groups name and value, or a group for each metric",
        _SCRIPT,
        "Regular expressions for metrics that are printed in your own format.",
        example=["(?P<name>\\w+) = (?P<value>[0-9.]+)"],
        only_new=True,
    ),
    "goals": Setting(
        "--goal",
        "max:NAME or min:NAME, where NAME is that of a metric",
        _SCRIPT,
        "Whether a greater (max:elo) or a smaller (min:fid) value of a metric is better. Repeatable.",
        "GOAL",
        example=["max:elo"],
        only_new=True,
    ),
    "name": Setting(
        "-n/--name",
        "text of 1 to 200 printable characters that is not 'last'",
        _NAME,
        "The run's name.",
        "NAME",
        example="digits",
        only_new=True,
    ),
    "notify": Setting(
        "notify",
        "a list, each with one of command (a list of words), webhook (an http or https address) and desktop (true), "
        f"and optionally on (a list of {', '.join(status.value for status in NOTIFIABLE)})",
        _NAME,
        "What to notify when a run ends, one table each; `on` names the statuses, by default every end.",
    ),
}

_FIELDS = {f.encode_name: f for f in msgspec.structs.fields(Config)}
KEYS = tuple(_FIELDS)


def default(key: str) -> Any:
    """The default of a setting."""
    return _FIELDS[key].default


def default_text(key: str) -> str | None:
    """The default in words; None where there is none to speak of."""
    own = default(key)
    is_number = isinstance(own, (float, int)) and not isinstance(own, bool)
    return SETTINGS[key].default_text or (f"{own:g}" if is_number else None)


def choices(key: str) -> tuple[str, ...]:
    """The words that a setting may be, where only some are allowed."""
    allowed = _FIELDS[key].type
    return get_args(allowed) if get_origin(allowed) is Literal else ()


def environment_name(key: str) -> str:
    """The environment variable of a key: maxRunMinutes -> BACKPROP_MAX_RUN_MINUTES."""
    return PREFIX + _FIELDS[key].name.upper()


def check(key: str, value: Any, origin: str) -> Any:
    """The value in its right type, or an error that names everything."""
    if key not in _FIELDS:
        import difflib

        near = difflib.get_close_matches(key, _FIELDS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"{origin}: unknown key {key!r}: {hint}Allowed: {', '.join(_FIELDS)}.")
    if key == "notify":
        return _checked_notify(value, origin)
    if key == "metrics.patterns":
        return _checked_patterns(value, origin)
    is_flag = origin.startswith("-")
    is_text = is_flag or origin.startswith(PREFIX)
    try:
        words = _words(value) if default(key) == () else value
        checked = msgspec.convert(words, _FIELDS[key].type, strict=not is_text)
    except (msgspec.ValidationError, ValueError):
        checked = math.nan  # as wrong as any other
    is_wrong_number = isinstance(checked, float) and not math.isfinite(checked)
    if key == "gpuMemoryLimit" and not is_wrong_number:
        fraction, vram_bytes = _vram_limit(checked)
        is_wrong_number = not (0 < fraction <= 1 if fraction is not None else 0 < (vram_bytes or 0) <= _MAX_BYTES)
    is_wrong_name = key == "name" and isinstance(checked, str) and (not checked.isprintable() or checked == "last")
    if is_wrong_number or is_wrong_name:
        shown = " ".join(map(repr, value)) if isinstance(value, tuple) else repr(value)
        what = f"{origin} {shown}" if is_flag else f"{origin}: {key} = {shown}"
        error = UsageError if is_flag else ConfigError
        raise error(f"{what}: invalid value: expected {SETTINGS[key].allowed}.")
    return checked


def goals_by_name(goals: Iterable[str]) -> dict[str, Goal]:
    """Goals such as max:elo, by the name of the metric."""
    return {name: Goal(goal) for goal, _, name in (text.partition(":") for text in goals)}


def check_name(name: str) -> None:
    """Raise UsageError for what no run may be called."""
    try:
        name.encode()
        check("name", name, "--name")
    except (UnicodeEncodeError, UsageError) as error:
        raise UsageError(f"name {name!r}: invalid value: expected {SETTINGS['name'].allowed}.") from error


def _checked_patterns(value: Any, origin: str) -> tuple[str, ...]:
    """As `check`. The environment gives one pattern: what would part several could be in one."""
    import re

    try:
        patterns = msgspec.convert([value] if isinstance(value, str) else value, tuple[Text, ...])
        bare = [pattern for pattern in patterns if not re.compile(pattern).groupindex]
        problem = f"{bare[0]!r} has no named group" if bare else None
    except (msgspec.ValidationError, re.error) as error:
        patterns, problem = (), str(error)
    if problem is not None:
        allowed = SETTINGS["metrics.patterns"].allowed
        raise ConfigError(f"{origin}: metrics.patterns: invalid value: {problem}. Expected {allowed}.")
    return patterns


def _words(value: Any) -> Any:
    """Words for a command line, which the environment gives as one text. Raises ValueError for what is none."""
    import shlex

    words = shlex.split(value) if isinstance(value, str) else value
    if isinstance(words, (list, tuple)) and not all(isinstance(word, str) and word.isprintable() for word in words):
        raise ValueError("it cannot be printed")
    return words


def _checked_notify(value: Any, origin: str) -> tuple[Notification, ...]:
    """As `check`. What is wrong is named by its place: an address may hold a secret, and is not shown."""
    try:
        if isinstance(value, str):  # of the environment
            value = msgspec.json.decode(value)
        notifications = msgspec.convert(value, tuple[Notification, ...])
        problems = (f"{found} - at `$[{i}]`" for i, one in enumerate(notifications) if (found := _notify_problem(one)))
        problem = next(problems, None)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        problem = str(error) or type(error).__name__
    if problem is not None:
        where = problem.replace("`$", "`notify")
        raise ConfigError(f"{origin}: notify: invalid value: {where}. Expected {SETTINGS['notify'].allowed}.")
    return notifications


def _notify_problem(notification: Notification) -> str | None:
    command, webhook = notification.command, notification.webhook
    if (command is not None) + (webhook is not None) + (notification.desktop is True) != 1:
        return "One of command, webhook and desktop is wanted"
    if command is not None and not (command and command[0]):
        return "The command is empty"
    if webhook is not None and not _is_address(webhook):
        return "The webhook is not an http or https address"
    if webhook is not None and _names_a_user(webhook):
        return "The webhook has a user or a password before its host, which is not sent: take an address without"
    unknown = [status.value for status in notification.on if status not in NOTIFIABLE]
    return f"Invalid enum value {unknown[0]!r} in on" if unknown else None


def _is_address(text: str) -> bool:
    from urllib.parse import urlsplit

    try:
        address = urlsplit(text)
        is_http = address.scheme in {"http", "https"} and bool(address.hostname) and address.port != 0
    except ValueError:  # a port that is no number, brackets that do not match
        return False
    return is_http and text.isascii() and text.isprintable() and " " not in text


def _names_a_user(address: str) -> bool:
    from urllib.parse import urlsplit

    return "@" in urlsplit(address).netloc
