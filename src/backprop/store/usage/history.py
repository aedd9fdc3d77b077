"""What was measured of a run, read from the files of its sessions: curves over time, points, and single samples."""

import os
from array import array
from collections.abc import Iterator

from backprop.records import RunView, Source
from backprop.store.curves import Axis, Curve, Point, Range, reduced, session_begins_s
from backprop.store.files import opened
from backprop.store.usage import blocks
from backprop.store.usage.blocks import Moment
from backprop.store.usage.quantities import PREFIX

_MOST_BYTES = 1 << 26  # of a file; ours hold ten years in less


def has(view: RunView, metric: str) -> bool:
    """Whether a metric of this name is what was measured; one of its script that is called the same comes first."""
    return view.usage is not None and metric in view.usage.counts and metric not in view.summaries


def names(view: RunView) -> list[str]:
    """The curves that there are, as sys/NAME."""
    return [] if view.usage is None else [name for name in view.usage.counts if has(view, name)]


def curve(view: RunView, metric: str, max_points: int | None, wanted: Range) -> Curve:
    """One of them, over seconds of training: what is measured has no steps."""
    xs, ys = array("d"), array("d")
    for _, seconds, values in _curves(view, metric):
        for x, y in zip(seconds, values, strict=True):
            if wanted.has(x):
                xs.append(x)
                ys.append(y)
    count = len(xs)
    is_reduced = max_points is not None and count > max_points
    if max_points is not None and is_reduced:
        xs, ys = reduced(xs, ys, max_points)
    return Curve(
        run_id=view.run.spec.id, metric=metric, axis=Axis.TIME, xs=xs, ys=ys, point_count=count, is_reduced=is_reduced
    )


def points(view: RunView, metric: str) -> Iterator[Point]:
    """Every stored point; in the place of a step the second of training, all sessions added up."""
    for session, seconds, values in _curves(view, metric):
        for x, y in zip(seconds, values, strict=True):
            yield Point(session, metric, int(x), y, x)


def moments(view: RunView) -> Iterator[tuple[int, Moment]]:
    """Every sample of every session, with the session's number."""
    for session in view.run.sessions:
        for moment in blocks.moments(_data(view, session.number)):
            yield session.number, moment


def _curves(view: RunView, metric: str) -> "Iterator[tuple[int, array[float], array[float]]]":
    """Each session's number, and times and values of this curve; times are of training, all sessions added up."""
    begins_s = session_begins_s(view.run)
    for session in view.run.sessions:
        seconds, values = blocks.curve(_data(view, session.number), metric.removeprefix(PREFIX))
        begin_s = begins_s[session.number]
        yield session.number, array("d", [begin_s + second for second in seconds]), values


def _data(view: RunView, session: int) -> bytes:
    """The file of one session; empty where there is none."""
    with opened(view.run_dir, f"session-{session}.{Source.USAGE.value}") as fd:
        if fd is None:
            return b""
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(_MOST_BYTES)
