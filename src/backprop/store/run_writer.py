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


# what a session logs to a tracker takes the place of what was printed; the greatest step of it counts
_TRACKED = """
    printed_step = CASE WHEN tracked_session = :session THEN max(printed_step, :step) ELSE :step END,
    printed_total = CASE WHEN tracked_session = :session THEN coalesce(:total, printed_total) ELSE :total END,
    printed_unit = CASE WHEN tracked_session = :session THEN coalesce(:unit, printed_unit) ELSE :unit END,
    tracked_session = :session
"""
_PRINTED = """
    printed_step = CASE WHEN tracked_session = :session THEN printed_step ELSE :step END,
    printed_total = CASE WHEN tracked_session = :session THEN printed_total ELSE coalesce(:total, printed_total) END,
    printed_unit = CASE WHEN tracked_session = :session THEN printed_unit ELSE coalesce(:unit, printed_unit) END
"""
_REPORTED = """
    last_step = coalesce(:step, last_step),
    total_steps = coalesce(:total, total_steps),
    unit = coalesce(:unit, unit),
    counted_step = coalesce(:counted_step, counted_step),
    counted_total = coalesce(:counted_total, counted_total),
    counted_unit = coalesce(:counted_unit, counted_unit)
"""


def put_steps(db: sqlite3.Connection, run_id: str, session: int, batch: Batch) -> None:
    """Store how far the run has got by this part of its output. The sources of a session are read in any order.

    A session may begin at an earlier step than the last one, that of a checkpoint.
    """
    news, step = {
        Origin.TRACKED: (_TRACKED, batch.tracked_step),
        Origin.PRINTED: (_PRINTED, batch.printed_step),
    }.get(batch.origin, (_REPORTED, batch.last_step))
    db.execute(
        f"UPDATE runs SET {news}, note_count = note_count + :notes WHERE id = :run_id",  # noqa: S608  our own texts
        {
            "step": step,
            "total": as_int64(batch.last("total_steps")),
            "unit": batch.unit,
            "counted_step": batch.counted_step,
            "counted_total": as_int64(batch.counted_total),
            "counted_unit": batch.counted_unit,
            "notes": len(batch.notes),
            "session": session,
            "run_id": run_id,
        },
    )


def _words(run: Run) -> str:
    words = (run.spec.id, run.spec.name or "", *run.spec.command)
    return "\n".join(words)[:_MAX_WORDS].casefold()
