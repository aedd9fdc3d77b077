-- The index: a cache over the run directories that every view reads. It can be deleted at any time.
-- Instants are seconds since 1970 (UTC). A REAL column holds NaN as NULL, because SQLite has no NaN.

-- One run: what its journal tells, and a summary of what its trainer said.
CREATE TABLE runs (
    id           TEXT PRIMARY KEY,
    name         TEXT,
    status       TEXT NOT NULL,
    created_at   REAL NOT NULL,
    elapsed_s    REAL,             -- of all ended sessions
    journal_size INTEGER NOT NULL, -- bytes of journal.jsonl that `record` is folded from
    record       BLOB NOT NULL,    -- a Run as JSON
    last_step    INTEGER,
    counted_step INTEGER,          -- optimizer steps, for a script that reports none
    total_steps  INTEGER,
    note_count   INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX runs_by_age ON runs (created_at DESC, id);
CREATE INDEX runs_by_name ON runs (name);

-- How far each source (a Source) of a session has been read. Moves in the transaction that stores what was read.
CREATE TABLE tails (
    run_id  TEXT NOT NULL,
    session INTEGER NOT NULL,
    source  TEXT NOT NULL,
    offset  INTEGER NOT NULL,
    PRIMARY KEY (run_id, session, source)
) WITHOUT ROWID;

-- The newest value of every metric.
CREATE TABLE metrics (
    run_id     TEXT NOT NULL,
    name       TEXT NOT NULL,
    last_value REAL,
    count      INTEGER NOT NULL,
    PRIMARY KEY (run_id, name)
) WITHOUT ROWID;

-- The curves, in chunks of float64 in the order they were written: a point costs 16 bytes, and a run with ten
-- million points has a few thousand rows.
CREATE TABLE points (
    run_id    TEXT NOT NULL,
    name      TEXT NOT NULL,
    number    INTEGER NOT NULL, -- of the chunk, from 0
    session   INTEGER NOT NULL,
    count     INTEGER NOT NULL,
    steps     BLOB NOT NULL,
    vals      BLOB NOT NULL,
    PRIMARY KEY (run_id, name, number)
);

CREATE TABLE params (
    run_id TEXT NOT NULL,
    name   TEXT NOT NULL,
    value  BLOB NOT NULL, -- JSON
    PRIMARY KEY (run_id, name)
) WITHOUT ROWID;

-- Reported checkpoints. `offset`: of the report in the session's source, so that it is stored once.
CREATE TABLE checkpoints (
    run_id  TEXT NOT NULL,
    session INTEGER NOT NULL,
    source  TEXT NOT NULL,
    offset  INTEGER NOT NULL,
    record  BLOB NOT NULL, -- a Checkpoint as JSON
    PRIMARY KEY (run_id, session, source, offset)
) WITHOUT ROWID;

CREATE TABLE notes (
    run_id  TEXT NOT NULL,
    session INTEGER NOT NULL,
    source  TEXT NOT NULL,
    offset  INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    text    TEXT NOT NULL,
    PRIMARY KEY (run_id, session, source, offset)
) WITHOUT ROWID;

-- What is known about the index itself.
CREATE TABLE facts (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
