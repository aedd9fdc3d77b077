-- The index: a cache over the run directories that every view reads. It can be deleted at any time.
-- Instants are seconds since 1970 (UTC). A REAL column holds NaN as NULL, because SQLite has no NaN.

-- One run: what a table shows, sorts by and searches. Narrow, so that a hundred thousand are looked through at once.
CREATE TABLE runs (
    id           TEXT PRIMARY KEY,
    name         TEXT,
    status       TEXT NOT NULL,
    created_at   REAL NOT NULL,
    elapsed_s    REAL,             -- of all ended sessions
    journal_size INTEGER NOT NULL, -- bytes of journal.jsonl that the record is folded from
    words        TEXT NOT NULL,    -- id, name and command in lower case: what a search looks through
    -- three kinds of steps, each with its total and what one is; views show the first kind that there is
    last_step     INTEGER,         -- reported
    total_steps   INTEGER,
    unit          TEXT,
    counted_step  INTEGER,         -- counted by us, for a script that reports none
    counted_total INTEGER,
    counted_unit  TEXT,
    printed_step  INTEGER,         -- logged to a tracker, or printed for people
    printed_total INTEGER,
    printed_unit  TEXT,
    tracked_session INTEGER,       -- the last that logged steps to a tracker: what it printed does not count
    note_count   INTEGER NOT NULL DEFAULT 0,
    metric_count INTEGER NOT NULL DEFAULT 0,
    lost_count   INTEGER NOT NULL DEFAULT 0, -- how often points of a metric beyond the limit were left out
    commit_id    TEXT,             -- of what was executed last
    script       TEXT,             -- absolute; NULL for a command
    -- what users say about it
    group_name   TEXT,
    tags         TEXT NOT NULL DEFAULT '', -- each between two newlines
    parent       TEXT,             -- the id of a run
    decision     TEXT,
    is_archived  INTEGER NOT NULL DEFAULT 0,
    is_whole     INTEGER NOT NULL DEFAULT 0, -- it has ended, and all of its journal and its output are here
    whole_before INTEGER NOT NULL DEFAULT 1, -- and all output of the sessions before this number, even if it has not
    checksum     INTEGER           -- of the record and the journal that it is folded from; NULL: it is of more than that
);
CREATE INDEX runs_by_age ON runs (created_at DESC, id);
CREATE INDEX runs_by_name ON runs (name);
CREATE INDEX runs_by_commit ON runs (commit_id) WHERE commit_id IS NOT NULL;
CREATE INDEX runs_by_script ON runs (script, created_at DESC) WHERE script IS NOT NULL;
CREATE INDEX runs_behind ON runs (id) WHERE NOT is_whole;

-- What the journal tells of a run.
CREATE TABLE records (
    run_id TEXT PRIMARY KEY,
    record BLOB NOT NULL -- a Run as JSON
);

-- Of a run of many sessions, all but the latest.
CREATE TABLE packed (
    run_id   TEXT PRIMARY KEY,
    checksum INTEGER NOT NULL, -- of the data: it changes seldom, and is written only then
    data     BLOB NOT NULL     -- see `Run.split`
);

-- What users say about a run.
CREATE TABLE annotations (
    run_id TEXT PRIMARY KEY,
    stamp  INTEGER NOT NULL, -- of the names of the files that the record is folded from
    record BLOB NOT NULL     -- Annotations as JSON
);

-- Which run has ended, numbered in the order in which that came here. One that ends again gets another number.
CREATE TABLE ends (
    number   INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id   TEXT NOT NULL UNIQUE,
    sessions INTEGER NOT NULL, -- how many there were
    ended_at REAL
);

-- How far each source (a Source) of a session has been read. Moves in the transaction that stores what was read.
CREATE TABLE tails (
    run_id  TEXT NOT NULL,
    session INTEGER NOT NULL,
    source  TEXT NOT NULL,
    offset  INTEGER NOT NULL,
    PRIMARY KEY (run_id, session, source)
) WITHOUT ROWID;

-- What every metric came to: a summary of all its points.
CREATE TABLE metrics (
    run_id        TEXT NOT NULL,
    name          TEXT NOT NULL,
    total         INTEGER NOT NULL, -- points
    missing       INTEGER NOT NULL,
    low_step      REAL NOT NULL,
    high_step     REAL NOT NULL,
    first_s       REAL NOT NULL,
    last_s        REAL NOT NULL,
    last          REAL,
    last_step     REAL NOT NULL,
    least         REAL,
    least_step    REAL,
    least_s       REAL,
    greatest      REAL,
    greatest_step REAL,
    greatest_s    REAL,
    origin        INTEGER NOT NULL, -- the greatest of all points (an Origin)
    session       INTEGER NOT NULL, -- of the newest points
    newest_origin INTEGER NOT NULL, -- that of all points of this session
    PRIMARY KEY (run_id, name)
) WITHOUT ROWID;

-- The curves, in chunks of at most 512 points in the order they were written. A chunk's summary lies apart from its
-- points: a curve of ten million is drawn from twenty thousand of them.
CREATE TABLE outlines (
    run_id        TEXT NOT NULL,
    name          TEXT NOT NULL,
    number        INTEGER NOT NULL, -- of the chunk, from 0
    session       INTEGER NOT NULL,
    total         INTEGER NOT NULL, -- points
    missing       INTEGER NOT NULL,
    low_step      REAL NOT NULL,
    high_step     REAL NOT NULL,
    first_s       REAL NOT NULL,
    last_s        REAL NOT NULL,
    last          REAL,
    last_step     REAL NOT NULL,
    least         REAL,
    least_step    REAL,
    least_s       REAL,
    greatest      REAL,
    greatest_step REAL,
    greatest_s    REAL,
    PRIMARY KEY (run_id, name, number)
) WITHOUT ROWID;

CREATE TABLE points (
    run_id TEXT NOT NULL,
    name   TEXT NOT NULL,
    number INTEGER NOT NULL, -- of the chunk
    steps  BLOB NOT NULL,    -- float64
    vals   BLOB NOT NULL,    -- float64
    times  BLOB NOT NULL,    -- float32: seconds of training since the session began
    PRIMARY KEY (run_id, name, number)
);

-- What a run took of the machine: see usage/quantities.py for the names. Its curves are read from its own files.
CREATE TABLE usage (
    run_id  TEXT NOT NULL,
    name    TEXT NOT NULL,
    seconds REAL NOT NULL, -- for which it is known
    total   REAL NOT NULL, -- of value times seconds
    peak    REAL NOT NULL,
    points  INTEGER NOT NULL,
    last    REAL NOT NULL,
    PRIMARY KEY (run_id, name)
) WITHOUT ROWID;

CREATE TABLE params (
    run_id     TEXT NOT NULL,
    name       TEXT NOT NULL,
    value      BLOB NOT NULL,    -- JSON
    number     REAL,             -- the value, if it is one
    text       TEXT,             -- the value in lower case, if it is a text or a truth
    origin     INTEGER NOT NULL, -- a ParamOrigin
    session    INTEGER NOT NULL, -- that it was seen in; 0: no session's
    is_default INTEGER NOT NULL,
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

-- Which values of a metric are better, for metrics of which somebody said it.
CREATE TABLE goals (
    run_id   TEXT NOT NULL,
    name     TEXT NOT NULL,
    goal     TEXT NOT NULL,    -- a Goal
    is_asked INTEGER NOT NULL, -- by the user when the run was made, which prevails over what its script says
    PRIMARY KEY (run_id, name)
) WITHOUT ROWID;
CREATE INDEX goals_by_name ON goals (name);

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
