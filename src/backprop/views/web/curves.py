"""Curves for the page: reduced to what a chart can show, and then only what was added.

A mark says what a client has of a curve: it gets one with the points, and hands it back to hear of what comes after.
"""

from typing import Any

import msgspec

from backprop.records import Record, RunView
from backprop.store import curves, query
from backprop.store.index import Index
from backprop.views.web import serializers

DEFAULT_POINTS = 1500
MAX_POINTS = 20_000


class Mark(Record, frozen=True, array_like=True):
    """How far a client has a curve."""

    count: int  # points that were stored, those that a later session took the place of included
    end: float | None  # x of the last point; None: it has none

    def text(self) -> str:
        return msgspec.json.encode(self).decode()


def mark_in(text: str) -> Mark | None:
    """The mark that a client hands back; None when it is none."""
    try:
        return msgspec.json.decode(text, type=Mark)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


class CurveWatch(msgspec.Struct):
    """A curve that is on a page, and how far the page has it."""

    run: str
    metric: str
    axis: curves.Axis = curves.Axis.STEP
    mark: str | None = None


def document(
    index: Index,
    view: RunView,
    metric: str,
    axis: curves.Axis,
    max_points: int,
    begin: float | None = None,
    end: float | None = None,
) -> dict[str, Any]:
    """A curve in about so many points, with its mark; or a stretch of one, which has none because it does not grow."""
    told = query.curve(index, view, metric, axis, max_points=max_points, begin=begin, end=end)
    is_whole = begin is None and end is None
    return serializers.curve(told, _mark(view, metric, told) if is_whole else None)


def news(index: Index, view: RunView, watch: CurveWatch) -> dict[str, Any] | None:
    """What was added to a curve since its mark, which is moved; None when nothing was.

    `begin` in it: forget the points from there on, these take their place; None: forget all of them.
    """
    summary = view.summaries.get(watch.metric)
    mark = None if watch.mark is None else mark_in(watch.mark)
    if summary is None or (mark is not None and mark.count == summary.count):
        return None
    begin = None
    if mark is not None and mark.count < summary.count:
        begin = mark.end
    told = query.curve(index, view, watch.metric, watch.axis, max_points=DEFAULT_POINTS, begin=begin)
    if begin is not None and mark is not None and told.point_count <= summary.count - mark.count:
        begin = None  # its steps went back, or a session trains some again: what is new does not all lie at the end
        told = query.curve(index, view, watch.metric, watch.axis, max_points=DEFAULT_POINTS)
    watch.mark = _mark(view, watch.metric, told)
    return {**serializers.curve(told, watch.mark), "count": summary.count, "axis": watch.axis, "begin": begin}


def _mark(view: RunView, metric: str, told: curves.Curve) -> str:
    summary = view.summaries.get(metric)
    return Mark(
        count=0 if summary is None else summary.count,
        end=told.xs[-1] if told.xs else None,
    ).text()
