"""What has changed since a page was last told. Each page gets its own part, and only that is read."""

from collections.abc import Iterable, Iterator

import msgspec

from backprop.records import RunView
from backprop.store.index import Index
from backprop.views.web import curves, logs
from backprop.views.web.curves import CurveWatch
from backprop.views.web.index_pool import LATER
from backprop.views.web.poller import Hub

_LOG_BYTES = 65_536  # of what is appended between two looks; of more, the last

Event = tuple[str, bytes]
_encode = msgspec.json.Encoder().encode


class Listening(msgspec.Struct, kw_only=True):
    """What a page shows, and so wants to hear of."""

    runs: tuple[str, ...] = ()
    curves: tuple[CurveWatch, ...] = ()
    details: str | None = None
    log_run: str | None = None
    log: logs.LogPlace | None = None
    machine: bool = False


class Client:
    """One page. `news` is called by one thread at a time, and not before its last words were taken.

    So a page that takes its time is told less often, and costs no memory.
    """

    def __init__(self, hub: Hub, listening: Listening) -> None:
        self._hub = hub
        self._listening = listening
        self._log = listening.log
        self._machine = 0
        self._trouble: str | None = None
        self._seen = -1  # number of the last beat that was told of
        self._version: int | None = None
        self._rows: dict[str, bytes] = {}
        self._details = b""

    def _forget(self) -> None:
        """As if nothing had been told. Curves come whole again."""
        self._seen, self._version, self._rows, self._details = -1, None, {}, b""
        for watch in self._listening.curves:
            watch.mark = None

    def news(self) -> list[Event]:
        """What the page does not know yet."""
        machine, log = self._machine, self._log
        try:
            return self._news()
        except LATER as error:
            self._forget()  # what was found before it failed is lost on the way, and told again
            self._machine, self._log = machine, log
            self._trouble = f"the index cannot be read: {error}"
            return [("trouble", _encode({"error": self._trouble}))]

    def _news(self) -> list[Event]:
        beat, events = self._hub.beat, list(self._of_machine())
        if beat.number == self._seen:
            return events
        if beat.trouble != self._trouble:
            self._trouble = beat.trouble
            events.append(("trouble", _encode({"error": beat.trouble})))
        if beat.version != self._version:
            self._version = beat.version
            events.append(("table", _encode({"total": beat.total, "version": beat.version})))
        with self._hub.library.lent() as index:
            views = _Views(index, self._listening.curves)
            events += [*self._of_rows(index), *self._of_details(index), *self._of_curves(views), *self._of_log(views)]
        self._seen = beat.number
        return events

    def _may_have_changed(self, run_id: str) -> bool:
        return self._seen < 0 or self._hub.changed_at(run_id) > self._seen

    def _of_machine(self) -> Iterator[Event]:
        reading = self._hub.machine
        if self._listening.machine and reading is not None and reading[0] != self._machine:
            self._machine = reading[0]
            yield "machine", reading[1]

    def _of_rows(self, index: Index) -> Iterator[Event]:
        changed = []
        for run_id in filter(self._may_have_changed, self._listening.runs):
            row = self._hub.row(index, run_id)
            if row is not None and self._rows.get(run_id) != row.key:
                self._rows[run_id] = row.key
                changed.append(row.text)
        if changed:
            yield "rows", b"[" + b",".join(changed) + b"]"

    def _of_details(self, index: Index) -> Iterator[Event]:
        run_id = self._listening.details
        if run_id is None or not self._may_have_changed(run_id):
            return
        told = self._hub.details(index, run_id)
        if told is not None and told.key != self._details:
            self._details = told.key
            yield "run", told.text

    def _of_curves(self, views: "_Views") -> Iterator[Event]:
        for watch in self._listening.curves:
            view = views.get(watch.run) if self._may_have_changed(watch.run) else None
            if view is not None and (news := curves.news(views.index, view, watch)) is not None:
                yield "curve", _encode(news)

    def _of_log(self, views: "_Views") -> Iterator[Event]:
        run_id = self._listening.log_run
        if run_id is None or self._log is None or not self._may_have_changed(run_id):
            return
        view = views.get(run_id)
        if view is None or view.run.last_session is None:
            return
        newest = view.run.last_session.number
        while True:
            appended = logs.log_after(view, self._log, _LOG_BYTES)
            if appended is not None:
                text, begin, self._log = appended
                told = {"run": run_id, "source": begin.stream, "session": begin.session, "text": text}
                yield "log", _encode({**told, "begin": begin.offset, "end": self._log.offset})
            if self._log.session >= newest:
                return
            self._log = logs.LogPlace(stream=self._log.stream, session=newest, offset=0)


class _Views:
    """Runs as they are at one look, each read once, and of their metrics only those whose curves are on the page."""

    def __init__(self, index: Index, watched: Iterable[CurveWatch]) -> None:
        self.index = index
        self._metrics = {watch.metric for watch in watched}
        self._views: dict[str, RunView | None] = {}

    def get(self, run_id: str) -> RunView | None:
        if run_id not in self._views:
            self._views[run_id] = self.index.get(run_id, metrics=self._metrics)
        return self._views[run_id]
