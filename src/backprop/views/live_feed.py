"""The state of a home for `watch`, read once a second in a thread of its own, so that no key waits for the disk.

A `FeedRequest` says what is shown, a `LiveState` is the result. Active runs are brought up to date as by `list`; apart
from them only what has changed is read.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from typing import NamedTuple

import msgspec

from backprop.errors import BackpropError, UsageError
from backprop.lifecycle import indexing
from backprop.lifecycle.admission import read_machine
from backprop.lifecycle.sweep.observation import Seen, observe
from backprop.lifecycle.sweep.spec import sweep_dir, sweeps
from backprop.records import Limits, MachineState, Record, RunView, Status
from backprop.store import checkpoints, filters, metric_names, query
from backprop.store.curves import Axis, Curve
from backprop.store.files import Piece, UnreadableError, last_lines, opened
from backprop.store.filters import Wanted
from backprop.store.home import Home, HomeBusyError
from backprop.store.index import Index, set_aside_if_damaged
from backprop.store.usage import history as usage_history
from backprop.views.run_row import RunRow
from backprop.views.terminal.machine_summary import Occupancy, read_occupancy

EVERY_S = 1.0
_MACHINE_EVERY_S = 2.0
_TREND_POINTS = 24
_LOG_BYTES = 64_000  # of a log's end
_LOG_LINES = 300
_LINE_LENGTH = 1000  # characters of a line that are shown
_ACTIVE = tuple(status.value for status in Status if not status.is_final)


class FeedRequest(Record, frozen=True):
    """What is shown."""

    run_id: str | None = None  # whose curve and log are shown; None: the first run's
    search: str = ""  # words and conditions such as status=failed
    metric: str | None = None  # None: the run's loss
    axis: Axis = Axis.STEP
    points: int = 200  # approximate number of points of the curve
    is_stderr: bool = False
    limit: int = 200  # maximum number of runs


class Log(NamedTuple):
    """The end of a session's output."""

    session: int
    lines: tuple[str, ...]
    is_cut: bool  # there are earlier lines


class ShownRun(Record, frozen=True):
    """The run whose curve, log and details are shown."""

    view: RunView
    metric: str | None
    metrics: tuple[str, ...]
    curve: Curve | None
    log: Log | None
    invalid_checkpoints: frozenset[str]  # paths


class LiveState(Record, frozen=True):
    """The home and the machine at one instant."""

    at: datetime
    limits: Limits  # for a start
    rows: tuple[RunRow, ...] = ()  # running, then queued, then the newest
    total: int = 0  # runs in the home, or found by the search
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
        self._machine = (MachineState(), float("-inf"))
        self._trends: dict[str, tuple[int, RunRow]] = {}
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
        self._wake.set()

    # -- the thread

    def _work(self) -> None:
        index: Index | None = None
        caught_up_at = float("-inf")
        while not self._is_over:
            self._wake.clear()
            try:
                if index is not None and index.is_in_memory and indexing.is_usable(self.home):
                    index.close()
                    index = None
                if index is None:
                    index = indexing.open_caught_up(self.home, self._messages.append)
                if time.monotonic() - caught_up_at >= EVERY_S / 2:
                    indexing.catch_up(self.home, index, self._messages.append)
                    caught_up_at = time.monotonic()
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
            self._wake.wait(EVERY_S)
        if index is not None:
            index.close()

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
        views, total = _select(index, wanted, request)
        self._trends = {view.run.spec.id: known for view in views if (known := self._trends.get(view.run.spec.id))}
        shown = next((view for view in views if view.run.spec.id == request.run_id), views[0] if views else None)
        return LiveState(
            at=_now(),
            rows=tuple(self._row(index, view) for view in views),
            total=total,
            machine=self._read_machine(),
            limits=self.limits,
            occupancy=read_occupancy(self.home),
            sweeps=self._read_sweeps(),
            shown=None if shown is None else self._read_shown(index, shown, request),
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

    def _row(self, index: Index, view: RunView) -> RunRow:
        row = RunRow.of(view)
        count = 0 if row.summary is None else row.summary.count
        known = self._trends.get(view.run.spec.id)
        if known is not None and known[0] == count:
            return known[1]._replace(view=view)
        if row.metric is not None:
            row = row._replace(trend=tuple(query.sparkline_values(index, view, row.metric, _TREND_POINTS)))
        self._trends[view.run.spec.id] = (count, row)
        return row

    def _read_machine(self) -> MachineState:
        machine, read_at = self._machine
        if time.monotonic() - read_at >= _MACHINE_EVERY_S:
            machine = read_machine([str(self.home.path)], self._gpu_probe)
            self._machine = (machine, time.monotonic())
        return machine

    def _read_shown(self, index: Index, view: RunView, request: FeedRequest) -> ShownRun:
        reported = [name for name in metric_names.all_names([view]) if not metric_names.is_progress(name)]
        metrics = (*reported, *usage_history.names(view))
        metric = (
            request.metric
            if request.metric in metrics
            else metric_names.main_metric(view.summaries) or next(iter(metrics), None)
        )
        return ShownRun(
            view=view,
            metric=metric,
            metrics=metrics,
            curve=None
            if metric is None
            else query.curve(index, view, metric, request.axis, max_points=max(10, request.points)),
            log=self._read_log(view, is_stderr=request.is_stderr),
            invalid_checkpoints=self._invalid_checkpoints(view),
        )

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


def _select(index: Index, wanted: Wanted, request: FeedRequest) -> tuple[list[RunView], int]:
    """The runs to show, and how many match. The run that was asked for is included unless a search excludes it."""
    active = query.runs(index, _changed(wanted, statuses=_ACTIVE, limit=request.limit))
    active.sort(key=lambda view: view.run.status is Status.QUEUED)
    newest = query.runs(index, _changed(wanted, limit=request.limit))
    shown = {view.run.spec.id for view in active}
    views = [*active, *(view for view in newest if view.run.spec.id not in shown)][: request.limit]
    if request.run_id is not None and not request.search and all(view.run.spec.id != request.run_id for view in views):
        chosen = index.get(request.run_id)
        views = [*views[: request.limit - 1], *([] if chosen is None else [chosen])]
    return views, query.count(index, wanted)


def _changed(wanted: Wanted, *, limit: int, statuses: Sequence[str] = ()) -> Wanted:
    return msgspec.structs.replace(wanted, statuses=tuple(statuses), limit=limit)


def _log(session: int, piece: Piece) -> Log:
    """The last lines as a terminal shows them: of a progress bar only its last state."""
    lines = piece.data.decode(errors="replace").removesuffix("\n").split("\n")
    kept = lines[-_LOG_LINES:]
    shown = tuple(line.rstrip("\r").rpartition("\r")[2][:_LINE_LENGTH] for line in kept)
    return Log(session, shown, is_cut=piece.begin > 0 or len(kept) < len(lines))


def _now() -> datetime:
    return datetime.now(timezone.utc)
