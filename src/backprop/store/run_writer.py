"""Stores in the index what is known of a run: its state, its end, which values are better, and how far it has got.

Called within the transaction that stores what they were read from.
"""

import sqlite3
import zlib
from collections.abc import Callable, Mapping

import msgspec

from backprop.records import Goal, Origin, Run
from backprop.store import params_writer
from backprop.store.index_reader import as_int64
from backprop.store.output.protocol import Batch

_MAX_WORDS = 4000  # characters that a search looks through
_encode = msgspec.json.Encoder().encode


def put_state(
    db: sqlite3.Connection, run: Run, journal_size: int, checksum_of: Callable[[bytes, bytes], int | None]
) -> None:
    """Store the state from the journal. journal_size: bytes of it that were read. checksum_of: see `Index.put_run`."""
    spec = run.spec
    short, packed = run.split()
    record = _encode(short)
    db.execute(
        "INSERT INTO runs (id, name, status, created_at, elapsed_s, journal_size, words, commit_id, script,"
        " checksum) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
        " name = excluded.name, created_at = excluded.created_at,"  # it may not have been readable before
        " status = excluded.status, elapsed_s = excluded.elapsed_s, journal_size = excluded.journal_size,"
        " words = excluded.words, commit_id = excluded.commit_id, script = excluded.script,"
        " checksum = excluded.checksum,"
        " is_whole = is_whole AND excluded.journal_size = journal_size",
        (
            spec.id,
            spec.name,
            run.status.value,
            spec.created_at.timestamp(),
            run.elapsed_s,
            journal_size,
            _words(run),
            None if run.code.git is None else run.code.git.commit,
            spec.script,
            checksum_of(record, packed),
        ),
    )
    _put_end(db, run)
    params_writer.put_guess(db, run)
    put_goals(db, spec.id, spec.goals, is_asked=True)
    db.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (spec.id, record))
    _put_packed(db, spec.id, packed)


def _put_packed(db: sqlite3.Connection, run_id: str, packed: bytes) -> None:
    checksum = zlib.crc32(packed)
    row = db.execute("SELECT checksum FROM packed WHERE run_id = ?", (run_id,)).fetchone()
    if not packed:
        db.execute("DELETE FROM packed WHERE run_id = ?", (run_id,))
    elif row is None or row[0] != checksum:
        db.execute("INSERT OR REPLACE INTO packed VALUES (?, ?, ?)", (run_id, checksum, packed))


def _put_end(db: sqlite3.Connection, run: Run) -> None:
    """Number the end of a run that has ended, unless it is the same as before."""
    if run.status.is_final:
        ended_at = None if run.ended_at is None else run.ended_at.timestamp()
        end = (run.spec.id, run.session_count, ended_at)
        db.execute(
            "INSERT OR REPLACE INTO ends (run_id, sessions, ended_at) SELECT ?, ?, ?"
            " WHERE NOT EXISTS (SELECT 1 FROM ends WHERE run_id = ? AND sessions = ? AND ended_at IS ?)",
            (*end, *end),
        )


def put_goals(db: sqlite3.Connection, run_id: str, goals: Mapping[str, Goal], *, is_asked: bool) -> None:
    """Store which values of metrics are better. is_asked: by the user, whose word counts before the script's."""
    db.executemany(
        "INSERT INTO goals VALUES (?, ?, ?, ?) ON CONFLICT (run_id, name) DO UPDATE SET"
        " goal = excluded.goal, is_asked = excluded.is_asked WHERE excluded.is_asked OR NOT is_asked",
        [(run_id, name, goal.value, is_asked) for name, goal in goals.items()],
    )


def put_steps(db: sqlite3.Connection, run_id: str, batch: Batch, *, begins_session: bool) -> None:
    """Store how far the run has got by this part of its output.

    begins_session: this may be an earlier step than the last one, that of a checkpoint. After that, what is logged
    to a tracker at an earlier step takes nothing back.
    """
    total, unit = ("printed_total", "printed_unit") if batch.origin is not Origin.REPORTED else ("total_steps", "unit")
    values = {
        "last_step": batch.last_step,
        "counted_step": batch.counted_step,
        "counted_total": as_int64(batch.counted_total),
        "counted_unit": batch.counted_unit,
        "printed_step": batch.printed_step if batch.tracked_step is None else batch.tracked_step,
        total: as_int64(batch.last("total_steps")),
        unit: batch.unit,
    }
    news = ", ".join(f"{name} = coalesce(:{name}, {name})" for name in values)
    if batch.tracked_step is not None and not begins_session:
        # of two assignments SQLite makes the last one
        news += ", printed_step = max(:printed_step, coalesce(printed_step, 0))"
    db.execute(
        f"UPDATE runs SET {news}, note_count = note_count + :notes WHERE id = :run_id",  # noqa: S608  our own names
        {**values, "notes": len(batch.notes), "run_id": run_id},
    )


def _words(run: Run) -> str:
    words = (run.spec.id, run.spec.name or "", *run.spec.command)
    return "\n".join(words)[:_MAX_WORDS].casefold()
