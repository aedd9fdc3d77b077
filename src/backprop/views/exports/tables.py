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


class Kind(Enum):
    """What a column holds; None in any of them where it is not known."""

    TEXT = "text"
    WHOLE = "whole"  # 64 bits
    REAL = "real"  # NaN and infinities are values
    TRUTH = "truth"
    INSTANT = "instant"  # an aware datetime, UTC


class Table(NamedTuple):
    """A name, the columns, and how to get the rows."""

    name: str
    columns: Mapping[str, Kind]
    rows: Callable[[RunExport], Iterator[Row]]


_RUN = {
    "run": Kind.TEXT,
    "name": Kind.TEXT,
    "status": Kind.TEXT,
    "reason": Kind.TEXT,
    "command": Kind.TEXT,
    "cwd": Kind.TEXT,
    "python": Kind.TEXT,
    "host": Kind.TEXT,
    "git_commit": Kind.TEXT,
    "git_branch": Kind.TEXT,
    "git_dirty": Kind.TRUTH,
    "created_at": Kind.INSTANT,
    "started_at": Kind.INSTANT,
    "ended_at": Kind.INSTANT,
    "elapsed_s": Kind.REAL,
    "last_step": Kind.WHOLE,
    "exit_code": Kind.WHOLE,
    "run_dir": Kind.TEXT,
    "group": Kind.TEXT,
    "tags": Kind.TEXT,  # with spaces between them
    "parent": Kind.TEXT,
    "decision": Kind.TEXT,
    "archived": Kind.TRUTH,
    "notes": Kind.TEXT,  # a line or more each
}
_SESSION = {
    "run": Kind.TEXT,
    "session": Kind.WHOLE,
    "status": Kind.TEXT,
    "reason": Kind.TEXT,
    "started_at": Kind.INSTANT,
    "ended_at": Kind.INSTANT,
    "elapsed_s": Kind.REAL,
    "exit_code": Kind.WHOLE,
    "resumed_from": Kind.TEXT,
}
_CHECKPOINT = {
    "run": Kind.TEXT,
    "session": Kind.WHOLE,
    "step": Kind.WHOLE,
    "path": Kind.TEXT,
    "size_bytes": Kind.WHOLE,
    "saved_at": Kind.INSTANT,
    "valid": Kind.TRUTH,
    "emergency": Kind.TRUTH,
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


def _picked(facts: Mapping[str, Any], columns: Mapping[str, Kind]) -> Row:
    return tuple(_typed(facts.get(name), kind) for name, kind in columns.items())


def _typed(value: Any, kind: Kind) -> Any:
    """Undo what JSON needs: instants are text there."""
    return datetime.fromisoformat(value.replace("Z", "+00:00")) if kind is Kind.INSTANT and value else value


POINTS = Table(
    "points",
    {
        "run": Kind.TEXT,
        "session": Kind.WHOLE,
        "metric": Kind.TEXT,
        "step": Kind.WHOLE,
        "value": Kind.REAL,
        "time_s": Kind.REAL,
        "at": Kind.INSTANT,
    },
    _point_rows,
)
ALL = (
    Table("runs", _RUN, _run_rows),
    Table("sessions", _SESSION, _session_rows),
    Table("params", {"run": Kind.TEXT, "name": Kind.TEXT, "value": Kind.TEXT}, _param_rows),
    Table("checkpoints", _CHECKPOINT, _checkpoint_rows),
    POINTS,
)


def rows(table: Table, runs: Iterable[RunExport]) -> Iterator[Row]:
    """The rows of all runs, one run after the other."""
    for run in runs:
        yield from table.rows(run)
