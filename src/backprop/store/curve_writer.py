"""Points of metrics on their way into the index: in chunks, each with a summary, and a summary of the whole curve.

See store/curves.py for how they are read again.
"""

import sqlite3
from array import array
from collections.abc import Mapping
from typing import Any

from backprop.records import Origin
from backprop.store import doubled_metrics
from backprop.store.chunk_summary import ChunkSummary, outline
from backprop.store.output.line_times import Timeline
from backprop.store.output.protocol import Batch, Series

CHUNK_POINTS = 512  # a chunk is rewritten as it grows up to this size: 10 KB a metric and commit at the most
MAX_METRICS = 10_000  # names: a supervisor that stores more at each look cannot climb the stop ladder in time
_OUTLINE = ", ".join(ChunkSummary._fields)
_MARKS = ", ".join("?" * len(ChunkSummary._fields))
_NEW = ", ".join(f"{field} = excluded.{field}" for field in ChunkSummary._fields)
_METRIC = f"SELECT {_OUTLINE} FROM metrics WHERE run_id = ? AND name = ?"  # noqa: S608  our own columns


class CurveWriter:
    """Adds points to the curves of runs, in the caller's transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, run_id: str, session: int, batch: Batch, timeline: Timeline) -> None:
        """Store points of several metrics, but of no more names than MAX_METRICS; what is left out is counted."""
        for origin, series in doubled_metrics.resolve(self._db, run_id, session, batch):
            self._add(run_id, session, series, timeline, origin)

    def _add(self, run_id: str, session: int, series: Mapping[str, Series], timeline: Timeline, origin: Origin) -> None:
        (before,) = self._db.execute("SELECT metric_count FROM runs WHERE id = ?", (run_id,)).fetchone()
        count, lost = before, 0
        if before + len(series) > MAX_METRICS:
            known = {row[0] for row in self._db.execute("SELECT name FROM metrics WHERE run_id = ?", (run_id,))}
            new = [name for name in series if name not in known]
            kept = known.union(new[: MAX_METRICS - before])
            lost = len(set(series) - kept)
            series = {name: points for name, points in series.items() if name in kept}
        for name, points in series.items():
            whole = self._db.execute(_METRIC, (run_id, name)).fetchone()
            count += whole is None
            times = timeline.seconds(points.ends)
            self._add_points(run_id, session, name, points, times, whole, origin)
        if count > before or lost:
            self._db.execute(
                "UPDATE runs SET metric_count = ?, lost_count = lost_count + ? WHERE id = ?", (count, lost, run_id)
            )

    def _add_points(
        self,
        run_id: str,
        session: int,
        name: str,
        series: Series,
        times: "array[float]",
        whole: tuple[Any, ...] | None,
        origin: Origin,
    ) -> None:
        """whole: the outline of the metric so far."""
        summary = None
        number, before, since_s = self._newest_chunk(run_id, name, session)
        if times and times[0] < since_s:  # who read before dated by another clock
            times = array("f", [max(since_s, time_s) for time_s in times])
        begin = 0
        while begin < len(series.values):
            end = begin + CHUNK_POINTS - (before.total if before is not None else 0)
            steps, values, seconds = series.steps[begin:end], series.values[begin:end], times[begin:end]
            added = outline(steps, values, seconds)
            summary = summary.joined(added) if summary is not None else added
            self._put_outline(run_id, name, number, session, added if before is None else before.joined(added))
            self._put_points(run_id, name, number, (steps, values, seconds), extends=before is not None)
            number, before = number + 1, None
            begin = end
        if summary is not None:
            self._db.execute(
                f"INSERT INTO metrics (run_id, name, origin, session, newest_origin, {_OUTLINE})"  # noqa: S608
                f" VALUES (?, ?, ?, ?, ?, {_MARKS})"
                " ON CONFLICT (run_id, name) DO UPDATE SET origin = max(origin, excluded.origin),"
                f" session = excluded.session, newest_origin = excluded.newest_origin, {_NEW}",
                (
                    run_id,
                    name,
                    origin,
                    session,
                    origin,
                    *(summary if whole is None else ChunkSummary(*whole).joined(summary)),
                ),
            )

    def _put_points(
        self, run_id: str, name: str, number: int, columns: "tuple[array[Any], ...]", *, extends: bool
    ) -> None:
        """Store points in a chunk. columns: steps, values and seconds. extends: it has some already."""
        added = [column.tobytes() for column in columns]
        if extends:
            row = self._db.execute(
                "SELECT steps, vals, times FROM points WHERE run_id = ? AND name = ? AND number = ?",
                (run_id, name, number),
            ).fetchone()
            added = [stored + column for stored, column in zip(row, added, strict=True)]
        self._db.execute("INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?, ?, ?)", (run_id, name, number, *added))

    def _newest_chunk(self, run_id: str, name: str, session: int) -> tuple[int, ChunkSummary | None, float]:
        """The number of the chunk that takes the next point; its outline, if it has points; and their last second.

        A chunk has points of one session only.
        """
        row = self._db.execute(
            f"SELECT number, session, {_OUTLINE} FROM outlines WHERE run_id = ? AND name = ?"  # noqa: S608
            " ORDER BY number DESC LIMIT 1",
            (run_id, name),
        ).fetchone()
        if row is None:
            return 0, None, 0.0
        before = ChunkSummary(*row[2:])
        if row[1] != session:
            return row[0] + 1, None, 0.0
        is_full = before.total >= CHUNK_POINTS
        return row[0] + is_full, None if is_full else before, before.last_s

    def _put_outline(self, run_id: str, name: str, number: int, session: int, summary: ChunkSummary) -> None:
        self._db.execute(
            f"INSERT OR REPLACE INTO outlines (run_id, name, number, session, {_OUTLINE})"  # noqa: S608
            f" VALUES (?, ?, ?, ?, {_MARKS})",
            (run_id, name, number, session, *summary),
        )
