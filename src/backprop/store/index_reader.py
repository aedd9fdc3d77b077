"""The reading half of the index: which runs there are, and what a view shows of one.

`store/query.py` asks here on behalf of the views; `store/index.py` adds what is written.
"""

import heapq
import math
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from backprop.records import (
    Annotations,
    Checkpoint,
    Goal,
    LiveProgress,
    MetricSummary,
    Origin,
    Run,
    RunView,
    Status,
    Usage,
)
from backprop.store.chunk_summary import ChunkSummary
from backprop.store.rundir import RunDir
from backprop.store.usage.blocks import Total
from backprop.store.usage.quantities import PREFIX, QUANTITIES, is_curve
from backprop.text import is_utf8

_METRICS = f"SELECT name, origin, {', '.join(ChunkSummary._fields)} FROM metrics WHERE run_id = ?"  # noqa: S608
# three kinds of steps, the best first: each with its total and its unit
_STEPS = (
    "last_step, total_steps, unit, counted_step, counted_total, counted_unit, printed_step, printed_total, printed_unit"
)

_RECORDS = "runs JOIN records ON records.run_id = id LEFT JOIN packed ON packed.run_id = id"
_HOUR_S = 3600.0
_DECIMALS = 3  # of what is measured once a second: more would be noise
_T = TypeVar("_T")
_run_decoder = msgspec.json.Decoder(Run)
_annotations_decoder = msgspec.json.Decoder(Annotations)
_checkpoint_decoder = msgspec.json.Decoder(Checkpoint)


class IndexReader:
    """Reads from an open index file. Its methods raise sqlite3.Error."""

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self.path = path
        self._db = db

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows that a SELECT statement returns."""
        return self._db.execute(statement, values).fetchall()

    def count(self) -> int:
        """Number of runs in the index."""
        return int(self._db.execute("SELECT count(*) FROM runs").fetchone()[0])

    def run_ids(self) -> set[str]:
        """The ids of all runs in the index."""
        return {row[0] for row in self._db.execute("SELECT id FROM runs")}

    def newest(self, limit: int) -> Iterator[RunView]:
        """The newest `limit` runs, newest first."""
        ids = self._db.execute("SELECT id FROM runs ORDER BY created_at DESC, id LIMIT ?", (limit,)).fetchall()
        return (view for row in ids if (view := self.get(row[0])) is not None)

    def runs_of_commit(self, commit: str, limit: int) -> Iterator[Run]:
        """The newest `limit` runs that executed this commit last, newest first."""
        rows = self._db.execute(
            f"SELECT record, data FROM {_RECORDS} WHERE commit_id = ? ORDER BY created_at DESC LIMIT ?",  # noqa: S608
            (commit, limit),
        )
        return (_run(*row) for row in rows.fetchall())

    def newest_id(self) -> str | None:
        """The id of the run that was created last; None for an empty index."""
        row = self._db.execute("SELECT id FROM runs ORDER BY created_at DESC, id LIMIT 1").fetchone()
        return row[0] if row else None

    def ids_beginning(self, prefix: str, limit: int = 5) -> list[str]:
        """Up to `limit` ids that start with `prefix`; only the exact match where there is one."""
        if not is_utf8(prefix):
            return []
        rows = self._db.execute(
            "SELECT id FROM runs WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (prefix, prefix + "\U0010ffff", limit),
        ).fetchall()
        ids = [row[0] for row in rows]
        return [prefix] if prefix in ids else ids

    def ids_named(self, name: str, limit: int = 5) -> list[str]:
        """Ids of up to `limit` runs of that name, newest first."""
        if not is_utf8(name):
            return []
        rows = self._db.execute(
            "SELECT id FROM runs WHERE name = ? ORDER BY created_at DESC LIMIT ?", (name, limit)
        ).fetchall()
        return [row[0] for row in rows]

    def ends_after(self, number: int) -> list[tuple[int, str]]:
        """The runs whose last end has a greater number: (number, id), in ascending order."""
        rows = self.rows("SELECT number, run_id FROM ends WHERE number > ? ORDER BY number", (number,))
        return [(int(place), str(run_id)) for place, run_id in rows]

    def last_end(self) -> int:
        """The number of the newest end; 0 before the first."""
        rows = self.rows("SELECT seq FROM sqlite_sequence WHERE name = 'ends'")
        return int(rows[0][0]) if rows else 0

    @property
    def generation(self) -> int:
        """A number that another index of this home does not have: what is counted here is counted anew there."""
        return self._fact("generation")

    def behind(self) -> set[str]:
        """The runs that may be incomplete here: they are active, or the process that stored them died."""
        return {row[0] for row in self._db.execute("SELECT id FROM runs WHERE NOT is_whole")}

    def get(self, run_id: str, *, metrics: Collection[str] | None = None) -> RunView | None:
        """A run with a summary of what its trainer reported; None when it is not in the index.

        metrics: names of the metrics to summarize; None for all.
        """
        row = self._db.execute(
            f"SELECT records.record, data, annotations.record, note_count, lost_count, {_STEPS}"  # noqa: S608  our own names
            f" FROM {_RECORDS} LEFT JOIN annotations ON annotations.run_id = id"
            " WHERE id = ?",
            (run_id,),
        ).fetchone()
        if row is None:
            return None
        record, packed, annotations, note_count, lost_count, *steps = row
        kinds = (steps[:3], steps[3:6], steps[6:])
        last_step, total_steps, unit = next((kind for kind in kinds if kind[0] is not None), (None, None, None))
        if kinds[0][0] is None and kinds[1][0] is None and (total_steps or 0) < (last_step or 0):
            total_steps = None  # printed, and of something that is over
        summaries = self._summaries(run_id, metrics)
        params = self.rows("SELECT name, value, is_default FROM params WHERE run_id = ? ORDER BY name", (run_id,))
        goals = self.rows("SELECT name, goal FROM goals WHERE run_id = ?", (run_id,))
        run, run_dir = _run(record, packed), self.path.parent / "runs" / run_id
        return RunView(
            run=run,
            run_dir=str(run_dir),
            annotations=Annotations() if annotations is None else _decode(_annotations_decoder, annotations),
            live=_live(run, run_dir),
            last_step=last_step,
            total_steps=total_steps,
            step_unit=unit,
            metrics={name: summary.last for name, summary in summaries.items()},
            summaries=summaries,
            goals={name: Goal(goal) for name, goal in goals},
            params={name: msgspec.json.decode(value) for name, value, _ in params},
            default_params=frozenset(name for name, _, is_default in params if is_default),
            checkpoints=self._checkpoints(run_id),
            note_count=note_count,
            has_lost_metrics=lost_count > 0,
            usage=self._usage(run_id),
        )

    def _usage(self, run_id: str) -> Usage | None:
        rows = self.rows("SELECT name, seconds, total, peak, points, last FROM usage WHERE run_id = ?", (run_id,))
        if not rows:
            return None
        totals = {row[0]: Total(*row[1:]) for row in rows}
        named = sorted(totals, key=lambda name: (name not in QUANTITIES, name))
        order = [name for name in (*QUANTITIES, *named) if name in totals]
        curves = [name for name in dict.fromkeys(order) if is_curve(name)]
        power = totals.get("gpu_power")
        return Usage(
            measured_s=round(max(total.seconds for total in totals.values()), _DECIMALS),
            peak={name: totals[name].peak for name in QUANTITIES if name in totals},
            mean={
                name: round(totals[name].mean, _DECIMALS) for name in QUANTITIES if name in totals and is_curve(name)
            },
            energy_wh=None if power is None else round(power.sum / _HOUR_S, _DECIMALS),
            last={PREFIX + name: totals[name].last for name in curves},
            counts={PREFIX + name: totals[name].points for name in curves},
        )

    def last_point_s(self, run_id: str, session: int) -> tuple[float | None, int]:
        """When the last point of any metric came in a session, in seconds of training; None where there is none.

        And how many points the metric has there that has most.
        """
        rows = self.rows(
            "SELECT max(last_s), sum(total) FROM outlines WHERE run_id = ? AND session = ? GROUP BY name",
            (run_id, session),
        )
        return max((last_s for last_s, _ in rows), default=None), max((count for _, count in rows), default=0)

    def count_saves(self, run_id: str, session: int) -> int:
        """How many checkpoints a session has reported, those that were overwritten since included.

        One may be reported twice: by the script, and by a hook that saw it.
        """
        rows = self.rows(
            "SELECT count(*) FROM checkpoints WHERE run_id = ? AND session = ? GROUP BY source", (run_id, session)
        )
        return max((count for (count,) in rows), default=0)

    def runs_of_script(self, script: str, limit: int) -> list[tuple[Run, Usage]]:
        """The newest runs of a script that were measured, newest first, with what they used."""
        rows = self._db.execute(
            f"SELECT id, record, data FROM {_RECORDS} WHERE script = ? ORDER BY created_at DESC LIMIT ?",  # noqa: S608
            (script, limit),
        )
        found = ((_run(record, packed), self._usage(run_id)) for run_id, record, packed in rows.fetchall())
        return [(run, usage) for run, usage in found if usage is not None]

    def _summaries(self, run_id: str, metrics: Collection[str] | None) -> dict[str, MetricSummary]:
        selected = "" if metrics is None else f" AND name IN ({', '.join('?' * len(metrics))})"
        rows = self._db.execute(f"{_METRICS}{selected} ORDER BY name", (run_id, *(metrics or ())))
        return {name: _summary(ChunkSummary(*columns), Origin(origin)) for name, origin, *columns in rows}

    def _checkpoints(self, run_id: str) -> tuple[Checkpoint, ...]:
        rows = self._db.execute(
            "SELECT session, source, record FROM checkpoints WHERE run_id = ? ORDER BY session, source, offset",
            (run_id,),
        )
        reported: dict[int, dict[str, list[Checkpoint]]] = {}
        for session, source, record in rows:
            checkpoint = _decode(_checkpoint_decoder, record)
            reported.setdefault(session, {}).setdefault(source, []).append(checkpoint)
        newest: dict[str, Checkpoint] = {}
        for checkpoint in chain.from_iterable(_in_order(sources.values()) for sources in reported.values()):
            newest.pop(checkpoint.path, None)  # overwritten: only the last report describes the file that is there
            newest[checkpoint.path] = checkpoint
        return tuple(newest.values())

    def places(self) -> set[str]:
        """The working folders and scripts of all runs."""
        rows = self._db.execute(
            "SELECT json_extract(CAST(record AS TEXT), '$.spec.cwd') FROM records UNION"
            " SELECT json_extract(CAST(record AS TEXT), '$.spec.script') FROM records"
        )
        return {row[0] for row in rows if row[0] is not None}

    def reported_paths(self, *, except_by: Collection[str]) -> set[str]:
        """Paths of the checkpoints that all runs but these reported."""
        rows = self._db.execute("SELECT run_id, json_extract(CAST(record AS TEXT), '$.path') FROM checkpoints")
        return {path for run_id, path in rows if run_id not in except_by}

    def saved_over_by(self, run_id: str, checkpoint: Checkpoint) -> str | None:
        """Id of another run that reported the same path later and so overwrote it; None when there is none.

        Scans all reports: for a resume, not for views.
        """
        rows = self._db.execute(
            "SELECT run_id, record FROM checkpoints"
            " WHERE run_id != ? AND json_extract(CAST(record AS TEXT), '$.path') = ?",
            (run_id, checkpoint.path),
        )
        others = ((other, _decode(_checkpoint_decoder, record).measure.saved_at) for other, record in rows)
        later = [(at, other) for other, at in others if at > checkpoint.measure.saved_at]
        return max(later)[1] if later else None

    def _fact(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else row[0]


def _live(run: Run, run_dir: Path) -> LiveProgress | None:
    session = run.last_session
    is_running = session is not None and session.status is Status.RUNNING
    return RunDir(run_dir).read_live(session.number) if session is not None and is_running else None


def _summary(chunk: ChunkSummary, origin: Origin) -> MetricSummary:
    return MetricSummary(
        count=chunk.total,
        last=math.nan if chunk.last is None else chunk.last,
        last_step=int(chunk.last_step),
        least=chunk.least,
        least_step=as_int64(chunk.least_step),
        greatest=chunk.greatest,
        greatest_step=as_int64(chunk.greatest_step),
        missing=chunk.missing,
        origin=origin,
    )


def _in_order(sources: Iterable[Sequence[Checkpoint]]) -> Iterator[Checkpoint]:
    """The checkpoints of one session, oldest first. Within a source its own order holds, even if the clock jumped."""
    return heapq.merge(*sources, key=lambda checkpoint: checkpoint.measure.saved_at)


def _run(record: bytes, packed: bytes | None) -> Run:
    """A run from its stored record. Raises sqlite3.DatabaseError for a damaged one."""
    try:
        return _decode(_run_decoder, record).joined(packed or b"")
    except ValueError as error:
        raise sqlite3.DatabaseError(f"a record in it is damaged: {error}") from error


def _decode(decoder: "msgspec.json.Decoder[_T]", record: bytes) -> _T:
    try:
        return decoder.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # SQLite does not check the content of a long value, so that damage shows here first
        raise sqlite3.DatabaseError(f"a record in it is damaged: {error}") from error


def as_int64(value: float | None) -> int | None:
    """The number as SQLite can hold it; None for what is not finite or too large."""
    return int(value) if value is not None and math.isfinite(value) and abs(value) < 2**63 else None
