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

    from backprop import recovery  # not every command that uses this module looks

    index = None
    try:
        index = recovery.open_home(home, say)
        recovery.catch_up(home, index, say)
        yield index
    except HomeBusyError as error:
        raise ConfigError(f"another process has locked {error} for too long; try again.") from error
    except sqlite3.OperationalError as error:
        raise ConfigError(f"cannot use the index {home.index_path}: {error}.") from error
    except sqlite3.DatabaseError as error:
        raise ConfigError(f"the index {home.index_path} is damaged ({error}): backprop reindex") from error
    finally:
        if index is not None:
            index.close()


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
