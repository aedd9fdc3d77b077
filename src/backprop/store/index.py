"""index.db: everything the views read, in SQLite; a cache that can be rebuilt from the run directories.

What a trainer wrote is stored in the same transaction that moves the offset it was read up to, and only if nobody
else has moved it (compare and swap). So each line counts exactly once, whoever reads it and however often they die.
"""

import heapq
import math
import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from backprop.records import Checkpoint, MetricSummary, Run, RunView, Source
from backprop.store.chunk_summary import ChunkSummary
from backprop.store.curve_writer import CurveWriter
from backprop.store.files import foreign_owner
from backprop.store.home import Home, HomeBusyError, set_aside
from backprop.store.output.line_times import Timeline
from backprop.store.output.protocol import Batch, json_safe
from backprop.store.rundir import NO_ROOM

SCHEMA_VERSION = 5
_SCHEMA_PATH = Path(__file__).with_name("schema.sql")
_MAX_WORDS = 4000  # characters that a search looks through
_MAX_TEXT = 200  # characters of a parameter that a filter compares

_METRICS = f"SELECT name, is_printed, {', '.join(ChunkSummary._fields)} FROM metrics WHERE run_id = ?"  # noqa: S608

# of SQLite, which has none of its own for a shared-memory file that finds no room; its codes come with Python 3.11
_NO_ROOM_WORDS = frozenset({"database or disk is full", "disk I/O error", "unable to open database file"})

_T = TypeVar("_T")
_encode = msgspec.json.Encoder().encode
_run_decoder = msgspec.json.Decoder(Run)
_checkpoint_decoder = msgspec.json.Decoder(Checkpoint)


class IndexBrokenError(Exception):
    """The file is not a usable index: damaged, of another version, or replaced under our feet. Rebuild it."""


class Index:
    """A connection to one index file. Not for use from several threads."""

    def __init__(self, path: Path, busy_timeout_s: float, *, is_in_memory: bool = False) -> None:
        """Open, creating the schema in an empty file. Raises IndexBrokenError or sqlite3.OperationalError (busy, full).

        busy_timeout_s: how long a statement waits for another process's transaction. is_in_memory: an empty one, of
        this process alone, in the place of the file.
        """
        self.path = path
        self.is_in_memory = is_in_memory
        self._busy_timeout_s = busy_timeout_s
        # of the owner alone, and so are the files beside it, which SQLite gives the same mode. Never one that is there:
        # to close a file takes the locks of this process's other connections to it
        if not is_in_memory:
            with suppress(OSError):  # what is wrong is SQLite's to say
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(
            ":memory:" if is_in_memory else path,
            timeout=busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        self._db.create_function("casefold", 1, str.casefold, deterministic=True)  # SQLite's lower() knows ASCII only
        try:
            self._prepare()
            self.identity = (0, 0)  # of the file
            if not is_in_memory:
                info = path.stat()
                self.identity = (info.st_dev, info.st_ino)
        except sqlite3.OperationalError:
            self._db.close()
            raise
        except (sqlite3.DatabaseError, FileNotFoundError) as error:
            self._db.close()
            raise IndexBrokenError(str(error)) from error

    def _prepare(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version not in {0, SCHEMA_VERSION}:
            raise sqlite3.DatabaseError(f"schema version {version}, not {SCHEMA_VERSION}")
        self._db.execute("PRAGMA journal_mode = WAL")
        # no fsync at commit: after a power loss the last transactions may be missing, whole, and are read again
        self._db.execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            with self._transaction():
                if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
                    for statement in _SCHEMA_PATH.read_text().split(";\n"):
                        self._db.execute(statement)
                    self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def close(self) -> None:
        self._db.close()

    def is_replaced(self) -> bool:
        """True when the file we have open is no longer the one at our path: deleted, or set aside."""
        if self.is_in_memory:
            return False
        try:
            info = self.path.stat()
        except FileNotFoundError:
            return True
        return (info.st_dev, info.st_ino) != self.identity

    def reopen(self, open_again: Callable[[float], "Index"]) -> None:
        """Connect to the file that is at our path now, so that everybody who has this object works on that one.

        open_again: opens it, with our busy timeout; what it raises leaves this object as it is.
        """
        new = open_again(self._busy_timeout_s)
        self._db.close()
        self._db, self.identity = new._db, new.identity  # noqa: SLF001  another one of us

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    # -- writing

    def wait_for_turn(self) -> None:
        """Wait until nobody else writes. Raises sqlite3.OperationalError when that takes too long."""
        with self._transaction():
            pass

    def put_run(self, run: Run, journal_size: int) -> None:
        """Store what the journal tells, unless more of the journal has been stored already.

        A run whose journal has grown is not whole any more: see `set_whole`.
        """
        spec = run.spec
        with self._transaction():
            stored_size = self.journal_size(spec.id)
            if stored_size is None or journal_size >= stored_size:
                self._db.execute(
                    "INSERT INTO runs (id, name, status, created_at, elapsed_s, journal_size, words)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
                    " name = excluded.name, created_at = excluded.created_at,"  # it may not have been readable before
                    " status = excluded.status, elapsed_s = excluded.elapsed_s, journal_size = excluded.journal_size,"
                    " words = excluded.words,"
                    " is_whole = is_whole AND excluded.journal_size = journal_size",
                    (
                        spec.id,
                        spec.name,
                        run.status.value,
                        spec.created_at.timestamp(),
                        sum(s.elapsed_s or 0.0 for s in run.sessions),
                        journal_size,
                        _words(run),
                    ),
                )
                if len(run.sessions) > 1:  # before, nothing can have changed what it executes
                    self._forget_params(run)
                self._db.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (spec.id, _encode(run)))
            self._put_params(spec.id, spec.params, "IGNORE")

    def _forget_params(self, run: Run) -> None:
        """Those that the run's arguments said before a `resume` changed them; not what the script said itself."""
        row = self._db.execute("SELECT record FROM records WHERE run_id = ?", (run.spec.id,)).fetchone()
        before = _decode_run(row[0]).spec.params if row is not None else {}
        self._db.executemany(
            "DELETE FROM params WHERE run_id = ? AND name = ? AND value = ?",
            [
                (run.spec.id, name, _encode(json_safe(value)))
                for name, value in before.items()
                if run.spec.params.get(name) != value
            ],
        )

    def _put_params(self, run_id: str, params: Mapping[str, Any], on_conflict: str) -> None:
        self._db.executemany(
            f"INSERT OR {on_conflict} INTO params VALUES (?, ?, ?, ?, ?)",  # noqa: S608  our own word
            [(run_id, name, _encode(json_safe(value)), *_comparable(value)) for name, value in params.items()],
        )

    def journal_size(self, run_id: str) -> int | None:
        """Up to which byte of the journal this run is stored; None when the run is not here at all."""
        row = self._db.execute("SELECT journal_size FROM runs WHERE id = ?", (run_id,)).fetchone()
        return row[0] if row else None

    def offset(self, run_id: str, session: int, source: Source = Source.OUT) -> int:
        """Up to which byte of the session's source events are stored."""
        row = self._db.execute(
            "SELECT offset FROM tails WHERE run_id = ? AND session = ? AND source = ?", (run_id, session, source.value)
        ).fetchone()
        return row[0] if row else 0

    def set_whole(self, run_id: str, journal_size: int, sizes: Mapping[tuple[int, Source], int]) -> bool:
        """Say that all there is of a run is here; False where it is not.

        journal_size: bytes of the journal of a run that has ended. sizes: of its sessions' sources, in bytes. What the
        index says of itself is true of the file it says it in: one that takes its place says nothing of this run.
        """
        with self._transaction():
            if not self.has_output(run_id, sizes):
                return False
            done = self._db.execute(
                "UPDATE runs SET is_whole = 1 WHERE id = ? AND journal_size = ?", (run_id, journal_size)
            )
            return done.rowcount == 1

    def behind(self) -> set[str]:
        """The runs that are here, and may lack something: they are going on, or whoever put them here died."""
        return {row[0] for row in self._db.execute("SELECT id FROM runs WHERE NOT is_whole")}

    def has_output(self, run_id: str, sizes: Mapping[tuple[int, Source], int]) -> bool:
        """Whether so many bytes of its sessions' sources are stored, or more."""
        stored = self.offsets(run_id)
        return all(stored.get(key, 0) >= size for key, size in sizes.items())

    def offsets(self, run_id: str) -> dict[tuple[int, Source], int]:
        """How many bytes are stored of each source of its sessions."""
        rows = self._db.execute("SELECT session, source, offset FROM tails WHERE run_id = ?", (run_id,))
        return {(session, Source(source)): offset for session, source, offset in rows}

    def stored_bytes(self, run_id: str, *, before_session: int) -> int:
        """How much is stored of all sources of the sessions before this one."""
        row = self._db.execute(
            "SELECT coalesce(sum(offset), 0) FROM tails WHERE run_id = ? AND session < ?", (run_id, before_session)
        ).fetchone()
        return int(row[0])

    def add_output(  # noqa: PLR0913  all of it is one transaction
        self,
        run_id: str,
        session: int,
        start: int,
        end: int,
        batch: Batch,
        checkpoints: Sequence[tuple[int, Checkpoint]],
        source: Source = Source.OUT,
        *,
        timeline: Timeline | None = None,
        earlier_bytes: int | None = None,
    ) -> bool:
        """Store what bytes `start` to `end` of the session's source amount to; False when somebody else already did.

        checkpoints: (offset of the report, checkpoint as measured). timeline: when it was written; None: at once.
        earlier_bytes: what must be stored of the sessions before, or nothing is: points are kept in the order they
        come, and the index may have been emptied since the caller looked. None: that does not matter.
        """
        with self._transaction():
            if self.offset(run_id, session, source) != start or self.journal_size(run_id) is None:
                return False
            if earlier_bytes is not None and self.stored_bytes(run_id, before_session=session) != earlier_bytes:
                return False
            self._db.execute("INSERT OR REPLACE INTO tails VALUES (?, ?, ?, ?)", (run_id, session, source.value, end))
            CurveWriter(self._db).add(run_id, session, batch, timeline or Timeline())
            total_steps = batch.last("total_steps")
            self._db.execute(
                "UPDATE runs SET last_step = coalesce(?, last_step), counted_step = coalesce(?, counted_step),"
                " printed_step = coalesce(?, printed_step), total_steps = coalesce(?, total_steps),"
                " note_count = note_count + ? WHERE id = ?",
                (
                    batch.last_step,
                    batch.counted_step,
                    batch.printed_step,
                    _whole(total_steps),
                    len(batch.notes),
                    run_id,
                ),
            )
            self._put_params(run_id, batch.params, "REPLACE")
            self._db.executemany(
                "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?)",
                [(run_id, session, source.value, offset, _encode(checkpoint)) for offset, checkpoint in checkpoints],
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?, ?, ?)",
                [(run_id, session, source.value, offset, note.kind, note.text) for offset, note in batch.notes],
            )
        return True

    def remove(self, run_id: str) -> None:
        """Forget a run."""
        with self._transaction():
            self._db.execute("DELETE FROM facts WHERE name = 'seen_folder_ns'")
            self._db.execute("DELETE FROM runs WHERE id = ?", (run_id,))
            for table in ("records", "tails", "metrics", "outlines", "points", "params", "checkpoints", "notes"):
                self._db.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))  # noqa: S608  our own names

    # -- reading

    def run_ids(self) -> set[str]:
        return {row[0] for row in self._db.execute("SELECT id FROM runs")}

    def seen_folder_ns(self) -> int | None:
        """The modification time of the runs folder when all that was in it was here."""
        row = self._db.execute("SELECT value FROM facts WHERE name = 'seen_folder_ns'").fetchone()
        return row[0] if row else None

    def set_seen_folder_ns(self, modified_ns: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO facts VALUES ('seen_folder_ns', ?)", (modified_ns,))

    def is_snapshot_due(self) -> bool:
        """Whether somebody has brought runs in without their entries in experiments.json, and may have died since."""
        return self.snapshot_due() not in {0, self._fact("snapshot_written")}

    def snapshot_due(self) -> int:
        """How often it was said that experiments.json lacks something: see `set_snapshot_written`."""
        return self._fact("snapshot_due")

    def set_snapshot_due(self) -> None:
        """The entry of a run in experiments.json is to be written by whoever rebuilds the file next."""
        self._db.execute(
            "INSERT OR REPLACE INTO facts SELECT 'snapshot_due', coalesce(max(value), 0) + 1 FROM facts"
            " WHERE name IN ('snapshot_due', 'snapshot_written')"
        )

    def set_snapshot_written(self, due: int) -> None:
        """due: what `snapshot_due` gave before the runs were read; what was due since is due still."""
        self._db.execute("INSERT OR REPLACE INTO facts VALUES ('snapshot_written', ?)", (due,))

    def _fact(self, name: str) -> int:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return 0 if row is None else row[0]

    def rows(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a SELECT finds: see query.py, which knows what can be asked."""
        return self._db.execute(statement, values).fetchall()

    def count(self) -> int:
        return int(self._db.execute("SELECT count(*) FROM runs").fetchone()[0])

    def newest(self, limit: int) -> Iterator[RunView]:
        """At most so many runs, newest first."""
        ids = self._db.execute("SELECT id FROM runs ORDER BY created_at DESC, id LIMIT ?", (limit,)).fetchall()
        return (view for row in ids if (view := self.get(row[0])) is not None)

    def newest_id(self) -> str | None:
        row = self._db.execute("SELECT id FROM runs ORDER BY created_at DESC, id LIMIT 1").fetchone()
        return row[0] if row else None

    def ids_beginning(self, prefix: str, limit: int = 5) -> list[str]:
        """Ids that begin with `prefix`, an exact match alone and first."""
        if not _is_text(prefix):
            return []
        rows = self._db.execute(
            "SELECT id FROM runs WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (prefix, prefix + "\U0010ffff", limit),
        ).fetchall()
        ids = [row[0] for row in rows]
        return [prefix] if prefix in ids else ids

    def ids_named(self, name: str, limit: int = 5) -> list[str]:
        """Ids of the runs of that name, newest first."""
        if not _is_text(name):
            return []
        rows = self._db.execute(
            "SELECT id FROM runs WHERE name = ? ORDER BY created_at DESC LIMIT ?", (name, limit)
        ).fetchall()
        return [row[0] for row in rows]

    def get(self, run_id: str, *, metrics: Collection[str] | None = None) -> RunView | None:
        """A run with the summary of what its trainer said; None when it is not here.

        metrics: leave the summaries of all others out.
        """
        row = self._db.execute(
            "SELECT record, coalesce(last_step, counted_step, printed_step), total_steps, note_count, lost_count"
            " FROM runs JOIN records ON run_id = id WHERE id = ?",
            (run_id,),
        ).fetchone()
        if row is None:
            return None
        record, last_step, total_steps, note_count, lost_count = row
        some = "" if metrics is None else f" AND name IN ({', '.join('?' * len(metrics))})"
        found = self._db.execute(f"{_METRICS}{some} ORDER BY name", (run_id, *(metrics or ())))
        rows = found.fetchall()
        summaries = {name: ChunkSummary(*columns) for name, _, *columns in rows}
        printed = {name for name, is_printed, *_ in rows if is_printed}
        return RunView(
            run=_decode_run(record),
            run_dir=str(self.path.parent / "runs" / run_id),
            last_step=last_step,
            total_steps=total_steps,
            metrics={name: math.nan if told.last is None else told.last for name, told in summaries.items()},
            summaries={
                name: MetricSummary(
                    count=told.total,
                    last=math.nan if told.last is None else told.last,
                    last_step=int(told.last_step),
                    least=told.least,
                    least_step=_whole(told.least_step),
                    greatest=told.greatest,
                    greatest_step=_whole(told.greatest_step),
                    missing=told.missing,
                    is_printed=name in printed,
                )
                for name, told in summaries.items()
            },
            params={
                name: msgspec.json.decode(value)
                for name, value in self._db.execute(
                    "SELECT name, value FROM params WHERE run_id = ? ORDER BY name", (run_id,)
                )
            },
            checkpoints=self._checkpoints(run_id),
            note_count=note_count,
            has_lost_metrics=lost_count > 0,
        )

    def _checkpoints(self, run_id: str) -> tuple[Checkpoint, ...]:
        rows = self._db.execute(
            "SELECT session, source, record FROM checkpoints WHERE run_id = ? ORDER BY session, source, offset",
            (run_id,),
        )
        reported: dict[int, dict[str, list[Checkpoint]]] = {}
        for session, source, record in rows:
            reported.setdefault(session, {}).setdefault(source, []).append(_decode_checkpoint(record))
        newest: dict[str, Checkpoint] = {}
        for checkpoint in chain.from_iterable(_in_order(sources.values()) for sources in reported.values()):
            newest.pop(checkpoint.path, None)  # saved over: only the last report describes what lies there
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
        """The checkpoints that all runs but these reported."""
        rows = self._db.execute("SELECT run_id, json_extract(CAST(record AS TEXT), '$.path') FROM checkpoints")
        return {path for run_id, path in rows if run_id not in except_by}

    def saved_over_by(self, run_id: str, checkpoint: Checkpoint) -> str | None:
        """Another run that reported the same path later, so that what lies there is its; None when there is none.

        Looks through all reports: for a resume, not for views.
        """
        rows = self._db.execute(
            "SELECT run_id, record FROM checkpoints"
            " WHERE run_id != ? AND json_extract(CAST(record AS TEXT), '$.path') = ?",
            (run_id, checkpoint.path),
        )
        others = ((other, _decode_checkpoint(record).measure.saved_at) for other, record in rows)
        later = [(at, other) for other, at in others if at > checkpoint.measure.saved_at]
        return max(later)[1] if later else None


def _in_order(sources: Iterable[Sequence[Checkpoint]]) -> Iterator[Checkpoint]:
    """One session's checkpoints, oldest first. A source's own order holds, whatever the clock did meanwhile."""
    return heapq.merge(*sources, key=lambda checkpoint: checkpoint.measure.saved_at)


def _decode_run(record: bytes) -> Run:
    return _decoded(_run_decoder, record)


def _decode_checkpoint(record: bytes) -> Checkpoint:
    return _decoded(_checkpoint_decoder, record)


def _decoded(decoder: "msgspec.json.Decoder[_T]", record: bytes) -> _T:
    """What we once stored. SQLite does not look at the inside of a long value: damage shows here first."""
    try:
        return decoder.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise sqlite3.DatabaseError(f"a record in it is damaged: {error}") from error


def _is_text(word: str) -> bool:
    # what was typed may be any bytes; those that are not UTF-8 cannot be looked up, and name nothing
    try:
        word.encode()
    except UnicodeEncodeError:
        return False
    return True


def _words(run: Run) -> str:
    told = (run.spec.id, run.spec.name or "", *run.spec.command)
    return "\n".join(told)[:_MAX_WORDS].casefold()


def _comparable(value: Any) -> tuple[float | None, str | None]:
    """A parameter as a number, or as a text, for a filter to compare; (None, None) for what is neither."""
    if isinstance(value, bool):
        return None, "true" if value else "false"
    if isinstance(value, str):
        return None, value[:_MAX_TEXT].casefold()
    try:
        return (float(value) if isinstance(value, (int, float)) else None), None
    except OverflowError:
        return None, None


def _whole(value: float | None) -> int | None:
    return int(value) if value is not None and math.isfinite(value) and abs(value) < 2**63 else None


def is_locked(error: Exception) -> bool:
    """Whether an error that SQLite raised says that another process has been writing for too long: it may hang."""
    return isinstance(error, sqlite3.OperationalError) and str(error) == "database is locked"


def lacks_room(error: Exception | None) -> bool:
    """Whether an error that SQLite, or the system, raised says that the disk is full."""
    if isinstance(error, sqlite3.OperationalError):
        return str(error) in _NO_ROOM_WORDS
    return isinstance(error, OSError) and error.errno in NO_ROOM


def open_index(home: Home, busy_timeout_s: float, say: Callable[[str], None]) -> Index:
    """The index of a home. One that is damaged is set aside with its date and a new one begun, saying so.

    A new index is empty: `recovery.catch_up` fills it from the run directories.
    busy_timeout_s: how long to wait for another process's transaction; short for a supervisor.
    Raises sqlite3.OperationalError (busy, disk full), OSError or HomeBusyError.
    """
    _replace_foreign(home, say)
    try:
        return Index(home.index_path, busy_timeout_s)
    except IndexBrokenError as error:
        with home.lock():
            with suppress(IndexBrokenError):
                return Index(home.index_path, busy_timeout_s)  # somebody else mended it meanwhile
            _set_aside(home, error, say)
            return Index(home.index_path, busy_timeout_s)


def _replace_foreign(home: Home, say: Callable[[str], None]) -> None:
    """Remove an index that another user made in our home, and keeps to himself: it can be built again."""
    files = [Path(f"{home.index_path}{suffix}") for suffix in ("", "-wal", "-shm")]
    owners = {owner for path in files if (owner := foreign_owner(path)) is not None}
    if owners and foreign_owner(home.index_path.parent) is None:
        say(f"the index belonged to user {min(owners)}; it is built anew.")
        for path in reversed(files):  # as in `_set_aside`
            path.unlink(missing_ok=True)


def reopen_if_replaced(home: Home, index: Index, say: Callable[[str], None]) -> bool:
    """Connect `index` to the file that took the place of its own, if one did. True: it did, and may lack any run.

    Raises as `open_index` does.
    """
    if not index.is_replaced():
        return False
    index.reopen(lambda busy_timeout_s: open_index(home, busy_timeout_s, say))
    return True


def set_aside_if_damaged(home: Home, index: Index, error: sqlite3.DatabaseError, say: Callable[[str], None]) -> bool:
    """Make way for a new index when this error, met with `index`, says that the file is damaged; whether it did.

    Opening a database shows only that its first page is sound. False, too, where that cannot be done just now. The
    caller closes `index`, and may open another.
    """
    if type(error) is not sqlite3.DatabaseError:  # the others: it is busy, the disk is full, or a bug of ours
        return False
    with suppress(OSError, HomeBusyError), home.lock():
        if not index.is_replaced():
            _set_aside(home, error, say)
        return True
    return False


def _set_aside(home: Home, error: Exception, say: Callable[[str], None]) -> None:
    """To be called with the home locked. Raises OSError."""
    for suffix in ("-wal", "-shm"):
        # first: a new database must never find the old one's log
        Path(f"{home.index_path}{suffix}").unlink(missing_ok=True)
    say(f"the index cannot be used ({error}): it is kept as {set_aside(home.index_path)} and rebuilt.")
