"""What several commands need: the home, a run by the word the user typed, and a voice."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from backprop.errors import ConfigError, NoSuchRunError, UsageError
from backprop.records import Checkpoint, RunView
from backprop.store.index import Index
from backprop.store.rundir import LAST, Home

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout, and nothing else.")


def say(message: str) -> None:
    """One line to the user, on stderr: stdout carries only what was asked for."""
    print(f"backprop: {message}", file=sys.stderr, flush=True)


@contextmanager
def open_caught_up(home: Home) -> Iterator[Index]:
    """The index of a home, in step with what is on disk. Raises ConfigError."""
    import sqlite3

    from backprop import recovery
    from backprop.store.rundir import HomeBusyError

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


def working_folder() -> Path:
    """The current folder. Raises UsageError when a run could not be recorded as started there."""
    try:
        folder = Path.cwd()
    except FileNotFoundError as error:
        raise UsageError("the current folder has been deleted; go to another one.") from error
    check_text(str(folder), "the current folder's name")
    return folder


def check_text(text: str, what: str) -> None:
    """Raise UsageError unless the text can be written as UTF-8, as every record is."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{what} is not valid UTF-8 and could not be written into the record: {text!r}") from error


def is_valid(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint looks whole, as far as can be told without reading all of it."""
    from backprop import checkpoints

    return checkpoints.problem(checkpoint.path, checkpoint.measure, thorough=False) is None
