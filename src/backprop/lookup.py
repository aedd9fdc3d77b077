"""How whoever looks gets at runs: the index in step with what is on disk, and a run by the word that names it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backprop.errors import ConfigError, NoSuchRunError, UsageError
from backprop.records import Checkpoint, RunView
from backprop.store.index import Index
from backprop.store.rundir import LAST, Home, HomeBusyError


@contextmanager
def caught_up(home: Home, say: Callable[[str], None]) -> Iterator[Index]:
    """The index of a home, in step with what is on disk. Raises ConfigError.

    say: takes what the user should hear on the way: an index that was damaged, an orphan that is ended.
    """
    import sqlite3

    from backprop.store.index import set_aside_if_damaged  # not every command that uses this module looks

    index = None
    try:
        try:
            index = _in_step(home, say)
        except OSError as error:
            raise home.unusable(error) from error
        yield index
    except HomeBusyError as error:
        raise ConfigError(f"another process has locked {error} for too long; try again.") from error
    except sqlite3.OperationalError as error:
        raise ConfigError(f"cannot use the index {home.index_path}: {error}.") from error
    except sqlite3.DatabaseError as error:
        if index is not None and set_aside_if_damaged(home, index, error, say):
            raise ConfigError("the index was damaged, and is rebuilt at the next look; try again.") from error
        raise ConfigError(f"the index {home.index_path} is damaged ({error}): backprop reindex") from error
    finally:
        if index is not None:
            index.close()


def _in_step(home: Home, say: Callable[[str], None]) -> Index:
    """The index, opened and brought in step; once more, with a new one, when it turns out to be damaged."""
    import sqlite3

    from backprop import recovery
    from backprop.store.index import set_aside_if_damaged

    index = recovery.open_home(home, say)
    try:
        recovery.catch_up(home, index, say)
    except sqlite3.DatabaseError as error:
        is_new = set_aside_if_damaged(home, index, error, say)
        index.close()
        if not is_new:
            raise
    except BaseException:
        index.close()
        raise
    else:
        return index
    index = recovery.open_home(home, say)
    try:
        recovery.catch_up(home, index, say)
    except BaseException:
        index.close()
        raise
    return index


def find_run(index: Index, word: str) -> RunView:
    """The run that `word` names. Raises NoSuchRunError, or UsageError when it names several."""
    ids = [newest] if word == LAST and (newest := index.newest_id()) else []
    ids = ids or index.ids_beginning(word)
    if ids != [word]:  # not an exact id: a name comes before a beginning
        ids = index.ids_named(word) or ids
    if len(ids) > 1:
        raise UsageError(f"{word!r} names several runs: {', '.join(ids)}. Use the id of one.")
    view = index.get(ids[0]) if ids else None
    if view is None:
        raise NoSuchRunError(f"no run answers to {word!r}; backprop list shows them.")
    return view


def is_valid(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint looks whole, as far as can be told without reading all of it."""
    from backprop import checkpoints

    return checkpoints.problem(checkpoint.path, checkpoint.measure, thorough=False) is None
