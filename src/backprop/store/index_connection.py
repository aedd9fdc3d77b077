"""The index as one run's recorder uses it. It is a cache: a full disk or a busy database delays what views show."""

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from backprop.records import Say
from backprop.store.home import Home, HomeBusyError
from backprop.store.index import Index, open_index, reopen_if_replaced, set_aside_if_damaged
from backprop.store.rundir import RunDir

SUPERVISOR_BUSY_TIMEOUT_S = 0.2  # a supervisor that waits for the database cannot climb the stop ladder
# errors of a cache that lose nothing: the same is tried again at the next call, or by the next command that reads
_TRY_LATER = (sqlite3.OperationalError, OSError, HomeBusyError)
_T = TypeVar("_T")


class IndexConnection:
    """The index of a run's home: opened when it is first needed, and again when its file is deleted or replaced."""

    def __init__(self, home: Home, rundir: RunDir, say: Say) -> None:
        self._home = home
        self.rundir = rundir
        self.say = say
        self._index: Index | None = None
        self._is_borrowed = False
        self.openings = 0  # how often a file was opened: a caller sees that it was replaced between two calls

    def borrow(self, index: Index) -> None:
        """Use a connection that the caller opened and will close.

        When the file was replaced, the same object connects to the new one.
        """
        self._index = index
        self._is_borrowed = True

    def give_back(self) -> None:
        """Use a connection of our own again."""
        self._index = None
        self._is_borrowed = False

    def open(self) -> Index:
        """The index. Raises FileNotFoundError when the run was removed, else as `open_index`."""
        if (self._index is None or self._index.is_replaced()) and not self.rundir.path.exists():
            raise FileNotFoundError(self.rundir.path)  # a removed run must not be put into a new index
        if self._index is None:
            self._index = open_index(self._home, SUPERVISOR_BUSY_TIMEOUT_S, self.say)
        elif not reopen_if_replaced(self._home, self._index, self.say):
            return self._index
        self.openings += 1
        return self._index

    def has_room(self, index: Index, size_bytes: int) -> bool:
        """Whether the index may grow by so much. index: the one that is open."""
        return index.is_in_memory or self._home.has_room(size_bytes)

    def attempt(self, action: Callable[[], _T], otherwise: _T) -> _T:
        """What `action` returns; `otherwise` when the index cannot be used now. A damaged one is set aside."""
        try:
            return action()
        except _TRY_LATER:
            return otherwise
        except sqlite3.DatabaseError as error:
            self.give_up(error)
            return otherwise

    def give_up(self, error: sqlite3.DatabaseError) -> None:
        """Set a damaged file aside, so that the next `open` creates another."""
        if self._index is not None:
            set_aside_if_damaged(self._home, self._index, error, self.say)
            self.close()

    def close(self) -> None:
        """Close the connection, unless it is the caller's."""
        if self._index is not None and not self._is_borrowed:
            self._index.close()
            self._index = None
