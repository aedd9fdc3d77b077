"""What a request asks for, checked: whoever sends anything else is told what is allowed. Raises HTTPException (400)."""

from typing import Annotated, TypeVar

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request

from backprop.records import Record
from backprop.store import filters
from backprop.store.curves import Axis
from backprop.store.index import Index
from backprop.views.web import logs, serializers
from backprop.views.web.sse import Listening

MAX_ROWS = 500
_MAX_CURVES = 100
_MAX_WORDS = 4_000  # characters of a search or a filter
_MAX_BODY_BYTES = 10_000
_MAX_INT = 2**53 - 1  # what JavaScript counts to
_MAX_DIGITS = 16  # of such a number

T = TypeVar("T")


class StopOrder(Record, frozen=True):
    now: bool = False


class PauseOrder(Record, frozen=True):
    pass


class ResumeOrder(Record, frozen=True):
    minutes: Annotated[float, msgspec.Meta(gt=0, le=525_600)] | None = None  # None: as it was


def wrong(text: str) -> HTTPException:
    """The error to raise for a request that makes no sense."""
    return HTTPException(400, text)


def whole(request: Request, name: str, default: T, low: int, high: int) -> int | T:
    """A whole number from the address, or the default."""
    text = request.query_params.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS and low <= int(text) <= high):
        raise wrong(f"{name} must be a whole number from {low} to {high}, not {text[:40]!r}.")
    return int(text)


def number(request: Request, name: str) -> float | None:
    """A number from the address; None when there is none."""
    text = request.query_params.get(name, "")
    try:
        return float(text) if text else None
    except ValueError as error:
        raise wrong(f"{name} must be a number, not {text[:40]!r}.") from error


def choice(request: Request, name: str, allowed: tuple[str, ...]) -> str:
    """One of some words from the address, the first of them without any."""
    text = request.query_params.get(name, allowed[0])
    if text not in allowed:
        raise wrong(f"{name} must be one of {', '.join(allowed)}, not {text[:40]!r}.")
    return text


def axis(request: Request) -> Axis:
    return Axis(choice(request, "axis", tuple(member.value for member in Axis)))


def runs(request: Request) -> filters.Wanted:
    """Which part of the table. Raises UsageError for a filter that makes no sense, too."""
    words = {name: request.query_params.get(name, "") for name in ("search", "filter", "sort", "descending")}
    if any(len(text) > _MAX_WORDS for text in words.values()):
        raise wrong(f"search, filter and sort may have {_MAX_WORDS} characters each.")
    if words["descending"] not in {"", "0", "1"}:
        raise wrong("descending must be 0 or 1.")
    return filters.Wanted(
        conditions=filters.parse_filter(words["filter"]),
        search=words["search"],
        sort=words["sort"] or "created",
        is_descending=words["descending"] == "1" if words["descending"] else None,
        limit=whole(request, "limit", 100, 0, MAX_ROWS),
        offset=whole(request, "offset", 0, 0, _MAX_INT),
    )


def curves_of(request: Request) -> list[tuple[str, str | None]]:
    """Run ids with a metric each; without a metric: the run's loss."""
    run_ids = request.query_params.getlist("run")
    metrics: list[str | None] = [*request.query_params.getlist("metric")] or [None]
    if not run_ids or len(run_ids) * len(metrics) > _MAX_CURVES:
        raise wrong(f"name runs and metrics, for 1 to {_MAX_CURVES} curves: run=ID&run=ID&metric=loss.")
    return list(dict.fromkeys((run_id, metric) for run_id in run_ids for metric in metrics))


def listening(request: Request, index: Index) -> Listening:
    """What a page wants to hear of."""
    words = request.query_params
    run_ids = tuple(run_id for run_id in words.get("runs", "").split(",") if run_id)
    watched = decoded(words.get("curves", "").encode() or b"[]", list[serializers.CurveWatch], "curves")
    if len(run_ids) > MAX_ROWS or len(watched) > _MAX_CURVES:
        raise wrong(f"at most {MAX_ROWS} runs and {_MAX_CURVES} curves can be listened to.")
    log_run, log = log_place(words.get("log", ""), index)
    return Listening(
        runs=run_ids,
        curves=tuple(watched),
        details=words.get("details") or None,
        log_run=log_run,
        log=log,
        machine=words.get("machine") == "1",
    )


def log_place(text: str, index: Index) -> tuple[str | None, logs.LogPlace | None]:
    """RUN:STREAM, from now on, or RUN:STREAM:SESSION:OFFSET."""
    if not text:
        return None, None
    run_id, stream, *place = [*text.split(":"), "", ""][:4] if text.count(":") < 4 else [""] * 4
    if stream not in logs.STREAMS or not all(
        word.isascii() and word.isdigit() and len(word) < 16 for word in place if word
    ):
        raise wrong("log must be RUN:out or RUN:err, and may go on with :SESSION:OFFSET.")
    session, offset = place
    if session and offset:
        return run_id, logs.LogPlace(stream=stream, session=int(session), offset=int(offset))
    view = index.get(run_id)
    return run_id, logs.LogPlace(stream=stream, session=1, offset=0) if view is None else logs.log_end(view, stream)


async def order(request: Request, kind: type[T]) -> T:
    """What a POST says. No body: the order's defaults."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_BODY_BYTES:
            raise HTTPException(413, f"an order may have {_MAX_BODY_BYTES:,} bytes.")
    return decoded(body or b"{}", kind, "the body")


def decoded(data: bytes, kind: type[T], what: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise wrong(f"{what} cannot be understood: {error}") from error
