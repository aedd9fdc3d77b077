"""Which runs have ended since a caller asked last, each once: what `wait --any` is made of.

The index numbers the ends of runs in the order in which they come to it. A cursor is such a number, and which index
it is of: one that was rebuilt counts anew.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from backprop.errors import UsageError
from backprop.lifecycle import indexing
from backprop.records import RunView
from backprop.store.home import Home
from backprop.store.index import Index

_CURSOR = re.compile(r"([0-9a-f]{1,8})\.(\d{1,18})")


class EndStatus(Enum):
    """What a recorded end of a run amounts to now."""

    ENDED = "ended"
    NO_NEWS = "no news"  # nobody asks for it, or it goes on: its next end has a number of its own
    UNDECIDED = "undecided"  # its process has not let go of it: it may begin another session


class EndedRuns(NamedTuple):
    """What has ended, in this order; up to which number that is decided; and of which runs it is not yet."""

    ids: list[str]
    number: int
    undecided: list[str]


def take(ends: Sequence[tuple[int, str]], after: int, standing: Callable[[str], EndStatus]) -> EndedRuns:
    """What has ended of these ends, each with its number in ascending order, all greater than `after`.

    Stops before the first that is not decided, so that the next call begins with it.
    """
    ids: list[str] = []
    for place, (number, run_id) in enumerate(ends):
        found = standing(run_id)
        if found is EndStatus.UNDECIDED:
            return EndedRuns(ids, after, [run_id for _, run_id in ends[place:]])
        after = number
        if found is EndStatus.ENDED:
            ids.append(run_id)
    return EndedRuns(ids, after, [])


def since(
    home: Home, index: Index, after: int, choose: Callable[[], Mapping[str, RunView]], say: Callable[[str], None]
) -> tuple[EndedRuns, Mapping[str, RunView]]:
    """The chosen runs that have ended since that number; and all chosen ones."""
    # the ends before the runs: by runs that were read earlier, one that has ended in between would still be active, and
    # its end be passed over
    ends = index.ends_after(after)
    chosen = choose()

    def standing(run_id: str) -> EndStatus:
        view = chosen.get(run_id)
        if view is None or not view.run.status.is_final:
            return EndStatus.NO_NEWS
        if not home.rundir(run_id).path.exists():
            return EndStatus.ENDED
        is_held = indexing.refresh(home, index, home.rundir(run_id), say)
        return EndStatus.UNDECIDED if is_held else EndStatus.ENDED

    found = take(ends, after, standing)
    newer = index.ends_after(ends[-1][0] if ends else after)
    return found._replace(undecided=[*found.undecided, *(run_id for _, run_id in newer)]), chosen


def cursor(index: Index, number: int) -> str:
    """A word that stands for this number, for a later call."""
    return f"{index.generation:x}.{number}"


def number_of(index: Index, word: str) -> int:
    """The number that a cursor stands for. Raises UsageError for one of another index, or none at all."""
    found = _CURSOR.fullmatch(word)
    if found is None:
        raise UsageError(f"--since {word!r}: expected the cursor that 'wait --any' printed last.")
    if int(found[1], 16) != index.generation or int(found[2]) > index.last_end():
        raise UsageError(
            f"--since {word}: this cursor is of another home or machine, or of before the index was rebuilt. "
            "Begin without --since."
        )
    return int(found[2])
