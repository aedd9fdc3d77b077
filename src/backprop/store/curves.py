"""Curves from the index: complete, or downsampled so that any chart is drawn from a few thousand points.

Downsampling keeps the minimum and maximum of every stretch (min-max), so that no spike is lost. A long curve is drawn
from the summaries of its chunks, without reading a point.
"""

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from backprop.records import Record, Run
from backprop.store.chunk_summary import ChunkSummary, outline
from backprop.store.index import Index

_COLUMNS = ", ".join(f"outlines.{name}" for name in ChunkSummary._fields)
_ROWS_AT_ONCE = 256


class Axis(str, Enum):
    """The x-axis of a curve."""

    STEP = "step"
    TIME = "time"  # seconds of training, all sessions added up


class Curve(Record, frozen=True):
    """One metric of a run. xs, ys: shape (points,). Values that are not finite are kept, and drawn as gaps."""

    run_id: str
    metric: str
    axis: Axis
    xs: "array[float]"
    ys: "array[float]"
    point_count: int  # before downsampling
    is_reduced: bool


class Point(NamedTuple):
    """One value as it was stored."""

    session: int
    metric: str
    step: int
    value: float
    time_s: float  # of training, all sessions added up


class Range(NamedTuple):
    """The requested range of the x-axis, bounds included. None: no bound."""

    begin: float | None = None
    end: float | None = None

    def has(self, x: float) -> bool:
        """Whether a point lies in it."""
        return (self.begin is None or x >= self.begin) and (self.end is None or x <= self.end)

    def meets(self, low: float, high: float) -> bool:
        """Whether a stretch from `low` to `high` has points in it."""
        return (self.begin is None or high >= self.begin) and (self.end is None or low <= self.end)


class _Chunk(NamedTuple):
    number: int
    session: int
    summary: ChunkSummary


def read(index: Index, run: Run, metric: str, axis: Axis, max_points: int | None, wanted: Range) -> Curve:
    """A curve, or the requested part of it, in about `max_points` points (None: all).

    Over steps, points of an earlier session are dropped from the step on that a later session trained again.
    """
    chunks = _chunks(index, run.spec.id, metric)
    place = _AxisPosition(run, chunks, axis, wanted)
    chunks = [chunk for chunk in chunks if place.meets(chunk)]
    count = sum(chunk.summary.total for chunk in chunks)
    is_long = max_points is not None and 2 * len(chunks) >= max_points and count > max_points
    if is_long:
        xs, ys, count = _outlined(index, run.spec.id, metric, chunks, place)
    else:
        xs, ys, count = _exact(index, run.spec.id, metric, chunks, place)
    is_reduced = is_long
    if max_points is not None and len(xs) > max_points:
        xs, ys = reduced(xs, ys, max_points)
        is_reduced = True
    return Curve(run_id=run.spec.id, metric=metric, axis=axis, xs=xs, ys=ys, point_count=count, is_reduced=is_reduced)


def _chunks(index: Index, run_id: str, metric: str) -> list[_Chunk]:
    rows = index.rows(
        f"SELECT number, session, {_COLUMNS} FROM outlines WHERE run_id = ? AND name = ? ORDER BY number",  # noqa: S608
        (run_id, metric),
    )
    return [_Chunk(row[0], row[1], ChunkSummary(*row[2:])) for row in rows]


def session_summaries(index: Index, run_id: str, metric: str, until_step: int | None = None) -> dict[int, ChunkSummary]:
    """Session -> the summary of the points of a metric that it reported; those without any are left out.

    until_step: only of points up to this step.
    """
    found: dict[int, ChunkSummary] = {}
    for chunk in _chunks(index, run_id, metric):
        summary = chunk.summary
        if until_step is not None and summary.high_step > until_step:
            part = _outline_until(index, run_id, metric, chunk, until_step)
            if part is None:
                continue
            summary = part
        earlier = found.get(chunk.session)
        found[chunk.session] = summary if earlier is None else earlier.joined(summary)
    return found


def _outline_until(index: Index, run_id: str, metric: str, chunk: _Chunk, until_step: int) -> ChunkSummary | None:
    """The summary of a chunk's points up to a step; None if it has none of them."""
    for _, *arrays in _read_points(index, run_id, metric, [chunk]):
        rows = [row for row in zip(*arrays, strict=True) if row[0] <= until_step]
        if rows:
            steps, values, times = zip(*rows, strict=True)
            return outline(steps, values, times)
    return None


def step_range(index: Index, run_id: str, session: int) -> tuple[float, float] | None:
    """The least and the greatest step for which a session reported any metric; None if it reported none."""
    rows = index.rows(
        "SELECT MIN(low_step), MAX(high_step) FROM outlines WHERE run_id = ? AND session = ?", (run_id, session)
    )
    return None if rows[0][0] is None else (rows[0][0], rows[0][1])


class _AxisPosition:
    """Maps the points of each session to the x-axis, and selects those that are shown."""

    def __init__(self, run: Run, chunks: Sequence[_Chunk], axis: Axis, wanted: Range) -> None:
        self.axis = axis
        self._wanted = wanted
        self._begins_s = session_begins_s(run)
        self._ends: dict[int, float] = {}
        if axis is Axis.STEP:
            firsts: dict[int, float] = {}
            for chunk in chunks:
                firsts[chunk.session] = min(chunk.summary.low_step, firsts.get(chunk.session, math.inf))
            self._ends = taken_over_at(firsts)

    def x(self, session: int, step: float, time_s: float) -> float:
        return step if self.axis is Axis.STEP else self._begins_s.get(session, 0.0) + time_s

    def has(self, session: int, x: float) -> bool:
        return x < self._ends.get(session, math.inf) and self._wanted.has(x)

    def meets(self, chunk: _Chunk) -> bool:
        summary = chunk.summary
        low = self.x(chunk.session, summary.low_step, summary.first_s)
        high = self.x(chunk.session, summary.high_step, summary.last_s)
        return low < self._ends.get(chunk.session, math.inf) and self._wanted.meets(low, high)

    def covers(self, chunk: _Chunk) -> bool:
        """Whether all of a chunk is shown."""
        summary = chunk.summary
        return self.has(chunk.session, self.x(chunk.session, summary.low_step, summary.first_s)) and self.has(
            chunk.session, self.x(chunk.session, summary.high_step, summary.last_s)
        )


def taken_over_at(firsts: Mapping[int, float]) -> dict[int, float]:
    """Session -> the step from which on a later session trained again.

    firsts: session -> the first step for which it reported the metric.
    """
    return {
        session: min((step for later, step in firsts.items() if later > session), default=math.inf)
        for session in firsts
    }


def session_begins_s(run: Run) -> dict[int, float]:
    """Session -> the seconds of training that came before it."""
    begins, total_s = {}, 0.0
    for session in run.sessions:
        begins[session.number] = total_s
        total_s += session.elapsed_s or 0.0
    return begins


def _outlined(
    index: Index, run_id: str, metric: str, chunks: Sequence[_Chunk], place: _AxisPosition
) -> tuple["array[float]", "array[float]", int]:
    """A curve from chunk summaries; chunks that are shown in part contribute their points."""
    xs, ys, count = array("d"), array("d"), 0
    for number, chunk in enumerate(chunks):
        if not place.covers(chunk):
            some_xs, some_ys, some = _exact(index, run_id, metric, [chunk], place)
            xs.extend(some_xs)
            ys.extend(some_ys)
            count += some
            continue
        _, session, summary = chunk
        count += summary.total
        found = []
        if summary.least is not None and summary.greatest is not None:
            found += [
                (place.x(session, summary.least_step or 0.0, summary.least_s or 0.0), summary.least),
                (place.x(session, summary.greatest_step or 0.0, summary.greatest_s or 0.0), summary.greatest),
            ]
        if summary.missing:
            found.append((place.x(session, summary.last_step, summary.last_s), math.nan))
        elif number == len(chunks) - 1 and summary.last is not None:
            found.append((place.x(session, summary.last_step, summary.last_s), summary.last))  # the newest value
        for x, y in sorted(found, key=lambda point: point[0]):
            xs.append(x)
            ys.append(y)
    return xs, ys, count


def _exact(
    index: Index, run_id: str, metric: str, chunks: Sequence[_Chunk], place: _AxisPosition
) -> tuple["array[float]", "array[float]", int]:
    xs, ys = array("d"), array("d")
    for chunk, steps, values, times in _read_points(index, run_id, metric, chunks):
        places = steps
        if place.axis is Axis.TIME:
            begin_s = place.x(chunk.session, 0.0, 0.0)
            places = array("d", [begin_s + time_s for time_s in times])
        if place.covers(chunk):
            xs.extend(places)
            ys.extend(values)
        else:
            for x, y in zip(places, values, strict=True):
                if place.has(chunk.session, x):
                    xs.append(x)
                    ys.append(y)
    return xs, ys, len(xs)


_Stored = tuple[_Chunk, "array[float]", "array[float]", "array[float]"]


def _read_points(index: Index, run_id: str, metric: str, chunks: Sequence[_Chunk]) -> Iterator[_Stored]:
    """Chunks with their steps, values and times."""
    for begin in range(0, len(chunks), _ROWS_AT_ONCE):
        some = chunks[begin : begin + _ROWS_AT_ONCE]
        rows = index.rows(
            "SELECT number, steps, vals, times FROM points"
            " WHERE run_id = ? AND name = ? AND number BETWEEN ? AND ? ORDER BY number",
            (run_id, metric, some[0].number, some[-1].number),
        )
        found = {row[0]: row[1:] for row in rows}
        for chunk in some:
            if chunk.number in found:  # else the run was removed in the meantime
                arrays = array("d"), array("d"), array("f")
                for numbers, data in zip(arrays, found[chunk.number], strict=True):
                    numbers.frombytes(data)
                yield (chunk, *arrays)


def points(index: Index, run: Run, metric: str) -> Iterator[Point]:
    """Every stored point of a metric, in the order it was written. Holds a few hundred chunks at a time."""
    begins_s = session_begins_s(run)
    for chunk, steps, values, times in _read_points(index, run.spec.id, metric, _chunks(index, run.spec.id, metric)):
        begin_s = begins_s.get(chunk.session, 0.0)
        for step, value, time_s in zip(steps, values, times, strict=True):
            yield Point(chunk.session, metric, int(step), value, begin_s + time_s)


def sample(index: Index, run_id: str, metric: str, width: int) -> list[float]:
    """About `width` finite values, evenly spaced over the points, the last one included."""
    row = index.rows("SELECT max(number) FROM outlines WHERE run_id = ? AND name = ?", (run_id, metric))[0]
    if row[0] is None:
        return []
    newest = int(row[0])
    if newest >= width:
        numbers = sorted({round(place * newest / (width - 1)) for place in range(width)}) if width > 1 else [newest]
        marks = ", ".join("?" * len(numbers))
        found = index.rows(
            f"SELECT last FROM outlines WHERE run_id = ? AND name = ? AND number IN ({marks}) ORDER BY number",  # noqa: S608
            (run_id, metric, *numbers),
        )
        return [value for (value,) in found if value is not None and math.isfinite(value)]
    values = array("d")
    for (data,) in index.rows(
        "SELECT vals FROM points WHERE run_id = ? AND name = ? ORDER BY number", (run_id, metric)
    ):
        values.frombytes(data)
    last = len(values) - 1
    places = {round(place * last / (width - 1)) for place in range(width)} if width > 1 else {last}
    return [values[place] for place in sorted(places) if math.isfinite(values[place])]


def reduced(xs: Sequence[float], ys: Sequence[float], max_points: int) -> tuple["array[float]", "array[float]"]:
    """Downsample to about `max_points`: minimum and maximum of every stretch, in order, and the last point.

    xs, ys: shape (points,). If a stretch has values that are not finite, one of them is kept as well.
    """
    stretch = max(1, math.ceil(2 * len(xs) / max(2, max_points)))
    new_xs, new_ys = array("d"), array("d")
    for begin in range(0, len(xs), stretch):
        part = ys[begin : begin + stretch]
        kept: set[int] = set()
        finite: Sequence[float] = part
        if not math.isfinite(sum(part)):
            finite = [value for value in part if math.isfinite(value)]
            gap = next((at for at, value in enumerate(part) if not math.isfinite(value)), None)
            kept |= set() if gap is None else {gap}
        if finite:
            kept |= {part.index(min(finite)), part.index(max(finite))}
        if begin + stretch >= len(xs):
            kept.add(len(part) - 1)
        for at in sorted(kept):
            new_xs.append(xs[begin + at])
            new_ys.append(part[at])
    return new_xs, new_ys
