"""Points of several metrics, joined: one row for each step of a session, as tables and other trackers want them."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from backprop.store.curves import Point


class MetricRow(NamedTuple):
    """What was reported at one step of one session."""

    session: int
    step: int
    time_s: float  # of the first of its points: seconds of training, all sessions added up
    values: dict[str, float]  # metric -> value


def joined(metrics: Iterable[str], points_of: Callable[[str], Iterator[Point]]) -> Iterator[MetricRow]:
    """Every point of these metrics once, in rows: by session, and within it by step as far as each metric goes.

    points_of: a metric's points in the order they were written. They are read side by side, so that no more than a
    chunk of each is in memory. A step that a metric reported twice in a session makes a row of its own.
    """
    heads: list[tuple[int, int, int, Point, Iterator[Point]]] = []
    for number, metric in enumerate(metrics):
        _advance(heads, number, points_of(metric))
    while heads:
        session, step = heads[0][:2]
        found = []
        while heads and heads[0][:2] == (session, step):
            found.append(heapq.heappop(heads))
        yield MetricRow(
            session, step, min(head[3].time_s for head in found), {head[3].metric: head[3].value for head in found}
        )
        for _, _, number, _, points in found:
            _advance(heads, number, points)


def _advance(heads: list[tuple[int, int, int, Point, Iterator[Point]]], number: int, points: Iterator[Point]) -> None:
    """Put the next point of a metric among the heads; `number` keeps heapq from comparing points."""
    point = next(points, None)
    if point is not None:
        heapq.heappush(heads, (point.session, point.step, number, point, points))
