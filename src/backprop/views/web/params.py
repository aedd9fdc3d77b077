"""Validation of requests. Everything here raises HTTPException (400) with a message about what is allowed."""

import re
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request

from backprop.records import Record
from backprop.store import filters
from backprop.store.curves import Axis
from backprop.store.index import Index
from backprop.store.rundir import RUN_ID
from backprop.views.web import columns as web_columns
from backprop.views.web import logs, serializers
from backprop.views.web.comparison import MAX_RUNS as MAX_COMPARED
from backprop.views.web.sse import Subscription

MAX_ROWS = 500
_MAX_CURVES = 100
_MAX_COLUMNS = 30
_MAX_WORDS = 4_000  # characters of a search or a filter
_MAX_BODY_BYTES = 10_000
_MAX_INT = 2**53 - 1  # the greatest safe integer of JavaScript
_TAG_CHANGE = re.compile(r"[+-][^+-].*")
_MAX_DIGITS = 16  # of such a number

T = TypeVar("T")


class StopRequest(Record, frozen=True):
    """The body of a request to stop. now: kill at once."""

    now: bool = False


class PauseRequest(Record, frozen=True):
    """The body of a request to pause."""


class ManyRequest(Record, frozen=True):
    """What to do with several runs. words: of tag the changes (+a, -b), of rename the name of the only run."""

    action: Literal["stop", "pause", "resume", "tag", "rename", "archive", "unarchive", "rm"]
    runs: Annotated[list[str], msgspec.Meta(min_length=1, max_length=MAX_ROWS)]
    words: Sequence[str] = ()

    @property
    def command(self) -> list[str]:
        """The words of `backprop` that do it. Raises HTTPException where they would mean something else."""
        ids = [run_id for run_id in self.runs if RUN_ID.fullmatch(run_id)]
        changes = [word for word in self.words if self.action == "tag" and _TAG_CHANGE.fullmatch(word)]
        if self.action == "rename" and len(ids) == len(self.words) == 1:
            return ["rename", "--", *ids, *self.words]
        if len(ids) < len(self.runs) or len(changes) < len(self.words) or self.action == "rename":
            raise invalid("runs are ids; tag takes +TAG and -TAG, rename one run and a name, nothing else takes words.")
        asked = ("--detach", "--again") if self.action == "resume" else ("--yes",)
        return [self.action, *asked, *ids, *changes]


class ResumeRequest(Record, frozen=True):
    """The body of a request to resume."""

    minutes: Annotated[float, msgspec.Meta(gt=0, le=525_600)] | None = None  # None: the previous timebox


def invalid(text: str) -> HTTPException:
    """The error for an invalid request."""
    return HTTPException(400, text)


def whole(request: Request, name: str, default: T, low: int, high: int) -> int | T:
    """An integer query parameter, or the default."""
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and low <= int(text) <= high):
        raise invalid(f"{name} must be a whole number from {low} to {high}, not {text[:40]!r}.")
    return int(text)


def number(request: Request, name: str) -> float | None:
    """A float query parameter; None when it is missing."""
    text = request.query_params.get(name, "")
    try:
        return float(text) if text else None
    except ValueError as error:
        raise invalid(f"{name} must be a number, not {text[:40]!r}.") from error


def choice(request: Request, name: str, allowed: tuple[str, ...]) -> str:
    """A query parameter with one of these values; the first one is the default."""
    text = request.query_params.get(name, allowed[0])
    if text not in allowed:
        raise invalid(f"{name} must be one of {', '.join(allowed)}, not {text[:40]!r}.")
    return text


def axis(request: Request) -> Axis:
    """The x-axis of curves: a query parameter."""
    return Axis(choice(request, "axis", tuple(member.value for member in Axis)))


def runs(request: Request) -> filters.Wanted:
    """The query for the table of runs. Also raises UsageError for an invalid filter."""
    words = {name: request.query_params.get(name, "") for name in ("search", "filter", "sort", "descending")}
    if any(len(text) > _MAX_WORDS for text in words.values()):
        raise invalid(f"search, filter and sort may have at most {_MAX_WORDS} characters each.")
    if words["descending"] not in {"", "0", "1"}:
        raise invalid("descending must be 0 or 1.")
    return filters.Wanted(
        conditions=filters.parse_filter(words["filter"]),
        hides_archived=True,
        search=words["search"],
        sort=words["sort"] or "created",
        is_descending=words["descending"] == "1" if words["descending"] else None,
        limit=whole(request, "limit", 100, 0, MAX_ROWS),
        offset=whole(request, "offset", 0, 0, _MAX_INT),
    )


def run_ids(request: Request) -> list[str]:
    """The ids of the runs that are asked for, of which there may be many."""
    found = request.query_params.getlist("run")
    if not 0 < len(found) <= MAX_ROWS:
        raise invalid(f"name 1 to {MAX_ROWS} runs: run=ID&run=ID.")
    return found


def compared(request: Request, most: int = MAX_COMPARED) -> list[str]:
    """The ids of two runs or more, each once."""
    found = list(dict.fromkeys(request.query_params.getlist("run")))
    if not 2 <= len(found) <= most:
        raise invalid(f"name {2 if most == 2 else f'2 to {most}'} runs: run=ID&run=ID.")
    return found


def columns(request: Request) -> list[str] | None:
    """The columns that are asked for, each of which is valid; None: the usual ones."""
    if "column" not in request.query_params:
        return None
    keys = [key for key in dict.fromkeys(request.query_params.getlist("column")) if key]
    if len(keys) > _MAX_COLUMNS:
        raise invalid(f"at most {_MAX_COLUMNS} columns can be asked for.")
    for wrong in filter(None, map(web_columns.mistake, keys)):
        raise invalid(wrong)
    return keys


def grouping(request: Request) -> str:
    """What runs are grouped by: `group`, or `param.NAME`."""
    by = request.query_params.get("by", "group")
    if by != "group" and filters.kind_and_name(by)[0] != "param":
        raise invalid(f"by must be group or param.NAME, not {by[:80]!r}.")
    return by


def curves_of(request: Request) -> list[tuple[str, str | None]]:
    """Run ids with a metric each; without a metric: the run's loss."""
    run_ids = request.query_params.getlist("run")
    metrics: list[str | None] = [*request.query_params.getlist("metric")] or [None]
    if not run_ids or len(run_ids) * len(metrics) > _MAX_CURVES:
        raise invalid(f"name runs and metrics, for 1 to {_MAX_CURVES} curves: run=ID&run=ID&metric=loss.")
    return list(dict.fromkeys((run_id, metric) for run_id in run_ids for metric in metrics))


def subscription(request: Request, index: Index) -> Subscription:
    """What a page subscribes to."""
    words = request.query_params
    run_ids = tuple(run_id for run_id in words.get("runs", "").split(",") if run_id)
    watched = decoded(words.get("curves", "").encode() or b"[]", list[serializers.CurveSubscription], "curves")
    if len(run_ids) > MAX_ROWS or len(watched) > _MAX_CURVES:
        raise invalid(f"at most {MAX_ROWS} runs and {_MAX_CURVES} curves can be subscribed to.")
    log_run, log = log_place(words.get("log", ""), index)
    return Subscription(
        runs=run_ids,
        curves=tuple(watched),
        details=words.get("details") or None,
        log_run=log_run,
        log=log,
        machine=words.get("machine") == "1",
    )


def log_place(text: str, index: Index) -> tuple[str | None, logs.LogPlace | None]:
    """Parses RUN:STREAM, from now on, or RUN:STREAM:SESSION:OFFSET."""
    if not text:
        return None, None
    run_id, stream, *place = [*text.split(":"), "", ""][:4] if text.count(":") < 4 else [""] * 4
    if stream not in logs.STREAMS or not all(
        word.isascii() and word.isdigit() and len(word) < 16 for word in place if word
    ):
        raise invalid("log must be RUN:out or RUN:err, optionally followed by :SESSION:OFFSET.")
    session, offset = place
    if session and offset:
        return run_id, logs.LogPlace(stream=stream, session=int(session), offset=int(offset))
    view = index.get(run_id)
    return run_id, logs.LogPlace(stream=stream, session=1, offset=0) if view is None else logs.log_end(view, stream)


async def body(request: Request, kind: type[T]) -> T:
    """The body of a POST; the defaults when it is empty."""
    data = b""
    async for chunk in request.stream():
        data += chunk
        if len(data) > _MAX_BODY_BYTES:
            raise HTTPException(413, f"the body may have at most {_MAX_BODY_BYTES:,} bytes.")
    return decoded(data or b"{}", kind, "the body")


def decoded(data: bytes, kind: type[T], what: str) -> T:
    """JSON of this type. what: its name in the error. Raises HTTPException (400)."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"{what} cannot be parsed: {error}") from error
