"""Server-sent events: what a page hears while it is open.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import anyio
import anyio.to_thread
import msgspec

from backprop.views.web.changes import Client, Event, Listening
from backprop.views.web.index_pool import Library
from backprop.views.web.poller import Hub
from backprop.views.web.services import Desk

KEEP_ALIVE_S = 15.0  # proxies and browsers give up a connection that is silent for minutes
_MAX_THREADS = 4  # pages that are told something at the same time
_MAX_SAID = 20


class _Line:
    """The line to one page: rung when there may be something to tell, and what is to be told at any rate."""

    def __init__(self) -> None:
        self.bell = asyncio.Event()
        self.said: list[Event] = []


class Streams:
    """All open streams of a server. Made and used in its event loop."""

    def __init__(self, desk: Desk, library: Library) -> None:
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
