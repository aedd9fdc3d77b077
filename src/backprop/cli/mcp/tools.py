"""The tools: each has arguments, and says which command line they mean. Nothing here runs anything.

Nothing that an agent gives becomes an option: a value is joined to its option (`--name=VALUE`), and a RUN comes after
`--`, or is an id that was looked up. What the client is told of a tool is its docstring and the types of its arguments.
"""

import os
from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal, NamedTuple

from msgspec import Meta

from backprop.errors import ExitCode
from backprop.records import Record

_MAX_TEXT = 20_000  # characters of one argument
_MAX_WORDS = 1000
WAIT_S = 50  # a client gives a call a minute

Text = Annotated[str, Meta(min_length=1, max_length=_MAX_TEXT)]
RunWord = Annotated[str, Meta(min_length=1, max_length=_MAX_TEXT, description="id, unique prefix, unique name or last")]
RunWords = Annotated[tuple[Text, ...], Meta(min_length=1, max_length=_MAX_WORDS, description="ids, names or last")]
Minutes = Annotated[float, Meta(gt=0, le=525_600)]
Fields = Annotated[Text, Meta(description="only these, as JSON: id,status,best.loss.value,params.lr,notes")]
RequestId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        description="a name of your own for this call: repeated with it, nothing is started twice",
    ),
]
Arguments = Annotated[tuple[str, ...], Meta(max_length=_MAX_WORDS, description="the script's own arguments")]
Cwd = Annotated[Text, Meta(description="working directory, below a root of the server")]
Goal = Annotated[Text, Meta(description="max:METRIC or min:METRIC, where its name does not tell")]
Metrics = Annotated[tuple[Text, ...], Meta(max_length=_MAX_WORDS, description="default: the loss and its twin")]


class Hints(NamedTuple):
    """What the protocol tells a client of a tool."""

    is_read_only: bool = False
    is_destructive: bool = False
    is_idempotent: bool = False


_READS = Hints(is_read_only=True, is_idempotent=True)


class Tool(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all tools. Arguments that all of them have."""

    hints: ClassVar[Hints] = _READS
    is_allowed_to_readers: ClassVar[bool] = True
    # exit codes of an answer; others are errors. None: all, unless what is printed is an error as JSON
    answers: ClassVar[frozenset[int] | None] = frozenset({ExitCode.OK})
    is_our_text: ClassVar[bool] = False  # it quotes no run
    shows_end: ClassVar[bool] = False

    max_chars: Annotated[int, Meta(ge=1000, le=200_000, description="longest answer")] = 4000
    offset: Annotated[int, Meta(ge=0, description="next_offset of a cut answer")] | None = None

    @property
    def line_chars_limit(self) -> int | None:
        """Longer lines are shortened; None: none is."""
        return None

    def words(self) -> list[str]:
        """The command line after `backprop`."""
        raise NotImplementedError


def _option(name: str, value: object) -> list[str]:
    return [] if value is None else [f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"]


def _repeated(name: str, values: Iterable[str]) -> list[str]:
    return [f"{name}={value}" for value in values]


def _flag(name: str, is_given: bool) -> list[str]:
    return [name] if is_given else []


def _below(folder: str, path: str) -> str:
    """An absolute path, which no command takes for an option."""
    return os.path.join(folder, path)  # noqa: PTH118  as it is written: the script may look at its name


class OverviewTool(Tool, frozen=True, kw_only=True):
    """The machine, its GPUs and memory, what is running and what waits in the queue."""

    def words(self) -> list[str]:
        return ["status"]


class RunsTool(Tool, frozen=True, kw_only=True):
    """Runs, newest first, one line each; or their groups; or what was tried, the best first, over its seeds."""

    filter: Annotated[Text, Meta(description="such as: group=lr status=completed lr>1e-4 age<1d")] | None = None
    sort: Annotated[Text, Meta(description="created, a metric (best first) or a parameter")] | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 20
    groups: Annotated[bool, Meta(description="one line for each group")] = False
    best: Annotated[Text, Meta(description="a metric: its mean ± sd over runs that differ in their seed")] | None = None
    goal: Goal | None = None
    fields: Fields | None = None

    def __post_init__(self) -> None:
        if self.best is not None and (self.groups or self.sort is not None):
            raise ValueError("`best` has an order and lines of its own: leave out `sort` and `groups`")

    def words(self) -> list[str]:
        options = [
            *_option("--filter", self.filter),
            *_option("--limit", self.limit),
            *_option("--goal", self.goal),
            *_option("--fields", self.fields),
        ]
        if self.best is not None:
            return ["best", *options, "--", self.best]
        return ["list", *options, *_option("--sort", self.sort), *_flag("--groups", self.groups)]


class RunTool(Tool, frozen=True, kw_only=True):
    """One run in full: its state, sessions, metrics (last and best), parameters, checkpoints, notes, errors."""

    run: RunWord
    fields: Fields | None = None

    def words(self) -> list[str]:
        return ["status", *_option("--fields", self.fields), "--", self.run]


class CurveTool(Tool, frozen=True, kw_only=True):
    """Metrics over steps as JSON. `points` is shared by all curves; the extremes are kept."""

    runs: RunWords
    metrics: Metrics = ()
    points: Annotated[int, Meta(ge=2, le=10_000)] = 120
    axis: Literal["step", "time"] = "step"

    def words(self) -> list[str]:
        metrics = [f"-y{name}" for name in self.metrics]
        return ["plot", "--json", *metrics, f"-x{self.axis}", *_option("--points", self.points), "--", *self.runs]


class PlotTool(Tool, frozen=True, kw_only=True):
    """A picture of metrics over steps, runs over one another."""

    runs: RunWords
    metrics: Metrics = ()
    axis: Literal["step", "time"] = "step"
    log: Annotated[bool, Meta(description="logarithmic scale")] = False
    smooth: Annotated[float, Meta(gt=0, le=100_000, description="average over so many points")] | None = None

    def words(self) -> list[str]:
        return self.words_for(None)

    def words_for(self, path: str | None) -> list[str]:
        """For a picture in a file; None: drawn with characters."""
        metrics = [f"-y{name}" for name in self.metrics]
        options = [f"-x{self.axis}", *_flag("--log", self.log), *_option("--smooth", self.smooth)]
        return ["plot", *metrics, *options, *_option("--output", path), "--", *self.runs]


class LogTool(Tool, frozen=True, kw_only=True):
    """What a run printed: the end of it, or from `offset` on."""

    shows_end: ClassVar[bool] = True

    run: RunWord
    stream: Literal["both", "stdout", "stderr"] = "both"
    session: Annotated[int, Meta(ge=1, le=1_000_000, description="default: the last")] | None = None
    grep: Annotated[Text, Meta(description="only lines that match this regular expression")] | None = None
    line_chars: Annotated[int, Meta(ge=20, le=100_000, description="longer lines are shortened")] = 400

    @property
    def line_chars_limit(self) -> int | None:
        return self.line_chars

    def words(self) -> list[str]:
        stream = _flag(f"--{self.stream}", self.stream != "both")
        options = [*_option("--session", self.session), *_option("--grep", self.grep)]
        return ["logs", *stream, *options, "--", self.run]


class DiffTool(Tool, frozen=True, kw_only=True):
    """How runs differ: parameters, metrics and code; with `code`, the patch between the code of two."""

    runs: RunWords
    metrics: Annotated[tuple[Text, ...], Meta(max_length=_MAX_WORDS)] = ()
    code: bool = False

    def words(self) -> list[str]:
        return ["compare", *_repeated("--metric", self.metrics), *_flag("--diff", self.code), "--", *self.runs]


class DiagnoseTool(Tool, frozen=True, kw_only=True):
    """What held a run back, by what was measured of it, and what to try."""

    run: RunWord

    def words(self) -> list[str]:
        return ["diagnose", "--", self.run]


class VerdictTool(Tool, frozen=True, kw_only=True):
    """Is a candidate better than the baseline? Exit 0: better, 20: worse, 21: a tie, 22: undecided (see `needs`)."""

    answers: ClassVar[frozenset[int] | None] = frozenset(
        {ExitCode.OK, ExitCode.WORSE, ExitCode.TIE, ExitCode.UNDECIDED}
    )

    baseline: Annotated[Text, Meta(description="a run, a group, or a filter: group=lr lr=0.1")]
    candidates: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=_MAX_WORDS, description="as baseline")]
    metric: Annotated[Text, Meta(description="default: that of the goal, or the loss")] | None = None
    goal: Goal | None = None
    at: Literal["step", "gpu-seconds", "end", "best"] = "step"
    margin: Annotated[Text, Meta(description="what does not matter: a number or a percentage")] | None = None

    def words(self) -> list[str]:
        metric = self.metric or (self.goal or "").partition(":")[2] or None
        options = [*_option("--metric", metric), *_option("--goal", self.goal), *_option("--margin", self.margin)]
        return ["verdict", "--json", f"--at={self.at}", *options, "--", self.baseline, *self.candidates]


class WaitTool(Tool, frozen=True, kw_only=True):
    """Wait for runs to end, at most 50 seconds. Exit 124: some are still active; else the worst of the runs' codes.

    With `any` it returns as soon as one has ended, with a cursor. `since` that cursor, the next call misses none.
    """

    answers: ClassVar[frozenset[int] | None] = None

    runs: Annotated[tuple[Text, ...], Meta(max_length=_MAX_WORDS, description="default: all that are active")] = ()
    seconds: Annotated[float, Meta(gt=0, le=WAIT_S)] = 45.0
    any: bool = False
    since: Annotated[Text, Meta(description="cursor of an earlier call with `any`")] | None = None
    stalled_minutes: Annotated[Minutes, Meta(description="exit 69: a run shows no sign of life so long")] | None = None

    def words(self) -> list[str]:
        """With `since`, those that have ended count, too: they need not be active any more."""
        is_any = self.any or self.since is not None
        options = [*_option("--timeout", self.seconds / 60), *_option("--stalled", self.stalled_minutes)]
        runs = ["--", *self.runs] if self.runs else ["--all"]
        return ["wait", "--json", *options, *_flag("--any", is_any), *_option("--since", self.since), *runs]


class SweepStatusTool(Tool, frozen=True, kw_only=True):
    """The state of a sweep: trials, the best of them, budget spent."""

    name: Annotated[Text, Meta(description="name, id or last")] = "last"

    def words(self) -> list[str]:
        return ["sweep", "status", "--json", "--", self.name]


class GuideTool(Tool, frozen=True, kw_only=True):
    """How to do experiments with these tools. Read it first."""

    is_our_text: ClassVar[bool] = True

    def words(self) -> list[str]:
        return ["guide"]


class PreviewTool(Tool, frozen=True, kw_only=True):
    """What `start` would do, without doing it: command, limits, and whether there is room for it now."""

    is_allowed_to_readers: ClassVar[bool] = False
    answers: ClassVar[frozenset[int] | None] = frozenset({ExitCode.OK, ExitCode.REFUSED})

    script: Annotated[Text, Meta(description="a Python script, relative to cwd; or give `command`")] | None = None
    command: Annotated[tuple[str, ...], Meta(max_length=_MAX_WORDS, description="a whole command")] = ()
    args: Arguments = ()
    vary: Annotated[
        tuple[Text, ...], Meta(max_length=100, description="a run for each value, or each combination: lr=0.1,0.01")
    ] = ()
    cwd: Cwd = "."
    minutes: Annotated[Minutes, Meta(description="timebox; default: 10")] | None = None
    sessions: Annotated[int, Meta(ge=1, le=10_000, description="so many timeboxes")] | None = None
    gpus: Annotated[int, Meta(ge=0, le=10_000)] | None = None
    name: Text | None = None
    group: Annotated[Text, Meta(description="runs that belong together")] | None = None
    note: Annotated[Text, Meta(description="what it is about")] | None = None
    parent: Annotated[Text, Meta(description="the run whose idea this run continues")] | None = None

    def words(self) -> list[str]:
        """For a `cwd` that is absolute."""
        return ["run", "--dry-run", *self.launch_words()]

    def launch_words(self) -> list[str]:
        """The options of `run` and what it executes, without the word `run`. For a `cwd` that is absolute."""
        options = [
            *_option("--max-run-minutes", self.minutes),
            *_option("--sessions", self.sessions),
            *_option("--gpus", self.gpus),
            *_option("--name", self.name),
            *_option("--group", self.group),
            *_option("--note", self.note),
            *_option("--parent", self.parent),
            *_repeated("--vary", self.vary),
        ]
        script = [] if self.script is None else [_below(self.cwd, self.script)]
        return [*options, *script, "--", *self.command, *self.args]


class StartTool(PreviewTool, frozen=True, kw_only=True):
    """Start a run in the background, or queue it; answers with its id. With `vary` runs, an id each."""

    hints: ClassVar[Hints] = Hints(is_idempotent=True)
    answers: ClassVar[frozenset[int] | None] = frozenset({ExitCode.OK})

    request_id: RequestId

    def words(self) -> list[str]:
        return ["run", "--detach", *_option("--request-id", self.request_id), *self.launch_words()]


class SweepStartTool(Tool, frozen=True, kw_only=True):
    """Search parameters of a script in the background, within a budget of training time. A name is taken only once."""

    is_allowed_to_readers: ClassVar[bool] = False
    hints: ClassVar[Hints] = Hints(is_idempotent=True)

    name: Text
    script: Annotated[Text, Meta(description="relative to cwd")]
    goal: Annotated[Text, Meta(description="max:METRIC or min:METRIC")]
    params: Annotated[
        tuple[Text, ...],
        Meta(min_length=1, max_length=_MAX_WORDS, description="options of it: lr=1e-3..0.3:log, hidden=32,64,128"),
    ]
    budget_minutes: Minutes
    args: Arguments = ()
    cwd: Cwd = "."
    seed_param: Annotated[Text, Meta(description="the script's option for its seed")] | None = None
    confirm: Annotated[Text, Meta(description="repeat the best with other seeds: 3x5. Needs seed_param")] | None = None

    def words(self) -> list[str]:
        """For a `cwd` that is absolute."""
        options = [
            *_option("--name", self.name),
            *_option("--goal", self.goal),
            *_repeated("--param", self.params),
            *_option("--budget", self.budget_minutes),
            *_option("--seed-param", self.seed_param),
            *_option("--confirm", self.confirm),
        ]
        return ["sweep", "start", "--detach", *options, _below(self.cwd, self.script), "--", *self.args]


class OnSweep(Tool, frozen=True, kw_only=True):
    """Base of tools that change a sweep, which must be below a root of the server."""

    is_allowed_to_readers: ClassVar[bool] = False
    hints: ClassVar[Hints] = Hints(is_idempotent=True)

    name: Text


class SweepStopTool(OnSweep, frozen=True, kw_only=True):
    """Stop a sweep and its trials gracefully."""

    hints: ClassVar[Hints] = Hints(is_destructive=True, is_idempotent=True)

    def words(self) -> list[str]:
        return ["sweep", "stop", "--", self.name]


class SweepResumeTool(OnSweep, frozen=True, kw_only=True):
    """Continue a sweep that was stopped or interrupted, in the background."""

    def words(self) -> list[str]:
        return ["sweep", "resume", "--detach", "--", self.name]


class SweepAddTool(OnSweep, frozen=True, kw_only=True):
    """Let a sweep try these parameters next."""

    hints: ClassVar[Hints] = Hints()

    values: Annotated[
        tuple[Text, ...],
        Meta(min_length=1, max_length=_MAX_WORDS, description="lr=0.03; the sampler proposes those left out"),
    ]
    note: Annotated[Text, Meta(description="why")] | None = None

    def words(self) -> list[str]:
        return ["sweep", "add", *_option("--note", self.note), "--", self.name, *self.values]


class OnRun(Tool, frozen=True, kw_only=True):
    """Base of tools that change a run, which must be below a root of the server."""

    is_allowed_to_readers: ClassVar[bool] = False

    run: RunWord


class ResumeTool(OnRun, frozen=True, kw_only=True):
    """Train a run that has ended for another timebox, from its latest valid checkpoint; without one it is an error."""

    hints: ClassVar[Hints] = Hints(is_idempotent=True)

    request_id: RequestId
    minutes: Annotated[Minutes, Meta(description="default: as before")] | None = None
    sessions: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    args: Annotated[tuple[str, ...], Meta(max_length=_MAX_WORDS, description="default: as before")] = ()

    def words(self) -> list[str]:
        """For a `run` that is an id."""
        options = [
            *_option("--request-id", self.request_id),
            *_option("--max-run-minutes", self.minutes),
            *_option("--sessions", self.sessions),
        ]
        return ["resume", "--detach", "--strict", "--again", *options, self.run, "--", *self.args]


class StopTool(OnRun, frozen=True, kw_only=True):
    """Stop a run: it is asked to save and gets a grace period; with `now` it is killed."""

    hints: ClassVar[Hints] = Hints(is_destructive=True, is_idempotent=True)

    now: bool = False

    def words(self) -> list[str]:
        return ["stop", *_flag("--now", self.now), "--", self.run]


class NoteTool(OnRun, frozen=True, kw_only=True):
    """Write down what a run showed, and what was decided on it."""

    hints: ClassVar[Hints] = Hints()

    text: Text | None = None
    decide: Literal["keep", "discard", "crash"] | None = None

    def words(self) -> list[str]:
        text = [] if self.text is None else [self.text]
        return ["note", *_option("--decide", self.decide), "--", self.run, *text]


TOOLS: dict[str, type[Tool]] = {
    "guide": GuideTool,
    "overview": OverviewTool,
    "runs": RunsTool,
    "run": RunTool,
    "curve": CurveTool,
    "plot": PlotTool,
    "log": LogTool,
    "diff": DiffTool,
    "diagnose": DiagnoseTool,
    "verdict": VerdictTool,
    "wait": WaitTool,
    "sweep_status": SweepStatusTool,
    "preview": PreviewTool,
    "start": StartTool,
    "resume": ResumeTool,
    "stop": StopTool,
    "note": NoteTool,
    "sweep_start": SweepStartTool,
    "sweep_stop": SweepStopTool,
    "sweep_resume": SweepResumeTool,
    "sweep_add": SweepAddTool,
}
