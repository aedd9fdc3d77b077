"""Runs as five tables of rows, for formats that know tables: runs, sessions, params, checkpoints and points.

They are long rather than wide (a parameter is a row, not a column), so that any two exports have the same columns.
"""

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from enum import Enum
from typing import Any, NamedTuple

from backprop.views.exports.record import RunExport
from backprop.views.terminal.params import text as param_text

Row = tuple[Any, ...]


class ColumnType(Enum):
    """What a column holds; None in any of them where it is not known."""

    TEXT = "text"
    WHOLE = "whole"  # 64 bits
    REAL = "real"  # NaN and infinities are values
    TRUTH = "truth"
    INSTANT = "instant"  # an aware datetime, UTC


class Table(NamedTuple):
    """A name, the columns, and how to get the rows."""

    name: str
    columns: Mapping[str, ColumnType]
    rows: Callable[[RunExport], Iterator[Row]]


_RUN = {
    "run": ColumnType.TEXT,
    "name": ColumnType.TEXT,
    "status": ColumnType.TEXT,
    "reason": ColumnType.TEXT,
    "command": ColumnType.TEXT,
    "cwd": ColumnType.TEXT,
    "python": ColumnType.TEXT,
    "host": ColumnType.TEXT,
    "git_commit": ColumnType.TEXT,
    "git_branch": ColumnType.TEXT,
    "git_dirty": ColumnType.TRUTH,
    "created_at": ColumnType.INSTANT,
    "started_at": ColumnType.INSTANT,
    "ended_at": ColumnType.INSTANT,
    "elapsed_s": ColumnType.REAL,
    "last_step": ColumnType.WHOLE,
    "exit_code": ColumnType.WHOLE,
    "run_dir": ColumnType.TEXT,
    "group": ColumnType.TEXT,
    "tags": ColumnType.TEXT,  # with spaces between them
    "parent": ColumnType.TEXT,
    "decision": ColumnType.TEXT,
    "archived": ColumnType.TRUTH,
    "notes": ColumnType.TEXT,  # a line or more each
}
_SESSION = {
    "run": ColumnType.TEXT,
    "session": ColumnType.WHOLE,
    "status": ColumnType.TEXT,
    "reason": ColumnType.TEXT,
    "started_at": ColumnType.INSTANT,
    "ended_at": ColumnType.INSTANT,
    "elapsed_s": ColumnType.REAL,
    "exit_code": ColumnType.WHOLE,
    "resumed_from": ColumnType.TEXT,
}
_CHECKPOINT = {
    "run": ColumnType.TEXT,
    "session": ColumnType.WHOLE,
    "step": ColumnType.WHOLE,
    "path": ColumnType.TEXT,
    "size_bytes": ColumnType.WHOLE,
    "saved_at": ColumnType.INSTANT,
    "valid": ColumnType.TRUTH,
    "emergency": ColumnType.TRUTH,
}


def _run_rows(run: RunExport) -> Iterator[Row]:
    git = run.document["git"] or {}
    facts = {
        **run.document,
        "run": run.id,
        "command": shlex.join(run.document["command"]),
        "tags": " ".join(run.document["tags"]) or None,
        "notes": run.notes,
        **{f"git_{key}": value for key, value in git.items()},
    }
    yield _picked(facts, _RUN)


def _session_rows(run: RunExport) -> Iterator[Row]:
    for session in run.document["sessions"]:
        yield _picked({**session, "run": run.id, "session": session["number"]}, _SESSION)


def _checkpoint_rows(run: RunExport) -> Iterator[Row]:
    for checkpoint in run.document["checkpoints"]:
        yield _picked({**checkpoint, "run": run.id}, _CHECKPOINT)


def _param_rows(run: RunExport) -> Iterator[Row]:
    for name, value in run.view.params.items():
        yield run.id, name, param_text(value)


def _point_rows(run: RunExport) -> Iterator[Row]:
    unix_s = run.clock()
    for session, metric, step, value, time_s in run.points():
        at = datetime.fromtimestamp(unix_s(session, time_s), timezone.utc)
        yield run.id, session, metric, step, value, time_s, at


def _picked(facts: Mapping[str, Any], columns: Mapping[str, ColumnType]) -> Row:
    return tuple(_typed(facts.get(name), kind) for name, kind in columns.items())


def _typed(value: Any, kind: ColumnType) -> Any:
    """Undo what JSON needs: instants are text there."""
    return datetime.fromisoformat(value.replace("Z", "+00:00")) if kind is ColumnType.INSTANT and value else value


POINTS = Table(
    "points",
    {
        "run": ColumnType.TEXT,
        "session": ColumnType.WHOLE,
        "metric": ColumnType.TEXT,
        "step": ColumnType.WHOLE,
        "value": ColumnType.REAL,
        "time_s": ColumnType.REAL,
        "at": ColumnType.INSTANT,
    },
    _point_rows,
)
ALL = (
    Table("runs", _RUN, _run_rows),
    Table("sessions", _SESSION, _session_rows),
    Table("params", {"run": ColumnType.TEXT, "name": ColumnType.TEXT, "value": ColumnType.TEXT}, _param_rows),
    Table("checkpoints", _CHECKPOINT, _checkpoint_rows),
    POINTS,
)


def rows(table: Table, runs: Iterable[RunExport]) -> Iterator[Row]:
    """The rows of all runs, one run after the other."""
    for run in runs:
        yield from table.rows(run)
