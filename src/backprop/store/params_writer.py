"""Stores parameters in the index: those that the script reports, that hooks saw, or that its arguments look like.

Called within the transaction that stores what they were read from.
"""

import sqlite3
from typing import Any

import msgspec

from backprop.records import ParamOrigin, Run
from backprop.store.output.protocol import ParamsGiven, json_safe
from backprop.trainer.parameters.secrets import hidden

_MAX_TEXT = 200  # characters of a parameter that a filter compares
_PUT_PARAM = (
    "INSERT INTO params VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET value = excluded.value,"
    " number = excluded.number, text = excluded.text, origin = max(origin, excluded.origin),"
    " session = excluded.session, is_default = excluded.is_default"
    " WHERE excluded.origin >= origin OR (excluded.origin = 1 AND origin = 2)"  # of what was seen, the last wins
)
_encode = msgspec.json.Encoder().encode


def put_guess(db: sqlite3.Connection, run: Run) -> None:
    """Parameters in the arguments, until a parser was seen."""
    parsed = "SELECT 1 FROM params WHERE run_id = ? AND origin = ?"
    if db.execute(parsed, (run.spec.id, ParamOrigin.PARSER)).fetchone() is None:
        put(db, run.spec.id, 0, ParamsGiven(params=dict(run.spec.params), origin=ParamOrigin.ARGUMENTS))


def put_seen(db: sqlite3.Connection, run_id: str, session: int, seen: ParamsGiven) -> None:
    """What our hooks have seen. A parser has the last word on the arguments of its session and of those before."""
    if seen.origin is ParamOrigin.PARSER and seen.params:
        db.execute(
            "DELETE FROM params WHERE run_id = ? AND (origin = ? OR (origin < ? AND session < ?))",
            (run_id, ParamOrigin.ARGUMENTS, ParamOrigin.SCRIPT, session),
        )
        put(db, run_id, session, ParamsGiven(params=dict(seen.guessed), origin=ParamOrigin.ARGUMENTS))
    put(db, run_id, session, seen)


def put(db: sqlite3.Connection, run_id: str, session: int, given: ParamsGiven) -> None:
    """Put parameters in the place of those that do not win over them: see ParamOrigin."""
    where = (given.origin, session)
    db.executemany(
        _PUT_PARAM,
        [
            (run_id, name, _encode(json_safe(value)), *_comparable(value), *where, name in given.defaults)
            for name, value in ((name, hidden(name, value)) for name, value in given.params.items())
        ],
    )


def _comparable(value: Any) -> tuple[float | None, str | None]:
    """A parameter as a number, or as a text, for a filter to compare; (None, None) for what is neither.

    A text that looks like a number is both: a parser may not know the type.
    """
    if isinstance(value, bool):
        return None, "true" if value else "false"
    text = value[:_MAX_TEXT].casefold() if isinstance(value, str) else None
    try:
        return (float(value) if isinstance(value, (int, float, str)) else None), text
    except (OverflowError, ValueError):
        return None, text
