"""The index for many threads: connections are lent, one to a thread at a time, and one catch-up serves all.

With no room on the disk there is one index in memory, for all threads in turn.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from backprop.errors import BackpropError, NoRoomError, NoSuchRunError
from backprop.records import Checkpoint, RunView
from backprop.store.home import HomeBusyError
from backprop.store.index import Index, lacks_room, set_aside_if_damaged
from backprop.store.rundir import RUN_ID
from backprop.views.web.services import Services

CATCH_UP_EVERY_S = 1.0
# what may go wrong with a look without anything being lost: the next one brings it
LATER = (sqlite3.Error, OSError, HomeBusyError, BackpropError)
_PATIENCE_S = 0.5  # a request that finds a long catch-up going on is answered from what there is
_MAX_IDLE = 4
_VALID_FOR_S = 10.0  # a checkpoint is looked at again after so long, however often its run changes
_MAX_REMEMBERED = 10_000

_log = logging.getLogger("backprop")


class NotYetError(Exception):
    """A run is there, and the index does not have it: it is being read. To be asked for again."""


class Library:
    """Lends connections to a home's index, and opens them anew when the file was replaced."""

    def __init__(self, desk: Services) -> None:
        self._desk = desk
        self._idle: list[Index] = []
        self._in_memory: Index | None = None
        self._memory_turn = threading.RLock()
        self._catching_up = threading.Lock()
        self._caught_up_at = float("-inf")
        self._validity: dict[tuple[str, datetime], tuple[float, bool]] = {}

    @contextmanager
    def lent(self) -> Iterator[Index]:
        """A connection for this thread alone. Raises sqlite3.Error or BackpropError."""
        if self._in_memory is not None:
            with self._memory_turn:
                if self._in_memory is not None:
                    yield self._in_memory
                    return
        index = self._take()
        try:
            yield index
        except sqlite3.OperationalError:
            self._give_back(index)  # busy, or the disk is full: nothing is wrong with the connection
            raise
        except sqlite3.DatabaseError as error:
            set_aside_if_damaged(self._desk.home, index, error, _log.warning)
            index.close()
            raise
        except BaseException:
            self._give_back(index)
            raise
        else:
            self._give_back(index)

    def _take(self) -> Index:
        while self._idle:
            index = self._idle.pop()  # one bytecode: no two threads get the same
            if not index.is_replaced():
                return index
            index.close()
        return self._desk.open_index()

    def _give_back(self, index: Index) -> None:
        if len(self._idle) < _MAX_IDLE:
            self._idle.append(index)
        else:
            index.close()

    def catch_up(self) -> None:
        """Bring the index in step with what is on disk, at most once a second whoever asks. Raises one of LATER."""
        if not self._catching_up.acquire(timeout=_PATIENCE_S):
            return
        try:
            if time.monotonic() - self._caught_up_at < CATCH_UP_EVERY_S / 2:
                return
            self._bring_in_step()
            self._caught_up_at = time.monotonic()
        finally:
            self._catching_up.release()

    def _bring_in_step(self) -> None:
        with self._memory_turn:
            if self._in_memory is not None and self._desk.home.has_room():
                self._in_memory.close()
                self._in_memory = None
        try:
            with self.lent() as index:
                self._desk.catch_up(index)
        except LATER as error:
            if self._in_memory is not None or not (isinstance(error, NoRoomError) or lacks_room(error)):
                raise
            index = Index(self._desk.home.index_path, 0.0, is_in_memory=True)
            self._desk.catch_up(index)
            self._in_memory = index

    @property
    def is_in_memory(self) -> bool:
        """Whether what is lent was read from the run directories, for want of room on the disk."""
        return self._in_memory is not None

    def is_valid(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint looks whole, or looked so some seconds ago."""
        key, now = (checkpoint.path, checkpoint.measure.saved_at), time.monotonic()
        looked_at, answer = self._validity.get(key, (float("-inf"), False))
        if now - looked_at > _VALID_FOR_S:
            answer = self._desk.is_valid(checkpoint)
            if len(self._validity) >= _MAX_REMEMBERED:
                self._validity.clear()
            self._validity[key] = now, answer
        return answer

    def run(self, index: Index, run_id: str) -> RunView:
        """The run of exactly that id: whatever else a request holds names nothing.

        Raises NoSuchRunError, or NotYetError while `reindex` reads it.
        """
        view = index.get(run_id)
        if view is not None:
            return view
        if self.is_on_disk(run_id):
            raise NotYetError(f"run {run_id} is being read into the index.")
        raise NoSuchRunError(f"there is no run {run_id[:80]!r} (any more).")

    def is_on_disk(self, run_id: str) -> bool:
        """Whether there is such a run, whatever the index knows."""
        return RUN_ID.fullmatch(run_id) is not None and self._desk.home.rundir(run_id).spec_path.exists()

    def close(self) -> None:
        """Close what is not lent."""
        if self._in_memory is not None:
            self._in_memory.close()
            self._in_memory = None
        while self._idle:
            self._idle.pop().close()
