"""index.db: everything the views read, in SQLite; a cache that can be rebuilt from the run directories.

A batch of trainer output is stored in the same transaction that advances the offset it was read up to, and only if
no other process has advanced it (compare and swap). So each line counts exactly once, whichever process reads it and
however often one crashes. What is read from the index is in `store/index_reader.py`.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from backprop.records import Annotations, Checkpoint, Run, Source
from backprop.store import params_writer, run_writer
from backprop.store.curve_writer import CurveWriter
from backprop.store.files import foreign_owner
from backprop.store.home import Home, HomeBusyError, set_aside
from backprop.store.index_reader import IndexReader
from backprop.store.journal.fold import FoldedRun
from backprop.store.metric_names import loss_rank
from backprop.store.output.line_times import Timeline
from backprop.store.output.protocol import Batch, ParamsGiven
from backprop.store.rundir import NO_ROOM
from backprop.store.usage.blocks import Total

SCHEMA_VERSION = 11
_SCHEMA_PATH = Path(__file__).with_name("schema.sql")
_LOOK_AGAIN_S = 0.005  # a schema takes some milliseconds
_PATIENCE = 6  # times the busy timeout: SQLite's turns go to whoever asks at the right moment, not to who waits most

# of SQLite, which has none of its own for a shared-memory file that finds no room; its codes come with Python 3.11
_NO_ROOM_WORDS = frozenset(
    {
        "database or disk is full",
        "disk I/O error",
        "unable to open database file",
        "attempt to write a readonly database",
    }
)

_OF_A_RUN = (
    "records",
    "packed",
    "annotations",
    "ends",
    "tails",
    "metrics",
    "outlines",
    "points",
    "goals",
    "params",
    "checkpoints",
    "notes",
    "usage",
)

_encode = msgspec.json.Encoder().encode


class SourceSizes(NamedTuple):
    """How much the sessions of a run have written, from one number on."""

    since: int
    bytes: Mapping[tuple[int, Source], int]


class IndexBrokenError(Exception):
    """The file is not a usable index: damaged, of another version, or replaced under our feet. Rebuild it."""


class Index(IndexReader):
    """A connection to one index file. Not for use from several threads."""

    def __init__(self, path: Path, busy_timeout_s: float, *, is_in_memory: bool = False) -> None:
        """Open, creating the schema in an empty file. Raises IndexBrokenError or sqlite3.OperationalError (busy, full).

        busy_timeout_s: how long a statement waits for another process's transaction. is_in_memory: an empty one, of
        this process alone, in the place of the file.
        """
        self.is_in_memory = is_in_memory
        self._busy_timeout_s = busy_timeout_s
        self.is_patient = False  # wait for several busy timeouts as long as others write: then none of them hangs
        # of the owner alone, and so are the files beside it, which SQLite gives the same mode. Never one that is there:
        # to close a file takes the locks of this process's other connections to it
        if not is_in_memory:
            with suppress(OSError):  # what is wrong is SQLite's to say
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(
            ":memory:" if is_in_memory else path,
            timeout=busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
        )
        super().__init__(path, db)
        self._db.create_function("casefold", 1, str.casefold, deterministic=True)  # SQLite's lower() knows ASCII only
        self._db.create_function("loss_rank", 1, loss_rank, deterministic=True)
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
        self._switch_to_wal()
        # no fsync at commit: after a power loss the last transactions may be missing, whole, and are read again
        self._db.execute("PRAGMA synchronous = NORMAL")
        if version == 0:
            with self._transaction():
                if self._db.execute("PRAGMA user_version").fetchone()[0] == 0:
                    for statement in _SCHEMA_PATH.read_text().split(";\n"):
                        self._db.execute(statement)
                    self._db.execute(
                        "INSERT INTO facts VALUES ('generation', ?)", (int.from_bytes(os.urandom(3), "big"),)
                    )
                    self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _switch_to_wal(self) -> None:
        """Wait while another process makes the same new file: SQLite fails at once there, whatever its timeout."""
        patient_until = time.monotonic() + self._busy_timeout_s
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if not is_locked(error) or time.monotonic() >= patient_until:
                    raise
                time.sleep(_LOOK_AGAIN_S)
            else:
                return

    def close(self) -> None:
        """Close the file. Other methods raise sqlite3.ProgrammingError from then on."""
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
        self._begin()
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _begin(self) -> None:
        """Take SQLite's lock. Raises sqlite3.OperationalError when that takes too long: see `is_patient`."""
        patient_until = time.monotonic() + _PATIENCE * self._busy_timeout_s if self.is_patient else 0.0
        while True:
            seen = self._commits_of_others() if self.is_patient else 0
            try:
                self._db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if not is_locked(error) or time.monotonic() >= patient_until or self._commits_of_others() == seen:
                    raise
            else:
                return

    def _commits_of_others(self) -> int:
        """A number that changes with each transaction of another connection."""
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def wait_for_turn(self) -> None:
        """Wait until no other process writes. Raises sqlite3.OperationalError when that takes too long."""
        with self._transaction():
            pass

    def put_run(
        self, run: Run, journal_size: int, checksum_of: Callable[[bytes, bytes], int | None] = lambda *_: None
    ) -> None:
        """Store the state from the journal, unless more of the journal has been stored already.

        A run whose journal has grown is not whole any more: see `set_whole`.
        checksum_of: see `FoldedRun`; None for a state that is not exactly what the journal gives.
        """
        with self._transaction():
            stored_size = self.journal_size(run.spec.id)
            if stored_size is None or journal_size >= stored_size:
                run_writer.put_state(self._db, run, journal_size, checksum_of)

    def annotations_stamp(self, run_id: str) -> int:
        """Which files of annotations are stored: see `annotations.stamp`."""
        row = self._db.execute("SELECT stamp FROM annotations WHERE run_id = ?", (run_id,)).fetchone()
        return row[0] if row else 0

    def put_annotations(self, run_id: str, known: int, stamp: int, annotations: Annotations) -> bool:
        """Store what users say about a run; False when another process has since the stamp `known` was read."""
        with self._transaction():
            if self.annotations_stamp(run_id) != known:
                return False
            stored = self._db.execute(
                "UPDATE runs SET group_name = ?, tags = ?, parent = ?, decision = ?, is_archived = ? WHERE id = ?",
                (
                    annotations.group,
                    "".join(f"\n{tag}\n" for tag in annotations.tags).casefold(),
                    annotations.parent,
                    annotations.decision and annotations.decision.value,
                    annotations.is_archived,
                    run_id,
                ),
            )
            if stored.rowcount:
                self._db.execute(
                    "INSERT OR REPLACE INTO annotations VALUES (?, ?, ?)", (run_id, stamp, _encode(annotations))
                )
            return True

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

    def set_whole(self, run_id: str, journal_size: int, sizes: SourceSizes, whole_before: int) -> bool:
        """Say that all there is of a run is here; False where it is not.

        journal_size: bytes of the journal of a run that has ended. sizes: of its sessions' sources. What the index has
        of a run holds for that file only, not for one that replaces it. whole_before: nobody need compare again what
        the sessions before this number have written.
        """
        with self._transaction():
            if not self.has_output(run_id, sizes):
                return False
            done = self._db.execute(
                "UPDATE runs SET is_whole = 1, whole_before = max(whole_before, ?) WHERE id = ? AND journal_size = ?",
                (whole_before, run_id, journal_size),
            )
            return done.rowcount == 1

    def whole_before(self, run_id: str) -> int:
        """All output of the sessions before this number is here."""
        row = self._db.execute("SELECT whole_before FROM runs WHERE id = ?", (run_id,)).fetchone()
        return row[0] if row else 1

    def folded(self, run_id: str) -> FoldedRun | None:
        """The stored state of a run, from which to continue reading its journal; None where it cannot be used so."""
        row = self._db.execute(
            "SELECT record, data, journal_size, runs.checksum FROM runs JOIN records ON records.run_id = id"
            " LEFT JOIN packed ON packed.run_id = id WHERE id = ? AND runs.checksum IS NOT NULL",
            (run_id,),
        ).fetchone()
        if row is None:
            return None
        record, packed, *rest = row
        return FoldedRun(record, packed or b"", *rest)

    def has_output(self, run_id: str, sizes: SourceSizes) -> bool:
        """Whether at least this many bytes of each source of its sessions are stored, and all before these."""
        stored = self.offsets(run_id, sizes.since)
        is_whole_before = sizes.since <= self.whole_before(run_id)
        return is_whole_before and all(stored.get(key, 0) >= size for key, size in sizes.bytes.items())

    def offsets(self, run_id: str, since: int) -> dict[tuple[int, Source], int]:
        """How many bytes are stored of each source of its sessions from this number on."""
        rows = self._db.execute(
            "SELECT session, source, offset FROM tails WHERE run_id = ? AND session >= ?", (run_id, since)
        )
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
        """Store what bytes `start` to `end` of the session's source contain; False if another process already did.

        checkpoints: (offset of the report, checkpoint as measured). timeline: when it was written; None: at once.
        earlier_bytes: what must be stored of the sessions before, or nothing is: points are kept in the order they
        come, and the index may have been emptied since the caller looked. None: that does not matter.
        """
        with self._transaction():
            if not self._move_tail(run_id, session, source, start, end, earlier_bytes):
                return False
            CurveWriter(self._db).add(run_id, session, batch, timeline or Timeline())
            run_writer.put_steps(self._db, run_id, session, batch)
            for seen in batch.params_seen:
                params_writer.put_seen(self._db, run_id, session, seen)
            params_writer.put(self._db, run_id, session, ParamsGiven(params=batch.params))
            run_writer.put_goals(self._db, run_id, batch.goals, is_asked=False)
            self._db.executemany(
                "INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?, ?, ?)",
                [(run_id, session, source.value, offset, _encode(checkpoint)) for offset, checkpoint in checkpoints],
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?, ?, ?)",
                [(run_id, session, source.value, offset, note.kind, note.text) for offset, note in batch.notes],
            )
        return True

    def add_usage(
        self, run_id: str, session: int, start: int, end: int, totals: Mapping[str, Total], *, earlier_bytes: int | None
    ) -> bool:
        """Store what bytes `start` to `end` of the session's usage file contain; as `add_output`."""
        with self._transaction():
            if not self._move_tail(run_id, session, Source.USAGE, start, end, earlier_bytes):
                return False
            self._db.executemany(
                "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                " seconds = seconds + excluded.seconds, total = total + excluded.total,"
                " peak = max(peak, excluded.peak), points = points + excluded.points, last = excluded.last",
                [(run_id, name, *total) for name, total in totals.items()],
            )
        return True

    def _move_tail(
        self, run_id: str, session: int, source: Source, start: int, end: int, earlier_bytes: int | None
    ) -> bool:
        """Advance how far a source is stored; False when it is not stored up to `start`: see `add_output`."""
        if self.offset(run_id, session, source) != start or self.journal_size(run_id) is None:
            return False
        if earlier_bytes is not None and self.stored_bytes(run_id, before_session=session) != earlier_bytes:
            return False
        self._db.execute("INSERT OR REPLACE INTO tails VALUES (?, ?, ?, ?)", (run_id, session, source.value, end))
        return True

    def remove(self, run_id: str) -> None:
        """Forget a run."""
        with self._transaction():
            self._db.execute("DELETE FROM facts WHERE name = 'seen_folder_ns'")
            self._db.execute("DELETE FROM runs WHERE id = ?", (run_id,))
            for table in _OF_A_RUN:
                self._db.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))  # noqa: S608  our own names

    def seen_folder_ns(self) -> int | None:
        """The modification time of the runs folder when all that was in it was here."""
        row = self._db.execute("SELECT value FROM facts WHERE name = 'seen_folder_ns'").fetchone()
        return row[0] if row else None

    def set_seen_folder_ns(self, modified_ns: int) -> None:
        """Record the modification time that `seen_folder_ns` returns: take it before the folder is read."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO facts VALUES ('seen_folder_ns', ?)", (modified_ns,))

    def is_snapshot_due(self) -> bool:
        """Whether runs were stored without their entries in experiments.json."""
        return self.snapshot_due() not in {0, self._fact("snapshot_written")}

    def snapshot_due(self) -> int:
        """How often experiments.json was marked as incomplete: see `set_snapshot_written`."""
        return self._fact("snapshot_due")

    def set_snapshot_due(self) -> None:
        """Mark that experiments.json lacks the entry of a run: it must be rebuilt."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO facts SELECT 'snapshot_due', coalesce(max(value), 0) + 1 FROM facts"
                " WHERE name IN ('snapshot_due', 'snapshot_written')"
            )

    def set_snapshot_written(self, due: int) -> None:
        """due: what `snapshot_due` gave before the runs were read; what was due since is due still."""
        with self._transaction():
            self._db.execute("INSERT OR REPLACE INTO facts VALUES ('snapshot_written', ?)", (due,))


def is_locked(error: Exception) -> bool:
    """Whether SQLite failed because another process has been writing for too long: it may hang."""
    return isinstance(error, sqlite3.OperationalError) and str(error) == "database is locked"


def lacks_room(error: Exception | None) -> bool:
    """Whether SQLite or the system failed because the disk is full, or read-only."""
    if isinstance(error, sqlite3.OperationalError):
        return str(error) in _NO_ROOM_WORDS
    return isinstance(error, OSError) and error.errno in NO_ROOM


def open_index(home: Home, busy_timeout_s: float, say: Callable[[str], None]) -> Index:
    """The index of a home. One that is damaged is set aside with its date and a new one begun, saying so.

    A new index is empty: `indexing.catch_up` fills it from the run directories.
    busy_timeout_s: how long to wait for another process's transaction; short for a supervisor.
    Raises sqlite3.OperationalError (busy, disk full), OSError or HomeBusyError.
    """
    _replace_foreign(home, say)
    try:
        return Index(home.index_path, busy_timeout_s)
    except IndexBrokenError as error:
        with home.lock():
            with suppress(IndexBrokenError):
                return Index(home.index_path, busy_timeout_s)  # another process has repaired it
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
