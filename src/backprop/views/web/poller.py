"""One poller for all pages: reads the home once a second and the machine every two, while a page is connected.

Each poll leaves a `PollResult`; every page is woken and compares it with what it has: see sse.py.
"""

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Generic, NamedTuple, TypeVar

import msgspec

from backprop.store import query
from backprop.store.index import Index
from backprop.views.web import serializers
from backprop.views.web.index_pool import CATCH_UP_EVERY_S, LATER, IndexPool
from backprop.views.web.services import Services

T = TypeVar("T")

MACHINE_EVERY_S = 2.0
_FRESH_S = 2 * CATCH_UP_EVERY_S
_MAX_ROWS = 5_000  # that are remembered
_MAX_DETAILS = 50  # each of up to a megabyte

_encode = msgspec.json.Encoder().encode
_log = logging.getLogger("backprop")


class Rendered(NamedTuple):
    """A run as JSON."""

    key: bytes  # the same without elapsed times: it differs only when the run has changed
    text: bytes


class SharedCache(Generic[T]):
    """One value per run, for many threads: concurrent calls for the same run wait for one computation."""

    def __init__(self, max_kept: int) -> None:
        self._max_kept = max_kept
        self._made: dict[str, tuple[int, T]] = {}  # number of the poll before which it was made
        self._makers: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, run_id: str, changed_at: int, now: int, make: Callable[[], T]) -> T:
        """The cached value if it is newer than the run's last change, else the result of `make`.

        changed_at, now: numbers of the poll at which the run may have changed, and of the latest one.
        """
        with self._lock:
            if run_id not in self._makers and len(self._makers) >= self._max_kept:
                self._made.clear()
                self._makers.clear()
            maker = self._makers.setdefault(run_id, threading.Lock())
        with maker:
            known = self._made.get(run_id)
            if known is not None and known[0] >= changed_at:
                return known[1]
            made = make()
            self._made[run_id] = now, made
            return made


class PollResult(NamedTuple):
    """One poll of the home."""

    number: int = 0
    version: int = 0  # of the table: increases when a run is added or removed, or changes its state
    total: int = 0  # runs in the home
    trouble: str | None = None  # why the index could not be updated, or the machine not be read


class Poller:
    """Polls while a page is connected. `wake` is called in another thread after every poll."""

    def __init__(self, services: Services, pool: IndexPool, wake: Callable[[], None]) -> None:
        self.services = services
        self.pool = pool
        self.result = PollResult()
        self.machine: tuple[int, bytes] | None = None  # number of the reading, and its document
        self._wake = wake
        self._polled_at = float("-inf")
        self._marks: object = None
        self._active: frozenset[str] = frozenset()
        self._all_changed_at = 0  # number of the poll before which anything may have changed
        self._changed_at: dict[str, int] = {}  # the same for single runs
        self._rows: SharedCache[Rendered | None] = SharedCache(_MAX_ROWS)
        self._details: SharedCache[Rendered | None] = SharedCache(_MAX_DETAILS)
        self._reading = threading.Lock()
        self._read_at = float("-inf")
        self._machine_trouble: str | None = None
        self._bugs: set[tuple[str, type[Exception]]] = set()  # that were logged
        self._runs = PeriodicTask(self.poll, CATCH_UP_EVERY_S)
        self._machines = PeriodicTask(self._poll_machine, MACHINE_EVERY_S)

    # -- connected pages

    def join(self, *, machine: bool) -> None:
        """A page has connected; to be followed by `leave` with the same arguments."""
        self._runs.want()
        if machine:
            self._machines.want()

    def leave(self, *, machine: bool) -> None:
        """A page that had joined is gone."""
        self._runs.release()
        if machine:
            self._machines.release()

    def close(self) -> None:
        """Stop polling. The end of the process may interrupt a poll at any point: that does no harm."""
        self._runs.stop()
        self._machines.stop()

    @property
    def is_fresh(self) -> bool:
        """Whether the latest poll is recent."""
        return time.monotonic() - self._polled_at < _FRESH_S

    # -- runs

    def poll(self) -> None:
        """Make the next `PollResult`."""
        number, trouble = self.result.number + 1, None
        version, total = self.result.version, self.result.total
        try:
            self.pool.catch_up()
            active = frozenset(self.services.home.unsettled())
            marks = self._read_marks()
            if marks != self._marks:
                self._all_changed_at, version = number, version + 1
                self._changed_at.clear()  # the changes of single runs are older
                with self.pool.connection() as index:
                    total = query.count(index)
                self._marks = marks
            # runs that ended since the last poll may have written more before that
            self._changed_at.update(dict.fromkeys(active | self._active, number))
            self._active = active
            if (why := self.pool.why_in_memory) is not None:
                trouble = f"{why}: runs are read from their directories."
        except Exception as error:  # noqa: BLE001  shown on the pages: without this thread they would stand still
            trouble = self._trouble("the index cannot be updated", error)
        self.result = PollResult(number, version, total, trouble or self._machine_trouble)
        self._polled_at = time.monotonic()
        self._wake()

    def _trouble(self, what: str, error: Exception) -> str:
        """The message for pages about a failed poll. A bug is logged once, with its traceback, on stderr."""
        if isinstance(error, LATER):
            return f"{what}: {error}"
        if (what, type(error)) not in self._bugs:
            self._bugs.add((what, type(error)))
            _log.error("%s", what, exc_info=error)
        return f"{what}: internal error; see the terminal of backprop ui."

    def _read_marks(self) -> object:
        if self.pool.why_in_memory is not None:  # experiments.json cannot be written
            return object()
        return self.services.home.change_mark()

    def changed_at(self, run_id: str) -> int:
        """The number of the last poll at which a run may have changed."""
        return max(self._all_changed_at, self._changed_at.get(run_id, 0))

    def row(self, index: Index, run_id: str) -> Rendered | None:
        """A run's row in the table, read once for all pages; None when it was removed."""

        def read() -> Rendered | None:
            view = index.get(run_id)
            if view is None:
                return None
            row = serializers.row(index, view, datetime.now(timezone.utc))
            return Rendered(_encode({**row, "elapsed_s": None}), _encode(row))

        return self._rows.get(run_id, self.changed_at(run_id), self.result.number, read)

    def details(self, index: Index, run_id: str) -> Rendered | None:
        """A run's details, or that it was removed; None while it is being read into the index.

        Read once for all pages: a large run takes a tenth of a second.
        """

        def read() -> Rendered | None:
            view = index.get(run_id)
            if view is None and self.pool.is_on_disk(run_id):
                return None
            if view is None:
                gone = _encode({"id": run_id, "gone": True})
                return Rendered(gone, gone)
            document = serializers.details(index, view, datetime.now(timezone.utc), self.pool.is_valid)
            return Rendered(_encode(serializers.without_clocks(document)), _encode(document))

        return self._details.get(run_id, self.changed_at(run_id), self.result.number, read)

    # -- the machine

    def read_machine(self) -> bytes:
        """The machine's document, read at most every two seconds for all pages."""
        with self._reading:
            number, document = self.machine or (0, b"")
            if not document or time.monotonic() - self._read_at > MACHINE_EVERY_S / 2:
                document = _encode(serializers.machine(self.services.read_machine(), self.services))
                self.machine = number + 1, document
                self._read_at = time.monotonic()
            return document

    def _poll_machine(self) -> None:
        try:
            self.read_machine()
            self._machine_trouble = None
        except Exception as error:  # noqa: BLE001  shown with the next poll of the home
            self._machine_trouble = self._trouble("the machine cannot be read", error)
        self._wake()


class PeriodicTask:
    """Calls a function periodically in a thread of its own, while at least one caller wants it."""

    def __init__(self, work: Callable[[], None], every_s: float) -> None:
        self._work = work
        self._every_s = every_s
        self._count = 0
        self._is_wanted = threading.Event()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def want(self) -> None:
        """One caller more wants it: the first starts it."""
        self._count += 1
        self._is_wanted.set()
        if self._thread is None:
            # a daemon: it may be interrupted at any point, and a hanging driver must not keep the process alive
            self._thread = threading.Thread(target=self._loop, daemon=True)
            self._thread.start()

    def release(self) -> None:
        """One caller less: after the last, it pauses."""
        self._count -= 1
        if self._count == 0:
            self._is_wanted.clear()

    def stop(self) -> None:
        """End the thread once the present call has returned."""
        self._is_over.set()
        self._is_wanted.set()

    def _loop(self) -> None:
        while True:
            self._is_wanted.wait()
            if self._is_over.is_set():
                return
            self._work()
            self._is_over.wait(self._every_s)
