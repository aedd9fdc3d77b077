"""The rows of `watch`: runs, and groups of runs as one row that opens.

Only active runs are read again each time; those that have ended when a run of the home has changed its state.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from backprop.records import Record, RunView, Status
from backprop.store import metric_names, query
from backprop.store.curves import Axis
from backprop.store.filters import Condition, Wanted
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.views.run_row import RunRow

_TREND_POINTS = 24
_ACTIVE = tuple(status.value for status in Status if not status.is_final)
_QUEUED = Status.QUEUED.value


class GroupHead(NamedTuple):
    """A group in one row."""

    row: query.GroupRow
    metric: str | None  # of which it has the best value and the mean; None: nobody knows which values are better
    run_id: str  # of the run that is shown for it: the best, else the newest that is active, else the newest
    is_open: bool

    @property
    def name(self) -> str:
        """The name of the group."""
        return str(self.row.value)

    @property
    def run_count(self) -> int:
        """How many runs it has, of any status."""
        return sum(self.row.statuses.values())


Row = RunRow | GroupHead


class Rows(Record, frozen=True):
    """What the table shows."""

    rows: tuple[Row, ...] = ()  # running, then queued, then the newest; the runs of an open group follow its head
    active: Mapping[Status, int] = {}  # how many runs have each status, those in closed groups included
    total: int = 0  # runs in the home, or found by the search
    shown: RunView | None = None  # the run that was asked for, or stands for the group that was
    head: GroupHead | None = None  # that group


class FeedRequest(Record, frozen=True):
    """What is shown."""

    run_id: str | None = None  # whose curve and log are shown, and whose group is open; None: the first run's
    group: str | None = None  # whose row is selected, in the place of a run's
    open_groups: frozenset[str] = frozenset()
    search: str = ""  # words and conditions such as status=failed
    metric: str | None = None  # None: the run's loss
    axis: Axis = Axis.STEP
    points: int = 200  # approximate number of points of the curve
    is_stderr: bool = False
    wants_usage: bool = False  # curves of what the run used
    limit: int = 200  # maximum number of rows, and of runs in an open group


class LiveRows:
    """Reads rows. Not for use from several threads."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._mark: object = None
        self._known: dict[str, RunView] = {}
        self._trends: dict[str, tuple[int, RunRow]] = {}  # id -> number of points that the trend was made from

    def read(self, index: Index, wanted: Wanted, request: FeedRequest) -> Rows:
        """wanted: which runs are in the list."""
        self._forget_changed(index)
        chosen = None if request.run_id is None else self._view(index, request.run_id)
        own_group = None if chosen is None else chosen.annotations.group
        opened = request.open_groups if own_group is None else request.open_groups | {own_group}
        heads, single_ids = self._heads(index, wanted, request, opened)
        singles = self._singles(index, wanted, request.limit, single_ids)
        rows: list[Row] = []
        placed: list[GroupHead | RunView] = [*heads, *singles]
        for one in sorted(placed, key=_place)[: request.limit]:
            if isinstance(one, GroupHead):
                rows += [one, *self._members(index, wanted, one, request.limit)]
            else:
                rows.append(self._run_row(index, one))
        is_all = not wanted.search and not wanted.conditions
        if chosen is not None and is_all and request.run_id not in _run_ids(rows):  # archived, or cut off by the limit
            rows = [*(rows[:-1] if len(rows) >= request.limit else rows), self._run_row(index, chosen)]
        ids = _run_ids(rows)
        self._trends = {run_id: known for run_id, known in self._trends.items() if run_id in ids}
        first = next((row for row in rows if _is_selected(row, request)), rows[0] if rows else None)
        return Rows(
            rows=tuple(rows),
            active=_counted(heads, singles),
            total=query.count(index, wanted),
            shown=None if first is None else self._view(index, id_of(first)),
            head=first if isinstance(first, GroupHead) else None,
        )

    def _forget_changed(self, index: Index) -> None:
        unsettled = frozenset(self._home.unsettled())
        mark = object() if index.is_in_memory else self._home.change_mark()
        self._known = {
            run_id: view
            for run_id, view in self._known.items()
            if mark == self._mark and view.run.status.is_final and run_id not in unsettled
        }
        self._mark = mark

    def _view(self, index: Index, run_id: str) -> RunView | None:
        if run_id not in self._known and (view := index.get(run_id)) is not None:
            self._known[run_id] = view
        return self._known.get(run_id)

    def _views(self, index: Index, ids: Iterable[str]) -> list[RunView]:
        return [view for run_id in dict.fromkeys(ids) if (view := self._view(index, run_id)) is not None]

    def _ids(self, index: Index, wanted: Wanted, limit: int) -> list[str]:
        """Those that are active, then the newest."""
        active = query.ids(index, msgspec.structs.replace(wanted, statuses=_ACTIVE, limit=limit))
        newest = query.ids(index, msgspec.structs.replace(wanted, limit=limit))
        return list(dict.fromkeys([*active, *newest]))[:limit]

    def _singles(self, index: Index, wanted: Wanted, limit: int, ids: Sequence[str]) -> list[RunView]:
        """The runs in no group, and these."""
        return self._views(index, [*ids, *self._ids(index, _of_group(wanted, ""), limit)])

    def _heads(
        self, index: Index, wanted: Wanted, request: FeedRequest, opened: frozenset[str]
    ) -> tuple[list[GroupHead], list[str]]:
        """The groups, and the runs that are the only ones in theirs."""
        found = sorted(query.groups(index, wanted, "group", ""), key=lambda row: _rank(row.statuses))
        rows = {str(row.value): row for row in found[: request.limit]}
        samples = {name: self._views(index, _by_status(row)) for name, row in rows.items()}
        several = [name for name, row in rows.items() if sum(row.statuses.values()) > 1 and samples[name]]
        metrics = {name: _metric(samples[name]) for name in several}
        bests = {
            (str(row.value), metric): row
            for metric in set(filter(None, metrics.values()))
            for row in query.groups(index, wanted, "group", metric)
        }
        heads = []
        for name, metric in metrics.items():
            row = rows[name] if metric is None else bests.get((name, metric), rows[name])
            run_id = row.best_id or samples[name][0].run.spec.id
            heads.append(GroupHead(row, metric, run_id, is_open=name in opened))
        return heads, [
            run_id for name, row in rows.items() if name not in metrics for run_id in row.newest_ids.values()
        ]

    def _members(self, index: Index, wanted: Wanted, head: GroupHead, limit: int) -> list[RunRow]:
        if not head.is_open:
            return []
        views = self._views(index, self._ids(index, _of_group(wanted, head.name), limit))
        views.sort(key=lambda view: _rank({view.run.status: 1}))
        return [self._run_row(index, view) for view in _in_group(views, head.name)]

    def _run_row(self, index: Index, view: RunView) -> RunRow:
        row = RunRow.of(view)
        count = 0 if row.summary is None else row.summary.count
        points, known = self._trends.get(view.run.spec.id, (0, row))
        is_like_known = points <= count and _TREND_POINTS * count < (_TREND_POINTS + 1) * points
        if is_like_known and row.metric == known.metric:
            return known._replace(view=view)
        if row.metric is not None:
            row = row._replace(trend=tuple(query.sparkline_values(index, view, row.metric, _TREND_POINTS)))
        self._trends[view.run.spec.id] = (count, row)
        return row


def _is_selected(row: Row, request: FeedRequest) -> bool:
    if isinstance(row, GroupHead):
        return row.name == request.group
    return request.group is None and row.view.run.spec.id == request.run_id


def id_of(row: Row) -> str:
    """The run of a row, or the one that stands for a group."""
    return row.run_id if isinstance(row, GroupHead) else row.view.run.spec.id


def _of_group(wanted: Wanted, group: str) -> Wanted:
    """The same, of this group only, which may be one of another case too; "": of none."""
    condition = Condition(name="group", operator="=", value=group)
    return msgspec.structs.replace(wanted, conditions=(*wanted.conditions, condition))


def _in_group(views: Iterable[RunView], group: str) -> list[RunView]:
    return [view for view in views if view.annotations.group == group]


def _run_ids(rows: Iterable[Row]) -> set[str]:
    """The runs with a row of their own."""
    return {row.view.run.spec.id for row in rows if isinstance(row, RunRow)}


def _metric(views: Sequence[RunView]) -> str | None:
    """What most of these runs are about; None also where nobody knows which of its values are better."""
    metric = metric_names.commonest_main_metric(views)
    return metric if metric is not None and metric_names.common_goal(metric, views) is not None else None


def _place(one: GroupHead | RunView) -> tuple[int, float]:
    """Where a group or a run is in the table: by what it does, then the newest first."""
    if isinstance(one, GroupHead):
        return _rank(one.row.statuses), -one.row.newest
    return _rank({one.run.status: 1}), -one.run.spec.created_at.timestamp()


def _by_status(row: query.GroupRow) -> list[str]:
    """Of each status the newest run of a group; those that are active first."""
    return [row.newest_ids[status] for status in sorted(row.newest_ids, key=lambda status: Status(status).is_final)]


def _rank(statuses: Mapping[Status, int] | Mapping[str, int]) -> int:
    """Running (or paused) comes first, then queued."""
    active = {Status(status) for status in statuses if not Status(status).is_final}
    return 2 if not active else 1 if active == {Status.QUEUED} else 0


def _counted(heads: Sequence[GroupHead], singles: Sequence[RunView]) -> dict[Status, int]:
    counts: dict[Status, int] = {}
    for head in heads:
        for status, count in head.row.statuses.items():
            counts[Status(status)] = counts.get(Status(status), 0) + count
    for view in singles:
        counts[view.run.status] = counts.get(view.run.status, 0) + 1
    return {status: count for status, count in counts.items() if not status.is_final}
