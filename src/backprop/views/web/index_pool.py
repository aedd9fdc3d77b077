"""A connection pool for the index: one connection per thread at a time, and one catch-up for all of them.

On a full disk, and while another process holds the index's lock, there is one in memory, which the threads use in turn.
"""

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from backprop.errors import BackpropError, NoSuchRunError
from backprop.lifecycle import catalog
from backprop.records import Checkpoint, RunView
from backprop.store.home import HomeBusyError
from backprop.store.index import Index, set_aside_if_damaged
from backprop.store.rundir import RUN_ID
from backprop.views.web.services import Services

CATCH_UP_EVERY_S = 1.0
# temporary failures: the next poll retries
LATER = (sqlite3.Error, OSError, HomeBusyError, BackpropError)
_PATIENCE_S = 0.5  # a request that finds a long catch-up in progress is answered from the index as it is
_MAX_IDLE = 4
_VALID_FOR_S = 10.0  # how long the validity of a checkpoint is cached
_MAX_REMEMBERED = 10_000

_log = logging.getLogger("backprop")


class NotYetError(Exception):
    """The run exists but is not in the index yet: the client is to retry."""


class IndexPool:
    """Connections to a home's index; they are reopened when the file was replaced."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._idle: list[Index] = []
        self._in_memory: Index | None = None
        self._why_in_memory = ""
        self._memory_lock = threading.RLock()
        self._catching_up = threading.Lock()
        self._caught_up_at = float("-inf")
        self._validity: dict[tuple[str, datetime], tuple[float, bool]] = {}

    @contextmanager
    def connection(self) -> Iterator[Index]:
        """A connection for this thread alone. Raises sqlite3.Error or BackpropError."""
        if self._in_memory is not None:
            with self._memory_lock:
                if self._in_memory is not None:
                    yield self._in_memory
                    return
        index = self._take()
        try:
            yield index
        except sqlite3.OperationalError:
            self._give_back(index)  # busy, or the disk is full: the connection is sound
            raise
        except sqlite3.DatabaseError as error:
            set_aside_if_damaged(self._services.home, index, error, _log.warning)
            index.close()
            raise
        except BaseException:
            self._give_back(index)
            raise
        else:
            self._give_back(index)

    def _take(self) -> Index:
        while self._idle:
            index = self._idle.pop()  # atomic: no two threads get the same
            if not index.is_replaced():
                return index
            index.close()
        return self._services.open_index()

    def _give_back(self, index: Index) -> None:
        if len(self._idle) < _MAX_IDLE:
            self._idle.append(index)
        else:
            index.close()

    def catch_up(self) -> None:
        """Update the index from the run directories, at most once a second for all callers. Raises one of LATER."""
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
        with self._memory_lock:
            if self._in_memory is not None and self._services.is_index_usable():
                self._in_memory.close()
                self._in_memory = None
        try:
            with self.connection() as index:
                self._services.catch_up(index)
        except LATER as error:
            why = self._services.why_in_memory(error)
            if self._in_memory is not None or why is None:
                raise
            self._why_in_memory, self._in_memory = why, self._services.open_in_memory()

    @property
    def why_in_memory(self) -> str | None:
        """Why the index is in memory; None where it is on the disk."""
        return None if self._in_memory is None else self._why_in_memory

    def is_valid(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint looks valid, or did some seconds ago."""
        key, now = (checkpoint.path, checkpoint.measure.saved_at), time.monotonic()
        looked_at, answer = self._validity.get(key, (float("-inf"), False))
        if now - looked_at > _VALID_FOR_S:
            answer = catalog.is_valid(checkpoint)
            if len(self._validity) >= _MAX_REMEMBERED:
                self._validity.clear()
            self._validity[key] = now, answer
        return answer

    def run(self, index: Index, run_id: str) -> RunView:
        """The run with exactly this id, which comes from a request.

        Raises NoSuchRunError, or NotYetError while `reindex` reads it.
        """
        view = index.get(run_id)
        if view is not None:
            return view
        if self.is_on_disk(run_id):
            raise NotYetError(f"run {run_id} is being read into the index.")
        raise NoSuchRunError(f"there is no run {run_id[:80]!r} (any more).")

    def is_on_disk(self, run_id: str) -> bool:
        """Whether the run directory exists, whatever is in the index."""
        return RUN_ID.fullmatch(run_id) is not None and self._services.home.rundir(run_id).spec_path.exists()

    def close(self) -> None:
        """Close the idle connections."""
        if self._in_memory is not None:
            self._in_memory.close()
            self._in_memory = None
        while self._idle:
            self._idle.pop().close()
