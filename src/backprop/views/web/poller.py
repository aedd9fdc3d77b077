"""One pair of eyes for all pages: looks at the home once a second and at the machine every two, while somebody listens.

Each look is a `PollResult`; who listens is woken and compares it with what it was told: see sse.py.
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
from backprop.views.web.index_pool import CATCH_UP_EVERY_S, LATER, Library
from backprop.views.web.services import Services

T = TypeVar("T")

MACHINE_EVERY_S = 2.0
_FRESH_S = 2 * CATCH_UP_EVERY_S
_MAX_ROWS = 5_000  # that are remembered
_MAX_DETAILS = 50  # each of up to a megabyte

_encode = msgspec.json.Encoder().encode
_log = logging.getLogger("backprop")


class Told(NamedTuple):
    """What is said of a run."""

    key: bytes  # all of it but the time that passes by itself
    text: bytes


class Shared(Generic[T]):
    """One thing a run. May be asked by many threads: those that ask for what is being made wait for it."""

    def __init__(self, max_kept: int) -> None:
        self._max_kept = max_kept
        self._made: dict[str, tuple[int, T]] = {}  # number of the beat that it was made at, or before a later one
        self._makers: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, run_id: str, changed_at: int, beat: int, make: Callable[[], T]) -> T:
        """What was made since the run changed, else what `make` gives now.

        changed_at, beat: numbers of the beat at which the run may have changed, and of the one that is now.
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
            self._made[run_id] = beat, made
            return made


class PollResult(NamedTuple):
    """One look at the home."""

    number: int = 0
    version: int = 0  # of the table: grows when a run is added or removed, or changes its state
    total: int = 0  # runs that there are
    trouble: str | None = None  # why the index could not be brought up to date, or the machine not be read


class Hub:
    """Looks while somebody listens. `wake` is called in another thread after every look."""

    def __init__(self, desk: Services, library: Library, wake: Callable[[], None]) -> None:
        self.desk = desk
        self.library = library
        self.beat = PollResult()
        self.machine: tuple[int, bytes] | None = None  # number of the reading, and its document
        self._wake = wake
        self._looked_at = float("-inf")
        self._marks: object = None
        self._going_on: frozenset[str] = frozenset()
        self._all_changed_at = 0  # number of the beat before which anything may have changed
        self._changed_at: dict[str, int] = {}  # the same for single runs
        self._rows: Shared[Told | None] = Shared(_MAX_ROWS)
        self._details: Shared[Told | None] = Shared(_MAX_DETAILS)
        self._reading = threading.Lock()
        self._read_at = float("-inf")
        self._machine_trouble: str | None = None
        self._bugs: set[tuple[str, type[Exception]]] = set()  # that the terminal was told of
        self._runs = PeriodicTask(self.look, CATCH_UP_EVERY_S)
        self._machines = PeriodicTask(self._look_at_machine, MACHINE_EVERY_S)

    # -- who listens

    def join(self, *, machine: bool) -> None:
        """Somebody listens; to be followed by `leave` with the same words."""
        self._runs.want()
        if machine:
            self._machines.want()

    def leave(self, *, machine: bool) -> None:
        self._runs.let_go()
        if machine:
            self._machines.let_go()

    def close(self) -> None:
        """No more looks. One that is going on may be cut off by the end of the process: it can be, at any instant."""
        self._runs.stop()
        self._machines.stop()

    @property
    def is_fresh(self) -> bool:
        """Whether the last beat is as new as it can be."""
        return time.monotonic() - self._looked_at < _FRESH_S

    # -- runs

    def look(self) -> None:
        """Make the next beat."""
        number, trouble = self.beat.number + 1, None
        version, total = self.beat.version, self.beat.total
        try:
            self.library.catch_up()
            going_on = frozenset(self.desk.home.unsettled())
            marks = self._read_marks()
            if marks != self._marks:
                self._all_changed_at, version = number, version + 1
                self._changed_at.clear()  # what it says of single runs is older than that
                with self.library.lent() as index:
                    total = query.count(index)
                self._marks = marks
            # those that ended since the last look have said their last words meanwhile
            self._changed_at.update(dict.fromkeys(going_on | self._going_on, number))
            self._going_on = going_on
            if self.library.is_in_memory:
                trouble = (
                    f"there is no room on the disk of {self.desk.home.path}: runs are read from their directories."
                )
        except Exception as error:  # noqa: BLE001  told; a thread that ended of it would leave all pages as they are
            trouble = self._trouble("the index cannot be brought up to date", error)
        self.beat = PollResult(number, version, total, trouble or self._machine_trouble)
        self._looked_at = time.monotonic()
        self._wake()

    def _trouble(self, what: str, error: Exception) -> str:
        """What pages are told of a look that failed. A bug is told in full, once, to whoever started the server."""
        if isinstance(error, LATER):
            return f"{what}: {error}"
        if (what, type(error)) not in self._bugs:
            self._bugs.add((what, type(error)))
            _log.error("%s", what, exc_info=error)
        return f"{what}: something went wrong in the server; its terminal shows what."

    def _read_marks(self) -> object:
        """Different when a run was added or removed, or changed its state: then experiments.json is replaced."""
        home = self.desk.home
        if self.library.is_in_memory:  # what tells of changes cannot be written
            return object()
        snapshot, runs, index = home.snapshot_path.stat(), home.runs_path.stat(), home.index_path.stat()
        return snapshot.st_ino, snapshot.st_mtime_ns, runs.st_mtime_ns, index.st_ino

    def changed_at(self, run_id: str) -> int:
        """The number of the last beat at which there may have been something new about a run."""
        return max(self._all_changed_at, self._changed_at.get(run_id, 0))

    def row(self, index: Index, run_id: str) -> Told | None:
        """A run's line in the table, read once for all pages; None when it is gone."""

        def read() -> Told | None:
            view = index.get(run_id)
            if view is None:
                return None
            row = serializers.row(index, view, datetime.now(timezone.utc))
            return Told(_encode({**row, "elapsed_s": None}), _encode(row))

        return self._rows.get(run_id, self.changed_at(run_id), self.beat.number, read)

    def details(self, index: Index, run_id: str) -> Told | None:
        """A run in full, or that it is gone; None while it is read into the index.

        Read once for all pages: a big run takes a tenth of a second.
        """

        def read() -> Told | None:
            view = index.get(run_id)
            if view is None and self.library.is_on_disk(run_id):
                return None
            if view is None:
                gone = _encode({"id": run_id, "gone": True})
                return Told(gone, gone)
            document = serializers.details(index, view, datetime.now(timezone.utc), self.library.is_valid)
            return Told(_encode(serializers.without_clocks(document)), _encode(document))

        return self._details.get(run_id, self.changed_at(run_id), self.beat.number, read)

    # -- the machine

    def read_machine(self) -> bytes:
        """The machine, read at most every two seconds whoever asks."""
        with self._reading:
            number, document = self.machine or (0, b"")
            if not document or time.monotonic() - self._read_at > MACHINE_EVERY_S / 2:
                document = _encode(serializers.machine(self.desk.read_machine(), self.desk))
                self.machine = number + 1, document
                self._read_at = time.monotonic()
            return document

    def _look_at_machine(self) -> None:
        try:
            self.read_machine()
            self._machine_trouble = None
        except Exception as error:  # noqa: BLE001  told with the next look at the home
            self._machine_trouble = self._trouble("the machine cannot be read", error)
        self._wake()


class PeriodicTask:
    """Calls something every so often, in a thread of its own, while somebody wants it."""

    def __init__(self, work: Callable[[], None], every_s: float) -> None:
        self._work = work
        self._every_s = every_s
        self._count = 0
        self._is_wanted = threading.Event()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def want(self) -> None:
        self._count += 1
        self._is_wanted.set()
        if self._thread is None:
            # a daemon: what it does may be cut off at any instant, and a driver that hangs must not keep us here
            self._thread = threading.Thread(target=self._go_on, daemon=True)
            self._thread.start()

    def let_go(self) -> None:
        self._count -= 1
        if self._count == 0:
            self._is_wanted.clear()

    def stop(self) -> None:
        self._is_over.set()
        self._is_wanted.set()

    def _go_on(self) -> None:
        while True:
            self._is_wanted.wait()
            if self._is_over.is_set():
                return
            self._work()
            self._is_over.wait(self._every_s)
