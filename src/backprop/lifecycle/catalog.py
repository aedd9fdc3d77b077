"""Access to runs: the index in step with the run directories, and a run by the word that names it."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from backprop.errors import BusyError, ConfigError, NoSuchRunError, UsageError
from backprop.records import Checkpoint, RunView, Status
from backprop.store.files import UnreadableError, foreign_owner
from backprop.store.home import Home, HomeBusyError
from backprop.store.index import Index, set_aside_if_damaged
from backprop.store.journal.fold import fold
from backprop.store.rundir import LAST, RUN_ID


@contextmanager
def caught_up(home: Home, say: Callable[[str], None]) -> Iterator[Index]:
    """The index of a home, in step with what is on disk. Raises ConfigError.

    say: shows messages to the user: an index that was damaged, an orphan that is ended.
    """
    from backprop.lifecycle import indexing  # not every command that uses this module needs it

    with _opened(home, say, indexing.open_caught_up) as index:
        yield index


@contextmanager
def as_it_is(home: Home, say: Callable[[str], None]) -> Iterator[Index]:
    """The same index without a look at any run: see `indexing.refresh`. Raises ConfigError."""
    from backprop.lifecycle import indexing

    with _opened(home, say, indexing.open_as_it_is) as index:
        yield index


@contextmanager
def _opened(
    home: Home, say: Callable[[str], None], open_index: Callable[[Home, Callable[[str], None]], Index]
) -> Iterator[Index]:
    index = None
    try:
        try:
            index = open_index(home, say)
        except OSError as error:
            raise home.unusable(error) from error
        yield index
    except HomeBusyError as error:
        raise ConfigError(f"another process has locked {error} for too long; try again.") from error
    except sqlite3.OperationalError as error:
        raise ConfigError(f"cannot use the index {home.index_path}: {error}.") from error
    except sqlite3.DatabaseError as error:
        if index is not None and set_aside_if_damaged(home, index, error, say):
            raise ConfigError("the index was damaged and will be rebuilt; try again.") from error
        raise ConfigError(f"the index {home.index_path} is damaged ({error}): backprop reindex") from error
    finally:
        if index is not None:
            index.close()


def find_run(home: Home, index: Index, word: str, say: Callable[[str], None]) -> RunView:
    """The run that `word` names. Raises NoSuchRunError, or UsageError when it names several.

    Raises BusyError when it may name a run that is on disk and cannot be brought into the index just now. One whose
    folder is closed to us is unreadable, whatever the index knows of it.
    """
    view = _find_run(home, index, word, say)
    if (owner := foreign_owner(home.rundir(view.run.spec.id).path)) is None:
        return view
    is_known = view.run.status is Status.UNREADABLE
    reason = view.run.reason if is_known else f"its folder belongs to user {owner}"
    run = msgspec.structs.replace(view.run, status=Status.UNREADABLE, reason=reason)
    return msgspec.structs.replace(view, run=run)


def _find_run(home: Home, index: Index, word: str, say: Callable[[str], None]) -> RunView:
    if word != LAST and RUN_ID.fullmatch(word) and (view := index.get(word)) is not None:
        return view
    lacking = _bring_missing(home, index, word, say)
    view = _find_in_index(index, word)
    if lacking:
        raise BusyError(f"{word!r} may name run {min(lacking)}, which cannot be indexed right now; try again.")
    if view is None:
        nothing = "there are no runs yet; start one with: backprop run train.py"
        message = nothing if word == LAST else f"no run named {word!r}; to see all runs: backprop list."
        from backprop.lifecycle import removed_runs

        raise NoSuchRunError(" ".join([message, *removed_runs.sentences(home)]))
    return view


def _bring_missing(home: Home, index: Index, word: str, say: Callable[[str], None]) -> list[str]:
    """Bring into the index what it lacks of the runs on disk that `word` may name; those that it still lacks.

    Another process may be rebuilding the index, and may be killed in the middle.
    """
    from backprop.lifecycle import indexing
    from backprop.store.journal import file as journal

    candidates = indexing.missing_runs(home, index)
    if RUN_ID.fullmatch(word) and os.path.lexists(home.rundir(word).spec_path):
        candidates.add(word)
    lacking = []
    for run_id in candidates:
        rundir = home.rundir(run_id)
        try:
            spec = rundir.read_spec()
            entries, _ = journal.read(rundir.journal_path)
            name = fold(spec, entries).spec.name
        except FileNotFoundError:
            continue  # removed meanwhile
        except (OSError, UnreadableError):
            name = None
        if not (word in {LAST, name} or run_id.startswith(word)):
            continue
        indexing.refresh(home, index, rundir, say)
        if index.get(run_id) is None and rundir.spec_path.exists():
            lacking.append(run_id)
    return lacking


def get_run(home: Home, index: Index, run_id: str, say: Callable[[str], None]) -> RunView:
    """A run that was there a moment ago.

    Raises NoSuchRunError when it was removed, and BusyError as `find_run` does.
    """
    view = index.get(run_id)
    if view is not None:
        return view
    if _bring_missing(home, index, run_id, say):
        raise BusyError(f"run {run_id} cannot be indexed right now; try again.")
    view = index.get(run_id)
    if view is None:
        raise NoSuchRunError(f"run {run_id} was removed.")
    return view


def _find_in_index(index: Index, word: str) -> RunView | None:
    ids = [newest] if word == LAST and (newest := index.newest_id()) else []
    ids = ids or index.ids_beginning(word)
    if ids != [word]:  # not an exact id: a name comes before a beginning
        ids = index.ids_named(word) or ids
    if len(ids) > 1:
        raise UsageError(f"{word!r} matches several runs: {', '.join(ids)}. Use an id.")
    return index.get(ids[0]) if ids else None


def is_valid(checkpoint: Checkpoint) -> bool:
    """See `checkpoints.looks_valid`, which is imported when it is needed."""
    from backprop.store import checkpoints

    return checkpoints.looks_valid(checkpoint)
