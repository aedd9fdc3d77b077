"""The state of a home for `watch`, read about once a second in a thread of its own, so that no key waits for the disk.

A `FeedRequest` says what is shown, a `LiveState` is the result. Where that takes too much CPU time, with the drawing of
the screen, states come less often: see `RefreshPace`. Apart from active runs only what has changed is read.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import NamedTuple

import msgspec

from backprop.errors import BackpropError, UsageError
from backprop.lifecycle import indexing
from backprop.lifecycle.admission import read_machine
from backprop.lifecycle.sweep.observation import Seen, observe
from backprop.lifecycle.sweep.spec import sweep_dir, sweeps
from backprop.records import Limits, MachineState, Record, RunView
from backprop.store import checkpoints, filters, metric_names, query
from backprop.store.curves import Curve, Range
from backprop.store.files import Piece, UnreadableError, last_lines, opened
from backprop.store.filters import Wanted
from backprop.store.home import Home, HomeBusyError
from backprop.store.index import Index, set_aside_if_damaged
from backprop.store.usage import history as usage_history
from backprop.views.live_rows import FeedRequest, GroupHead, LiveRows, Rows
from backprop.views.pace import RefreshPace
from backprop.views.terminal import usage_text
from backprop.views.terminal.machine_summary import Occupancy, read_occupancy

# shares of a core, and the longest intervals in seconds
_READING = (0.015, 5.0)
_CATCHING_UP = (0.01, 10.0)  # supervisors store what their trainers write: this is for those that died, or are away
_STARTING = 3  # states, in which the screen is set up
_MACHINE_EVERY_S = 2.0
_USAGE_POINTS = 150  # of each curve of what a run used
_LOG_BYTES = 64_000  # of a log's end
_LOG_LINES = 300
_LINE_LENGTH = 1000  # characters of a line that are shown


class Log(NamedTuple):
    """The end of a session's output."""

    session: int
    lines: tuple[str, ...]
    is_cut: bool  # there are earlier lines


class ShownRun(Record, frozen=True):
    """The run whose curve, log and details are shown."""

    view: RunView
    head: GroupHead | None  # of the group that it stands for
    metric: str | None
    metrics: tuple[str, ...]
    curve: Curve | None
    usage: tuple[Curve, ...]  # of what it used, if they were asked for
    log: Log | None
    invalid_checkpoints: frozenset[str]  # paths


class LiveState(Record, frozen=True):
    """The home and the machine at one instant."""

    at: datetime
    limits: Limits  # for a start
    rows: Rows = Rows()
    machine: MachineState = MachineState()
    occupancy: Occupancy = Occupancy()
    sweeps: tuple[Seen, ...] = ()  # that are going on, oldest first
    shown: ShownRun | None = None
    problem: str | None = None  # why some of this may be outdated, or the search is invalid


class LiveFeed:
    """Publishes states from `start` until `close`. The request may change at any time, and takes effect at once."""

    def __init__(self, home: Home, limits: Limits, gpu_probe: str) -> None:
        """limits: for a start. gpu_probe: as in `Config`."""
        self.home = home
        self.limits = limits
        self._gpu_probe = gpu_probe
        self._publish: Callable[[LiveState | Exception], object]
        self._request = FeedRequest()
        self._last = LiveState(at=_now(), limits=limits)
        self._wake = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="feed")
        self._catching_up, self._catch_up_at = RefreshPace(*_CATCHING_UP), float("-inf")
        self._machine = (MachineState(), float("-inf"))
        self._rows = LiveRows(home)
        self._usage: tuple[tuple[object, int], tuple[Curve, ...]] = ((None, 0), ())  # (what, number of samples), curves
        self._log: tuple[object, Log | None] = (None, None)
        self._validity: tuple[object, frozenset[str]] = (None, frozenset())
        self._idle_sweeps: dict[str, int] = {}  # id -> size of the journal: nothing has happened since
        self._messages: list[str] = []

    def start(self, request: FeedRequest, publish: Callable[[LiveState | Exception], object]) -> None:
        """publish: called in the feed's thread with each state, or with the unexpected exception that ended it."""
        self._request, self._publish = request, publish
        self._thread.start()

    def close(self, timeout_s: float = 2.0) -> None:
        """Stop. A thread that hangs on a dead disk is abandoned."""
        self._is_over = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def show(self, request: FeedRequest) -> None:
        """Replace the request."""
        if request != self._request:
            self._request = request
            self._wake.set()

    def refresh(self) -> None:
        """Publish a new state now instead of after the usual interval."""
        self._catch_up_at = float("-inf")
        self._wake.set()

    # -- the thread

    def _work(self) -> None:
        index: Index | None = None
        pace, states, cpu_s = RefreshPace(*_READING), 0, time.process_time()
        while not self._is_over:
            self._wake.clear()
            caught_up_s = 0.0
            try:
                if index is not None and index.is_in_memory and indexing.is_usable(self.home):
                    index.close()
                    index = None
                if index is None:
                    index = indexing.open_caught_up(self.home, self._messages.append)
                elif time.monotonic() >= self._catch_up_at:
                    caught_up_s = self._catch_up(index)
                state = self._last = self._read_state(index, self._request)
            except (BackpropError, HomeBusyError, OSError, sqlite3.DatabaseError) as error:
                # a busy database, a full disk, a file that was removed meanwhile: the next attempt may succeed
                if index is not None:
                    if isinstance(error, sqlite3.DatabaseError):
                        set_aside_if_damaged(self.home, index, error, self._messages.append)
                    index.close()
                    index = None
                state = self._outdated_state(error)
            except Exception as error:  # noqa: BLE001  the receiver raises it: the view must not just stand still
                self._publish(error)
                return
            if not self._is_over:
                self._publish(state)
            states, used_s, cpu_s = states + 1, time.process_time() - cpu_s - caught_up_s, time.process_time()
            self._wake.wait(pace.interval_s(used_s if states > _STARTING else 0.0))
        if index is not None:
            index.close()

    def _catch_up(self, index: Index) -> float:
        """Bring the index in step with the run directories. Returns the CPU time that took, in seconds."""
        began_s = time.thread_time()
        self._catch_up_at = time.monotonic()
        indexing.catch_up(self.home, index, self._messages.append)
        taken_s = time.thread_time() - began_s
        if self._catch_up_at != float("-inf"):  # nobody has asked for another one meanwhile
            self._catch_up_at = time.monotonic() + self._catching_up.interval_s(taken_s)
        return taken_s

    def _outdated_state(self, error: Exception) -> LiveState:
        """The last state, and why there is no newer one."""
        problem = f"cannot read {self.home.path}: {error}"
        return msgspec.structs.replace(self._last, at=_now(), machine=self._read_machine(), problem=problem)

    def _read_state(self, index: Index, request: FeedRequest) -> LiveState:
        problem = self._messages.pop() if self._messages else None
        wanted = Wanted(hides_archived=True)
        try:
            wanted = msgspec.structs.replace(filters.parse_search(request.search), hides_archived=True)
        except UsageError as error:
            problem = str(error)
        rows = self._rows.read(index, wanted, request)
        return LiveState(
            at=_now(),
            rows=rows,
            machine=self._read_machine(),
            limits=self.limits,
            occupancy=read_occupancy(self.home),
            sweeps=self._read_sweeps(),
            shown=None if rows.shown is None else self._read_shown(index, rows.shown, rows.head, request),
            problem=problem,
        )

    def _read_sweeps(self) -> tuple[Seen, ...]:
        found = []
        for spec in sorted(sweeps(self.home), key=lambda spec: spec.created_at):
            with suppress(OSError, UnreadableError):  # it was removed a moment ago, or is damaged: see `sweep status`
                size = sweep_dir(self.home, spec.id).journal_path.stat().st_size
                if self._idle_sweeps.get(spec.id) == size:
                    continue
                seen = observe(self.home, spec)
                if seen.is_going_on:
                    found.append(seen)
                else:
                    self._idle_sweeps[spec.id] = size
        return tuple(found)

    def _read_machine(self) -> MachineState:
        machine, read_at = self._machine
        if time.monotonic() - read_at >= _MACHINE_EVERY_S:
            machine = read_machine([str(self.home.path)], self._gpu_probe)
            self._machine = (machine, time.monotonic())
        return machine

    def _read_shown(self, index: Index, view: RunView, head: GroupHead | None, request: FeedRequest) -> ShownRun:
        reported = [name for name in metric_names.all_names([view]) if not metric_names.is_progress(name)]
        metrics = (*reported, *usage_history.names(view))
        metric = (
            request.metric
            if request.metric in metrics
            else metric_names.main_metric(view.summaries) or next(iter(metrics), None)
        )
        return ShownRun(
            view=view,
            head=head,
            metric=metric,
            metrics=metrics,
            curve=None
            if metric is None
            else query.curve(index, view, metric, request.axis, max_points=max(10, request.points)),
            usage=self._read_usage(view) if request.wants_usage else (),
            log=self._read_log(view, is_stderr=request.is_stderr),
            invalid_checkpoints=self._invalid_checkpoints(view),
        )

    def _read_usage(self, view: RunView) -> tuple[Curve, ...]:
        """Curves of what the run used, read again when there are so many more samples that one sees them."""
        names = (
            []
            if view.usage is None
            else [name for name in usage_text.charted(view.usage) if usage_history.has(view, name)]
        )
        count = max((view.usage.counts[name] for name in names), default=0) if view.usage is not None else 0
        (known, known_count), curves = self._usage
        if known != (view.run.spec.id, names) or not known_count <= count <= known_count * (1 + 1 / _USAGE_POINTS):
            curves = tuple(usage_history.curve(view, name, _USAGE_POINTS, Range()) for name in names)
            self._usage = (((view.run.spec.id, names), count), curves)
        return curves

    def _read_log(self, view: RunView, *, is_stderr: bool) -> Log | None:
        session = view.run.last_session
        if session is None:
            return None
        rundir = self.home.rundir(view.run.spec.id)
        path = rundir.err_path(session.number) if is_stderr else rundir.out_path(session.number)
        with opened(rundir.path, path.name) as fd:
            if fd is None:  # not launched yet, or just removed
                return None
            found = os.fstat(fd)
            mark = (path, found.st_size, found.st_mtime_ns)
            if mark != self._log[0]:
                self._log = (mark, _log(session.number, last_lines(fd, _LOG_BYTES)))
            return self._log[1]

    def _invalid_checkpoints(self, view: RunView) -> frozenset[str]:
        mark = (view.run.spec.id, len(view.checkpoints))
        if mark != self._validity[0]:
            is_valid = checkpoints.without_opening_offered(view.run, checkpoints.looks_valid)
            invalid = (one.path for one in view.checkpoints if os.path.lexists(one.path) and not is_valid(one))
            self._validity = (mark, frozenset(invalid))
        return self._validity[1]


def _log(session: int, piece: Piece) -> Log:
    """The last lines as a terminal shows them: of a progress bar only its last state."""
    lines = piece.data.decode(errors="replace").removesuffix("\n").split("\n")
    kept = lines[-_LOG_LINES:]
    shown = tuple(line.rstrip("\r").rpartition("\r")[2][:_LINE_LENGTH] for line in kept)
    return Log(session, shown, is_cut=piece.begin > 0 or len(kept) < len(lines))


def _now() -> datetime:
    return datetime.now(timezone.utc)
