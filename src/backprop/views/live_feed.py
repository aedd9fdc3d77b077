"""What somebody who keeps looking sees: a picture of the home, taken once a second beside whoever shows it.

A wish (what is looked at) enters, pictures leave, in a thread of its own: no key waits for the disk. Runs that are
going on are brought up to date as `list` does it; nothing else is read that did not change.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

import msgspec

from backprop import host
from backprop.errors import BackpropError, UsageError
from backprop.governor.run_queue import RunQueue
from backprop.lifecycle import indexing
from backprop.lifecycle.admission import read_machine
from backprop.records import Limits, MachineState, Record, RunView, Status, Ticket
from backprop.store import checkpoints, filters, metric_names, query
from backprop.store.curves import Axis, Curve
from backprop.store.files import Piece, last_lines, opened
from backprop.store.filters import Wanted
from backprop.store.home import Home, HomeBusyError
from backprop.store.index import Index, set_aside_if_damaged

EVERY_S = 1.0
_MACHINE_EVERY_S = 2.0
_TREND_PLACES = 24
_LOG_BYTES = 64_000  # of a log's end
_LOG_LINES = 300
_LINE_LENGTH = 1000  # characters of a line that are shown
_GOING_ON = tuple(status.value for status in Status if not status.is_final)


class FeedRequest(Record, frozen=True):
    """What somebody looks at."""

    run_id: str | None = None  # whose curve and log are shown; None: those of the first run
    search: str = ""  # words, and conditions such as status=failed
    metric: str | None = None  # None: the run's loss
    axis: Axis = Axis.STEP
    points: int = 200  # a curve is drawn with about so many
    is_stderr: bool = False
    limit: int = 200  # runs


class FeedRow(NamedTuple):
    """A run in the list, with the course of its loss."""

    view: RunView
    metric: str | None
    trend: tuple[float, ...]


class Log(NamedTuple):
    """The end of what a session wrote."""

    session: int
    lines: tuple[str, ...]
    is_cut: bool  # there is more before


class Shown(Record, frozen=True):
    """The run that is looked at."""

    view: RunView
    metric: str | None
    metrics: tuple[str, ...]
    curve: Curve | None
    log: Log | None
    not_whole: frozenset[str]  # paths of checkpoints


class LiveState(Record, frozen=True):
    """How things are at one instant."""

    at: datetime
    limits: Limits  # for a start
    rows: tuple[FeedRow, ...] = ()  # those that run first, those that wait, then the newest
    total: int = 0  # runs in the home, or that the search found
    machine: MachineState = MachineState()
    tickets: tuple[Ticket, ...] = ()  # who holds a slot, and who waits, in order
    shown: Shown | None = None
    problem: str | None = None  # why some of this may be old, or the search makes no sense


class LiveFeed:
    """Takes pictures, from `start` until `close`. What is wished may change at any time, and is heard at once."""

    def __init__(self, home: Home, limits: Limits, gpu_probe: str) -> None:
        """limits: for a start. gpu_probe: whom to ask about GPUs."""
        self.home = home
        self.limits = limits
        self._gpu_probe = gpu_probe
        self._publish: Callable[[LiveState | Exception], object]
        self._wish = FeedRequest()
        self._last = LiveState(at=_now(), limits=limits)
        self._wake = threading.Event()
        self._is_over = False
        self._thread = threading.Thread(target=self._work, daemon=True, name="feed")
        self._machine = (MachineState(), float("-inf"))
        self._trends: dict[str, tuple[int, FeedRow]] = {}
        self._log: tuple[object, Log | None] = (None, None)
        self._whole: tuple[object, frozenset[str]] = (None, frozenset())
        self._said: list[str] = []

    def start(self, wish: FeedRequest, publish: Callable[[LiveState | Exception], object]) -> None:
        """publish: called in the feed's thread, with a bug of ours instead of a picture when there is one."""
        self._wish, self._publish = wish, publish
        self._thread.start()

    def close(self, patience_s: float = 2.0) -> None:
        """Take no more pictures. A thread that hangs on a dead disk is left behind."""
        self._is_over = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def look_at(self, wish: FeedRequest) -> None:
        """Show this from now on."""
        if wish != self._wish:
            self._wish = wish
            self._wake.set()

    def look_again(self) -> None:
        """Something was changed just now: do not wait for the next second."""
        self._wake.set()

    # -- the thread

    def _work(self) -> None:
        index: Index | None = None
        caught_up_at = float("-inf")
        while not self._is_over:
            self._wake.clear()
            try:
                if index is not None and index.is_in_memory and self.home.has_room():
                    index.close()
                    index = None
                if index is None:
                    index = indexing.open_caught_up(self.home, self._said.append)
                if time.monotonic() - caught_up_at >= EVERY_S / 2:
                    indexing.catch_up(self.home, index, self._said.append)
                    caught_up_at = time.monotonic()
                picture = self._last = self._take(index, self._wish)
            except (BackpropError, HomeBusyError, OSError, sqlite3.DatabaseError) as error:
                # a busy database, a full disk, a file that was removed while we read it: the next look may succeed
                if index is not None:
                    if isinstance(error, sqlite3.DatabaseError):
                        set_aside_if_damaged(self.home, index, error, self._said.append)
                    index.close()
                    index = None
                picture = self._blind(error)
            except Exception as error:  # noqa: BLE001  a bug is for whoever shows this: it must not just stand still
                self._publish(error)
                return
            if not self._is_over:
                self._publish(picture)
            self._wake.wait(EVERY_S)
        if index is not None:
            index.close()

    def _blind(self, error: Exception) -> LiveState:
        """What was seen last, and why there is nothing newer."""
        problem = f"cannot look at {self.home.path}: {error}"
        return msgspec.structs.replace(self._last, at=_now(), machine=self._look_at_machine(), problem=problem)

    def _take(self, index: Index, wish: FeedRequest) -> LiveState:
        problem = self._said.pop() if self._said else None
        wanted = Wanted()
        try:
            wanted = filters.parse_search(wish.search)
        except UsageError as error:
            problem = str(error)
        views, total = _select(index, wanted, wish)
        self._trends = {view.run.spec.id: known for view in views if (known := self._trends.get(view.run.spec.id))}
        line = RunQueue(self.home.line_path, host.name())
        shown = next((view for view in views if view.run.spec.id == wish.run_id), views[0] if views else None)
        return LiveState(
            at=_now(),
            rows=tuple(self._row(index, view) for view in views),
            total=total,
            machine=self._look_at_machine(),
            limits=self.limits,
            tickets=tuple(entry.ticket for entry in line.read() if entry.ticket is not None),
            shown=None if shown is None else self._show(index, shown, wish),
            problem=problem,
        )

    def _row(self, index: Index, view: RunView) -> FeedRow:
        metric = metric_names.main_metric(view.summaries)
        count = 0 if metric is None else view.summaries[metric].count
        known = self._trends.get(view.run.spec.id)
        if known is not None and known[0] == count:
            return known[1]._replace(view=view)
        values = () if metric is None else query.sparkline_values(index, view, metric, _TREND_PLACES)
        row = FeedRow(view, metric, tuple(values))
        self._trends[view.run.spec.id] = (count, row)
        return row

    def _look_at_machine(self) -> MachineState:
        snapshot, taken_at = self._machine
        if time.monotonic() - taken_at >= _MACHINE_EVERY_S:
            snapshot = read_machine([str(self.home.path)], self._gpu_probe)
            self._machine = (snapshot, time.monotonic())
        return snapshot

    def _show(self, index: Index, view: RunView, wish: FeedRequest) -> Shown:
        metrics = tuple(name for name in metric_names.all_names([view]) if not metric_names.is_progress(name))
        metric = (
            wish.metric
            if wish.metric in metrics
            else metric_names.main_metric(view.summaries) or next(iter(metrics), None)
        )
        return Shown(
            view=view,
            metric=metric,
            metrics=metrics,
            curve=None
            if metric is None
            else query.curve(index, view, metric, wish.axis, max_points=max(10, wish.points)),
            log=self._read_log(view, is_stderr=wish.is_stderr),
            not_whole=self._find_broken(view),
        )

    def _read_log(self, view: RunView, *, is_stderr: bool) -> Log | None:
        session = view.run.last_session
        if session is None:
            return None
        rundir = self.home.rundir(view.run.spec.id)
        path = rundir.err_path(session.number) if is_stderr else rundir.out_path(session.number)
        with opened(rundir.path, path.name) as fd:
            if fd is None:  # not launched yet, or removed just now
                return None
            found = os.fstat(fd)
            mark = (path, found.st_size, found.st_mtime_ns)
            if mark != self._log[0]:
                self._log = (mark, _log(session.number, last_lines(fd, _LOG_BYTES)))
            return self._log[1]

    def _find_broken(self, view: RunView) -> frozenset[str]:
        mark = (view.run.spec.id, len(view.checkpoints))
        if mark != self._whole[0]:
            is_valid = checkpoints.without_opening_offered(view.run, checkpoints.looks_valid)
            broken = (one.path for one in view.checkpoints if os.path.lexists(one.path) and not is_valid(one))
            self._whole = (mark, frozenset(broken))
        return self._whole[1]


def _select(index: Index, wanted: Wanted, wish: FeedRequest) -> tuple[list[RunView], int]:
    """The runs to show, and how many are wanted in all. The one that is looked at is there unless a search hides it."""
    going_on = query.runs(index, _changed(wanted, statuses=_GOING_ON, limit=wish.limit))
    going_on.sort(key=lambda view: view.run.status is Status.QUEUED)
    newest = query.runs(index, _changed(wanted, limit=wish.limit))
    seen = {view.run.spec.id for view in going_on}
    views = [*going_on, *(view for view in newest if view.run.spec.id not in seen)][: wish.limit]
    if wish.run_id is not None and not wish.search and all(view.run.spec.id != wish.run_id for view in views):
        chosen = index.get(wish.run_id)
        views = [*views[: wish.limit - 1], *([] if chosen is None else [chosen])]
    return views, query.count(index, wanted)


def _changed(wanted: Wanted, *, limit: int, statuses: Sequence[str] = ()) -> Wanted:
    return Wanted(search=wanted.search, conditions=wanted.conditions, statuses=tuple(statuses), limit=limit)


def _log(session: int, piece: Piece) -> Log:
    """The last lines, as a terminal would have left them: of a bar that was drawn over and over, its last state."""
    lines = piece.data.decode(errors="replace").removesuffix("\n").split("\n")
    kept = lines[-_LOG_LINES:]
    shown = tuple(line.rstrip("\r").rpartition("\r")[2][:_LINE_LENGTH] for line in kept)
    return Log(session, shown, is_cut=piece.begin > 0 or len(kept) < len(lines))


def _now() -> datetime:
    return datetime.now(timezone.utc)
