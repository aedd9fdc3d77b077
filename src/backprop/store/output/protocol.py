"""One line of a trainer's stdout, or of an event file of our hooks <-> one event.

Bytes enter, records leave; nothing here can fail, whatever a script prints. The runner calls `digest` on what the
trainer wrote since the last look.
"""

import json
import math
from array import array
from collections.abc import Mapping
from typing import Any

import msgspec

from backprop.records import Goal, Origin, ParamOrigin, Record, is_shallow

MAX_LINE_BYTES = 1 << 20  # a longer line is passed through, not understood: memory stays bounded
_MAX_DURATION_S = 1e9  # thirty years: no step takes longer
_MAX_OPTION = 200  # characters
_MAX_UNIT = 40  # likewise
_MAX_NAME = 1000  # likewise, of a metric whose goal is given
_MAX_INT64 = (1 << 63) - 1  # what the index can hold as a step


class Metrics(Record, frozen=True):
    """Metrics at a step. `values` holds every numeric key but `step`."""

    step: int
    values: dict[str, float]
    is_counted: bool = False  # optimizer steps, counted for a script that reports none
    is_printed: bool = False  # read by us in what the script prints for people: see printed.py
    is_tracked: bool = False  # logged by the script to a tracker: see trainer/tracked.py
    is_sampled: bool = False  # taken by us inside the training: see trainer/hooks/pytorch/sampled_loss.py


class CheckpointSaved(Record, frozen=True):
    """The trainer saved a file or folder from which it can continue."""

    path: str
    step: int | None
    is_emergency: bool = False  # saved for a script that did not answer a stop
    is_kept: bool = False  # of an earlier session: kept when one that had not read it saved over it
    is_weights_only: bool = False  # without an optimizer's state, as far as one can see


class Listening(Record, frozen=True):
    """The trainer watches control.json, and maybe knows how long it takes to answer."""

    longest_step_s: float | None = None
    longest_save_s: float | None = None


class StepUnit(Record, frozen=True):
    """What one step is, from here on."""

    unit: str  # in the singular: epoch
    is_counted: bool = False  # of the steps that we count


class BarBegan(Record, frozen=True):
    """The script made a progress bar, outside of any loop: it may be of the whole training."""

    total: int
    has_optimizer: bool = False  # optimizer steps are counted while it trains


class TrainingFinished(Record, frozen=True):
    """Training came to its own end: a stop that was asked for meanwhile had nothing to stop any more."""


class TrainingBegan(Record, frozen=True):
    """A hook reports what a training continues from. It reads checkpoints to find out, so reads are no evidence.

    is_decided: False while it looks. resumed_from: None for a training that begins from the beginning. is_copied: the
    script has copied the checkpoint; if decided, it has read its copy.
    """

    is_decided: bool
    resumed_from: str | None = None
    is_copied: bool = False


class ResumeOption(Record, frozen=True):
    """What `--resume-arg` is to be, since the script takes no checkpoint by itself; None: it does."""

    option: str | None


class MetricGoal(Record, frozen=True):
    """The script says which values of a metric are better."""

    name: str
    goal: Goal


class ParamsGiven(Record, frozen=True):
    """Parameters of the run, reported by the script or seen by our hooks."""

    params: dict[str, Any]
    origin: ParamOrigin = ParamOrigin.SCRIPT
    defaults: frozenset[str] = frozenset()  # the names of those that have their defaults
    guessed: Mapping[str, Any] = {}  # in the arguments that a parser left


class OtherEvent(Record, frozen=True):
    """Any other object with an `event`: kept as it is."""

    kind: str
    text: str


Event = (
    Metrics
    | CheckpointSaved
    | ParamsGiven
    | MetricGoal
    | Listening
    | StepUnit
    | BarBegan
    | TrainingFinished
    | ResumeOption
    | TrainingBegan
    | OtherEvent
)

_GOALS = [goal.value for goal in Goal]
_ORIGINS = {"parser": ParamOrigin.PARSER, "settings": ParamOrigin.SETTINGS}
_decode = msgspec.json.Decoder().decode
_scan = json.JSONDecoder().raw_decode


def parse(line: bytes) -> Event | None:
    """The event a line means, or None when it is just output.

    Understands what Python's `json.dumps` prints, NaN and infinities included. Never raises.
    """
    if not line.lstrip().startswith(b"{") or len(line) > MAX_LINE_BYTES:
        return None
    try:
        value = _decode(line)
    except (ValueError, RecursionError):  # msgspec's errors and UnicodeDecodeError are ValueErrors
        value = _decode_leniently(line)
    if type(value) is not dict:
        return None
    if "event" in value:
        return _parse_event(value, line)
    step = _as_step(value.get("step"))
    if step is None:
        return None
    return Metrics(
        step=step,
        values={
            key: number if type(number) is float else _as_float(number)
            for key, number in value.items()
            if (type(number) is float or type(number) is int) and key != "step"
        },
        is_counted=value.get("counted") is True,
        is_printed=value.get("printed") is True,
        is_tracked=value.get("tracked") is True,
        is_sampled=value.get("sampled") is True,
    )


def _decode_leniently(line: bytes) -> Any:
    # msgspec keeps to the JSON standard; json.dumps does not when training diverges: NaN, Infinity
    if not line.rstrip().endswith(b"}"):
        return None
    try:
        value = json.loads(line)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates cannot be stored as text
    except (ValueError, RecursionError):
        return None
    return value


def _as_step(value: Any) -> int | None:
    if type(value) is float and value.is_integer():
        value = int(value)
    return value if type(value) is int and abs(value) <= _MAX_INT64 else None


def _as_duration_s(value: Any) -> float | None:
    is_number = type(value) is float or type(value) is int
    return float(value) if is_number and 0 <= value < _MAX_DURATION_S else None


def _as_float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _parse_event(value: dict[str, Any], line: bytes) -> Event:
    kind = value["event"]
    path, params = value.get("path"), value.get("params")
    if kind == "checkpoint_saved" and isinstance(path, str) and path and "\0" not in path:
        return CheckpointSaved(
            path=path,
            step=_as_step(value.get("step")),
            is_emergency=value.get("emergency") is True,
            is_kept=value.get("kept") is True,
            is_weights_only=value.get("weights_only") is True,
        )
    if kind == "params" and isinstance(params, dict) and is_shallow(params):
        return _parse_params(params, value)
    if kind == "listening":
        return Listening(
            longest_step_s=_as_duration_s(value.get("longest_step_s")),
            longest_save_s=_as_duration_s(value.get("longest_save_s")),
        )
    if (understood := _parse_counting(value) or _parse_goal(value)) is not None:
        return understood
    if kind == "finished":
        return TrainingFinished()
    if kind == "training_began":
        begun_from = value.get("resumed_from")
        path = begun_from if isinstance(begun_from, str) and begun_from else None
        is_copied = value.get("copied") is True
        return TrainingBegan(is_decided="resumed_from" in value, resumed_from=path, is_copied=is_copied)
    if kind == "resume_option":
        option = value.get("option")
        is_one = isinstance(option, str) and 0 < len(option) <= _MAX_OPTION
        return ResumeOption(option=option if is_one else None)
    return OtherEvent(kind=kind if isinstance(kind, str) else "", text=line.strip().decode(errors="replace"))


def _parse_params(params: dict[str, Any], event: dict[str, Any]) -> ParamsGiven:
    origin = _ORIGINS.get(event["origin"]) if isinstance(event.get("origin"), str) else None
    if origin is None:
        return ParamsGiven(params=params)
    defaults, guessed = event.get("defaults"), event.get("guessed")
    marked = (
        frozenset(name for name in defaults if isinstance(name, str)) if isinstance(defaults, list) else frozenset()
    )
    return ParamsGiven(
        params=params,
        origin=origin,
        defaults=marked,
        guessed=guessed if isinstance(guessed, dict) and is_shallow(guessed) else {},
    )


def _parse_goal(value: dict[str, Any]) -> MetricGoal | None:
    name, goal = value.get("name"), value.get("goal")
    if value["event"] == "metric" and isinstance(name, str) and 0 < len(name) <= _MAX_NAME and goal in _GOALS:
        return MetricGoal(name=name, goal=Goal(goal))
    return None


def _parse_counting(value: dict[str, Any]) -> StepUnit | BarBegan | None:
    unit, total = value.get("unit"), _as_step(value.get("total"))
    if value["event"] == "bar" and total is not None and total > 0:
        return BarBegan(total=total, has_optimizer=value.get("has_optimizer") is True)
    if value["event"] == "unit" and isinstance(unit, str) and 0 < len(unit) <= _MAX_UNIT:
        return StepUnit(unit=unit, is_counted=value.get("counted") is True)
    return None


class Series:
    """The points of one metric in the order they were written; all arrays have the same length."""

    __slots__ = ("ends", "steps", "values")

    def __init__(self) -> None:
        self.steps = array("d")  # float64: exact up to 2**53, and what plots want
        self.values = array("d")
        self.ends = array(
            "q"
        )  # where the point's line ends in the session's source, in bytes, from which its time is derived


class Batch:
    """What a stretch of a trainer's output amounts to.

    Offsets are those of the first byte of an event, in bytes from the beginning of the session's output.
    """

    __slots__ = (
        "bars",
        "checkpoints",
        "counted_step",
        "counted_total",
        "counted_unit",
        "finished_step",
        "goals",
        "is_finished",
        "last_step",
        "listening",
        "notes",
        "params",
        "params_seen",
        "printed_step",
        "resume_option",
        "sampled",
        "series",
        "tracked_step",
        "trainings",
        "unit",
    )

    def __init__(self) -> None:
        self.printed_step: int | None = None  # read in what the script prints for people
        # the greatest that was logged to a tracker: a validation may be logged by its epoch, a summary at step 0
        self.tracked_step: int | None = None
        self.last_step: int | None = None  # that was reported
        self.unit: str | None = None  # of those
        self.counted_step: int | None = None  # by us, for a script that reports none
        self.counted_total: float | None = None  # how many of them there will be
        self.counted_unit: str | None = None
        self.listening: Listening | None = None  # the last word on it
        self.is_finished = False
        self.finished_step: int | None = None  # the last one that was reported before it finished
        self.trainings: list[TrainingBegan] = []
        self.bars: list[BarBegan] = []
        self.resume_option: ResumeOption | None = None  # likewise
        self.series: dict[str, Series] = {}
        self.goals: dict[str, Goal] = {}  # of metrics
        self.params: dict[str, Any] = {}  # the script's own
        self.params_seen: list[ParamsGiven] = []  # by our hooks
        self.sampled: dict[str, Series] = {}  # those that count only where nothing else reports a training loss
        self.checkpoints: list[tuple[int, CheckpointSaved]] = []
        self.notes: list[tuple[int, OtherEvent]] = []

    @property
    def origin(self) -> Origin:
        """Of its metrics: each source has those of one origin."""
        if self.printed_step is not None:
            return Origin.PRINTED
        return Origin.REPORTED if self.tracked_step is None else Origin.TRACKED

    @property
    def has_training(self) -> bool:
        """Whether something was trained: a step was reported or counted, or a checkpoint saved."""
        return self.last_step is not None or self.counted_step is not None or bool(self.checkpoints)

    def last(self, name: str) -> float | None:
        """The newest value of a metric in this batch."""
        series = self.series.get(name)
        return series.values[-1] if series else None


def digest(data: bytes, offset: int = 0) -> Batch:
    """Sum up whole lines of output. `offset`: where `data` begins in the session's output."""
    batch = Batch()
    _digest(batch, data, offset)
    return batch


def _digest(batch: Batch, data: bytes, offset: int) -> None:
    may_be_joined = b"}{" in data
    for line in data.split(b"\n"):
        event = parse(line) if line else None
        if event is not None:
            if type(event) is Metrics and not event.is_counted:
                step, end = event.step, offset + len(line) + 1
                series = batch.series
                if event.is_sampled:
                    series = batch.sampled
                elif event.is_printed:
                    batch.printed_step = step
                elif event.is_tracked:
                    batch.tracked_step = max(step, batch.tracked_step or 0)
                else:
                    batch.last_step = step
                for name, value in event.values.items():
                    points = series.get(name)
                    if points is None:
                        points = series[name] = Series()
                    points.steps.append(step)
                    points.values.append(value)
                    points.ends.append(end)
            else:
                _add(batch, event, offset)
        elif may_be_joined:
            for start, end in _joined_objects(line):
                _digest(batch, line[start:end], offset + start)
        offset += len(line) + 1


def _joined_objects(line: bytes) -> list[tuple[int, int]]:
    """Where the objects begin and end in a line of several, each right behind the other; empty for any other line.

    print() writes the end of a line by itself. A signal may come before that, and what its handler prints, the event
    of a last checkpoint say, stands on the same line then.
    """
    if b"}{" not in line or len(line) > MAX_LINE_BYTES:
        return []
    text = line.strip().decode(
        "latin-1"
    )  # a character a byte: what is not ASCII has no influence on where an object ends
    before = len(line) - len(line.lstrip())
    found, at = [], 0
    while at < len(text):
        if text[at] != "{":
            return []
        try:
            _, end = _scan(text, at)
        except (ValueError, RecursionError):
            return []
        found.append((before + at, before + end))
        at = end
    return found if len(found) > 1 else []


def _add(batch: Batch, event: Event, offset: int) -> None:  # noqa: C901, PLR0912  a case for each kind of event
    """Take in an event that is not one of the many."""
    match event:
        case Metrics():
            batch.counted_step = event.step
            batch.counted_total = event.values.get("total_steps", batch.counted_total)
        case BarBegan():
            batch.bars.append(event)
        case StepUnit():
            if event.is_counted:
                batch.counted_unit = event.unit
            else:
                batch.unit = event.unit
        case CheckpointSaved():
            batch.checkpoints.append((offset, event))
        case ParamsGiven(origin=ParamOrigin.SCRIPT):
            batch.params.update(event.params)
        case MetricGoal():
            batch.goals[event.name] = event.goal
        case ParamsGiven():
            batch.params_seen.append(event)
        case Listening():
            batch.listening = event
            batch.is_finished = False  # a script may train more than once
        case TrainingFinished():
            batch.is_finished = True
            batch.finished_step = batch.last_step
        case TrainingBegan():
            batch.trainings.append(event)
        case ResumeOption():
            batch.resume_option = event
        case OtherEvent():
            batch.notes.append((offset, event))


def json_safe(value: Any) -> Any:
    """The same value, with NaN and infinities, which JSON lacks, as the strings "NaN", "Infinity", "-Infinity"."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {key: json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    return value
