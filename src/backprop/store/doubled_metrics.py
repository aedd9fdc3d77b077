"""A metric that a session has in several ways, kept once: reported before logged to a tracker before printed.

A sampled loss is kept only while the run has no other curve of a training loss, so that none mixes two kinds of loss.
One point is no curve, but it does take the place of a sampled loss of the same name.
The sources of a session are read in any order, so what is stored already may have to go again.
"""

import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache, reduce

from backprop.records import Origin
from backprop.store.chunk_summary import ChunkSummary
from backprop.store.metric_names import has_loss_curve, is_training_loss, replaced_samples
from backprop.store.output.protocol import Batch, Series

_SEPARATOR = re.compile(r"[/_]")
_OUTLINE = ", ".join(ChunkSummary._fields)
_SET = ", ".join(f"{field} = ?" for field in ChunkSummary._fields)


def resolve(
    db: sqlite3.Connection, run_id: str, session: int, batch: Batch
) -> Iterator[tuple[Origin, Mapping[str, Series]]]:
    """The series of a batch that are to be stored, by origin. Removes the points that these replace, in a transaction.

    To be consumed one by one: what comes first decides on what follows.
    """
    if batch.series:
        counts = {name: len(points.steps) for name, points in batch.series.items() if is_training_loss(name)}
        if counts and _replace_samples(db, run_id, counts):
            _remove_sampled(db, run_id, None)
        yield batch.origin, _resolved(db, run_id, session, batch)
    if batch.sampled and not has_loss_curve(_other_losses(db, run_id), batch.sampled):
        replaced = replaced_samples(batch.sampled)
        _remove_sampled(db, run_id, replaced)
        yield Origin.SAMPLED, {name: points for name, points in batch.sampled.items() if name not in replaced}


def _resolved(db: sqlite3.Connection, run_id: str, session: int, batch: Batch) -> Mapping[str, Series]:
    origin = batch.origin
    others = db.execute(
        "SELECT name, newest_origin FROM metrics WHERE run_id = ? AND session = ? AND newest_origin NOT IN (?, ?)",
        (run_id, session, origin, Origin.SAMPLED),
    ).fetchall()
    own = spellings(batch.series)
    for name, other in others:
        if other < origin and is_doubled(name, own):
            _remove(db, run_id, session, name)
    greater = spellings(name for name, other in others if other > origin)
    return {name: points for name, points in batch.series.items() if not is_doubled(name, greater)}


def spellings(names: Iterable[str]) -> set[str]:
    """What `is_doubled` compares of these names."""
    return set(map(_spelling, names))


def is_doubled(name: str, greater: AbstractSet[str]) -> bool:
    """Whether a metric is one of those of greater origin, whose spellings are given.

    Trainer reports `loss` and `eval_loss`, and logs them to trackers as `train/loss` and `eval/loss`. Scripts print
    `train loss` and log `Loss/train`.
    """
    return not greater.isdisjoint({_spelling(name), _spelling(name.removeprefix("train/"))})


@lru_cache(maxsize=10_000)
def _spelling(name: str) -> str:
    """The words of a name in alphabetical order, in small letters."""
    return " ".join(sorted(_SEPARATOR.split(name.lower())))


def _remove(db: sqlite3.Connection, run_id: str, session: int, name: str) -> None:
    """Remove the points of one session."""
    db.execute(
        "DELETE FROM points WHERE run_id = ? AND name = ? AND number IN"
        " (SELECT number FROM outlines WHERE run_id = ? AND name = ? AND session = ?)",
        (run_id, name, run_id, name, session),
    )
    db.execute("DELETE FROM outlines WHERE run_id = ? AND name = ? AND session = ?", (run_id, name, session))
    rows = db.execute(
        f"SELECT {_OUTLINE} FROM outlines WHERE run_id = ? AND name = ? ORDER BY number",  # noqa: S608  our own columns
        (run_id, name),
    ).fetchall()
    if rows:
        whole = reduce(ChunkSummary.joined, (ChunkSummary(*row) for row in rows))
        db.execute(
            f"UPDATE metrics SET session = 0, {_SET} WHERE run_id = ? AND name = ?",  # noqa: S608
            (*whole, run_id, name),
        )
    else:
        db.execute("DELETE FROM metrics WHERE run_id = ? AND name = ?", (run_id, name))
        db.execute("UPDATE runs SET metric_count = metric_count - 1 WHERE id = ?", (run_id,))


def _replace_samples(db: sqlite3.Connection, run_id: str, counts: Mapping[str, int]) -> bool:
    """Whether points that are about to be stored, by training loss, take the place of the sampled ones."""
    before = _other_losses(db, run_id)
    return has_loss_curve({name: before.get(name, 0) + count for name, count in counts.items()}, _sampled(db, run_id))


def _other_losses(db: sqlite3.Connection, run_id: str) -> Mapping[str, int]:
    """The training losses that are not sampled -> number of points."""
    rows = db.execute("SELECT name, total FROM metrics WHERE run_id = ? AND origin != ?", (run_id, Origin.SAMPLED))
    return {name: total for name, total in rows if is_training_loss(name)}


def _sampled(db: sqlite3.Connection, run_id: str) -> list[str]:
    rows = db.execute("SELECT name FROM metrics WHERE run_id = ? AND origin = ?", (run_id, Origin.SAMPLED))
    return [name for (name,) in rows]


def _remove_sampled(db: sqlite3.Connection, run_id: str, names: Collection[str] | None) -> None:
    """names: those to remove, if they are there; None: all."""
    removed = [name for name in _sampled(db, run_id) if names is None or name in names]
    for name in removed:
        for table in ("metrics", "outlines", "points"):
            db.execute(f"DELETE FROM {table} WHERE run_id = ? AND name = ?", (run_id, name))  # noqa: S608  our own names
    if removed:
        db.execute("UPDATE runs SET metric_count = metric_count - ? WHERE id = ?", (len(removed), run_id))
