"""What a shell completes, straight from the index: words that name runs, and names of metrics.

Nothing is brought up to date for it: a Tab is answered at once, and a run that began a second ago may be missing.
"""

from typing import NamedTuple

from backprop.store.index import Index

_LAST = "\U0010ffff"  # comes after every word that begins so
_NAMES = {
    "groups": "SELECT group_name AS name FROM runs",
    "tags": "SELECT value AS name FROM annotations, json_each(CAST(record AS TEXT), '$.tags')",
    "metrics": "SELECT name FROM metrics WHERE run_id IN (SELECT id FROM runs ORDER BY created_at DESC LIMIT 20)",
}


class RunWord(NamedTuple):
    """A word that names a run, and what it is."""

    word: str
    other: str | None  # its name, where the word is its id, and its id where it is its name
    status: str


def naming_runs(index: Index, beginning: str, statuses: tuple[str, ...], limit: int) -> list[RunWord]:
    """Ids of runs, newest first, then names that only one run has; of each at most `limit`. statuses: empty for all."""
    status = f"status IN ({', '.join('?' * len(statuses))})" if statuses else "1"
    id_range, name_range = ("id >= ? AND id < ?", "name >= ? AND name < ?") if beginning else ("1", "name > ''")
    values = (*((beginning, beginning + _LAST) if beginning else ()), *statuses, limit)
    # by age: all ids may begin alike, and the newest are found soon; where none does, an index is passed through
    by_id = index.rows(
        f"SELECT id, name, status FROM runs INDEXED BY runs_by_age WHERE {id_range} AND {status}"  # noqa: S608  our own words
        " ORDER BY created_at DESC LIMIT ?",
        values,
    )
    by_name = index.rows(
        f"SELECT name, min(id), min(status) FROM runs WHERE {name_range} AND {status}"  # noqa: S608
        " GROUP BY name HAVING count(*) = 1 LIMIT ?",
        values,
    )
    return [RunWord(*row) for row in (*by_id, *by_name)]


def names(index: Index, kind: str, beginning: str, limit: int) -> list[str]:
    """Names that begin so, in order. kind: groups that runs are in, tags that they have, or metrics of the newest."""
    rows = index.rows(
        f"SELECT DISTINCT name FROM ({_NAMES[kind]}) WHERE name >= ? AND name < ? ORDER BY name LIMIT ?",  # noqa: S608
        (beginning, beginning + _LAST, limit),
    )
    return [row[0] for row in rows]
