"""Server-sent events for open pages.

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
from backprop.views.web.index_pool import LATER, IndexPool
from backprop.views.web.poller import Poller
from backprop.views.web.serializers import CurveSubscription
from backprop.views.web.services import Services

_LOG_BYTES = 65_536  # maximum between two polls; of more, the last
Event = tuple[str, bytes]
_encode = msgspec.json.Encoder().encode

KEEP_ALIVE_S = 15.0  # proxies and browsers give up a connection that is silent for minutes
_MAX_THREADS = 4  # pages that are served at the same time
_MAX_MESSAGES = 20


class Subscription(msgspec.Struct, kw_only=True):
    """What a page shows, and so receives events about."""

    runs: tuple[str, ...] = ()
    curves: tuple[CurveSubscription, ...] = ()
    details: str | None = None
    log_run: str | None = None
    log: logs.LogPlace | None = None
    machine: bool = False


class _Wakeup:
    """Wakes the stream of one page when there may be updates; `messages` are sent in any case."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.messages: list[Event] = []


class Streams:
    """All open streams of a server. Made and used in its event loop."""

    def __init__(self, services: Services, pool: IndexPool) -> None:
        self.poller = Poller(services, pool, lambda: self._in_loop(self._wake))
        self._loop = asyncio.get_running_loop()
        self._wakeups: set[_Wakeup] = set()
        self._threads = anyio.CapacityLimiter(_MAX_THREADS)
        self._is_over = False

    async def open(self, subscription: Subscription) -> AsyncIterator[bytes]:
        """The events of one page, until it closes or the server exits. None is made before the page took the last."""
        client, wakeup = Client(self.poller, subscription), _Wakeup()
        self._wakeups.add(wakeup)
        self.poller.join(machine=subscription.machine)
        try:
            yield b"retry: 2000\n\n"
            sent_at = time.monotonic()
            if self.poller.is_fresh:
                wakeup.event.set()
            while not self._is_over:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(wakeup.event.wait(), KEEP_ALIVE_S)
                wakeup.event.clear()
                events, wakeup.messages = wakeup.messages, []
                events += await anyio.to_thread.run_sync(client.updates, limiter=self._threads)
                for name, data in events:
                    yield b"event: %s\ndata: %s\n\n" % (name.encode(), data)
                if events:
                    sent_at = time.monotonic()
                elif time.monotonic() - sent_at >= KEEP_ALIVE_S:
                    yield b": keep-alive\n\n"
                    sent_at = time.monotonic()
        finally:
            self._wakeups.discard(wakeup)
            self.poller.leave(machine=subscription.machine)

    def send_outcome(self, run_id: str, text: str, *, is_error: bool) -> None:
        """Send all pages the outcome of a slow request. Thread-safe."""
        event = "told", msgspec.json.encode({"run": run_id, "text": text, "error": is_error})
        self._in_loop(lambda: self._send(event))

    def _send(self, event: Event) -> None:
        for wakeup in self._wakeups:
            wakeup.messages = [*wakeup.messages[-_MAX_MESSAGES:], event]
        self._wake()

    def end(self) -> None:
        """Close all streams, so that the server can exit."""
        self._is_over = True
        self._wake()
        self.poller.close()

    def _wake(self) -> None:
        for wakeup in self._wakeups:
            wakeup.event.set()

    def _in_loop(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(call)


class Client:
    """One page. `updates` is called by one thread at a time, after the page has taken the last ones.

    So a slow page gets fewer events, and costs no memory.
    """

    def __init__(self, poller: Poller, subscription: Subscription) -> None:
        self._poller = poller
        self._subscription = subscription
        self._log = subscription.log
        self._machine = 0
        self._trouble: str | None = None
        self._seen = -1  # number of the last poll that was sent
        self._version: int | None = None
        self._rows: dict[str, bytes] = {}
        self._details = b""

    def _forget(self) -> None:
        """Start over, as if nothing had been sent: curves are sent whole again."""
        self._seen, self._version, self._rows, self._details = -1, None, {}, b""
        for watch in self._subscription.curves:
            watch.mark = None

    def updates(self) -> list[Event]:
        """The events since the last call."""
        machine, log = self._machine, self._log
        try:
            return self._updates()
        except LATER as error:
            self._forget()  # events made before the failure are lost: send them again
            self._machine, self._log = machine, log
            self._trouble = f"the index cannot be read: {error}"
            return [("trouble", _encode({"error": self._trouble}))]

    def _updates(self) -> list[Event]:
        result, events = self._poller.result, list(self._of_machine())
        if result.number == self._seen:
            return events
        if result.trouble != self._trouble:
            self._trouble = result.trouble
            events.append(("trouble", _encode({"error": result.trouble})))
        if result.version != self._version:
            self._version = result.version
            events.append(("table", _encode({"total": result.total, "version": result.version})))
        with self._poller.pool.connection() as index:
            views = _Views(index, self._subscription.curves)
            events += [*self._of_rows(index), *self._of_details(index), *self._of_curves(views), *self._of_log(views)]
        self._seen = result.number
        return events

    def _may_have_changed(self, run_id: str) -> bool:
        return self._seen < 0 or self._poller.changed_at(run_id) > self._seen

    def _of_machine(self) -> Iterator[Event]:
        reading = self._poller.machine
        if self._subscription.machine and reading is not None and reading[0] != self._machine:
            self._machine = reading[0]
            yield "machine", reading[1]

    def _of_rows(self, index: Index) -> Iterator[Event]:
        changed = []
        for run_id in filter(self._may_have_changed, self._subscription.runs):
            row = self._poller.row(index, run_id)
            if row is not None and self._rows.get(run_id) != row.key:
                self._rows[run_id] = row.key
                changed.append(row.text)
        if changed:
            yield "rows", b"[" + b",".join(changed) + b"]"

    def _of_details(self, index: Index) -> Iterator[Event]:
        run_id = self._subscription.details
        if run_id is None or not self._may_have_changed(run_id):
            return
        rendered = self._poller.details(index, run_id)
        if rendered is not None and rendered.key != self._details:
            self._details = rendered.key
            yield "run", rendered.text

    def _of_curves(self, views: "_Views") -> Iterator[Event]:
        for watch in self._subscription.curves:
            view = views.get(watch.run) if self._may_have_changed(watch.run) else None
            if view is not None and (update := serializers.curve_update(views.index, view, watch)) is not None:
                yield "curve", _encode(update)

    def _of_log(self, views: "_Views") -> Iterator[Event]:
        run_id = self._subscription.log_run
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
                event = {"run": run_id, "source": begin.stream, "session": begin.session, "text": text}
                yield "log", _encode({**event, "begin": begin.offset, "end": self._log.offset})
            if self._log.session >= newest:
                return
            self._log = logs.LogPlace(stream=self._log.stream, session=newest, offset=0)


class _Views:
    """The runs at one poll, each read once, with only the metrics whose curves are on the page."""

    def __init__(self, index: Index, watched: Iterable[CurveSubscription]) -> None:
        self.index = index
        self._metrics = {watch.metric for watch in watched}
        self._views: dict[str, RunView | None] = {}

    def get(self, run_id: str) -> RunView | None:
        if run_id not in self._views:
            self._views[run_id] = self.index.get(run_id, metrics=self._metrics)
        return self._views[run_id]
