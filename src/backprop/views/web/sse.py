"""Server-sent events: what a page hears while it is open.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress

import anyio
import anyio.to_thread
import msgspec

from backprop.records import RunView
from backprop.store.index import Index
from backprop.views.web import logs, serializers
from backprop.views.web.index_pool import LATER, Library
from backprop.views.web.poller import Hub
from backprop.views.web.serializers import CurveWatch
from backprop.views.web.services import Services

_LOG_BYTES = 65_536  # of what is appended between two looks; of more, the last
Event = tuple[str, bytes]
_encode = msgspec.json.Encoder().encode

KEEP_ALIVE_S = 15.0  # proxies and browsers give up a connection that is silent for minutes
_MAX_THREADS = 4  # pages that are told something at the same time
_MAX_SAID = 20


class Listening(msgspec.Struct, kw_only=True):
    """What a page shows, and so wants to hear of."""

    runs: tuple[str, ...] = ()
    curves: tuple[CurveWatch, ...] = ()
    details: str | None = None
    log_run: str | None = None
    log: logs.LogPlace | None = None
    machine: bool = False


class _Line:
    """The line to one page: rung when there may be something to tell, and what is to be told at any rate."""

    def __init__(self) -> None:
        self.bell = asyncio.Event()
        self.said: list[Event] = []


class Streams:
    """All open streams of a server. Made and used in its event loop."""

    def __init__(self, desk: Services, library: Library) -> None:
        self.hub = Hub(desk, library, lambda: self._in_loop(self._ring))
        self._loop = asyncio.get_running_loop()
        self._lines: set[_Line] = set()
        self._threads = anyio.CapacityLimiter(_MAX_THREADS)
        self._is_over = False

    async def open(self, listening: Listening) -> AsyncIterator[bytes]:
        """What one page hears, until it goes or the server ends. Nothing is read for it before it took what it got."""
        client, line = Client(self.hub, listening), _Line()
        self._lines.add(line)
        self.hub.join(machine=listening.machine)
        try:
            yield b"retry: 2000\n\n"
            spoke_at = time.monotonic()
            if self.hub.is_fresh:
                line.bell.set()
            while not self._is_over:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(line.bell.wait(), KEEP_ALIVE_S)
                line.bell.clear()
                events, line.said = line.said, []
                events += await anyio.to_thread.run_sync(client.news, limiter=self._threads)
                for name, data in events:
                    yield b"event: %s\ndata: %s\n\n" % (name.encode(), data)
                if events:
                    spoke_at = time.monotonic()
                elif time.monotonic() - spoke_at >= KEEP_ALIVE_S:
                    yield b": keep-alive\n\n"
                    spoke_at = time.monotonic()
        finally:
            self._lines.discard(line)
            self.hub.leave(machine=listening.machine)

    def say(self, run_id: str, text: str, *, is_error: bool) -> None:
        """Tell all pages what became of an order that took its time. From any thread."""
        event = "told", msgspec.json.encode({"run": run_id, "text": text, "error": is_error})
        self._in_loop(lambda: self._say(event))

    def _say(self, event: Event) -> None:
        for line in self._lines:
            line.said = [*line.said[-_MAX_SAID:], event]
        self._ring()

    def end(self) -> None:
        """Let all pages go: a server that ends waits for nobody who only listens."""
        self._is_over = True
        self._ring()
        self.hub.close()

    def _ring(self) -> None:
        for line in self._lines:
            line.bell.set()

    def _in_loop(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(call)


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
            if view is not None and (news := serializers.curve_news(views.index, view, watch)) is not None:
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
