"""A connection that somebody made: it has so long to say what it wants, and makes room for who comes after it.

Whoever can reach the port can open connections, with or without the token, and send half a request on each.
"""

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 200
ASK_WITHIN_S = 10.0  # from the first byte of a request to its last; the connection's beginning counts as one
_ASKING = frozenset({h11.IDLE, h11.SEND_BODY})  # the client's turn


class Connection(H11Protocol):
    """Uvicorn's, which by itself waits for ever for the rest of a request, and at its limit turns newcomers away."""

    _deadline: asyncio.TimerHandle | None = None
    waits_since = 0.0  # since when it waits for a request, by the loop's clock

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_a_request()
        if len(self.connections) >= MAX_CONNECTIONS:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state not in _ASKING:
            self._forget_deadline()
        elif self._deadline is None:
            self._expect_a_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def _expect_a_request(self) -> None:
        self.waits_since = self.loop.time()
        self._deadline = self.loop.call_later(ASK_WITHIN_S, self.transport.abort)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _make_room(self) -> None:
        """End the connection that has said nothing, or not all of it, for longest. Those that are answered stay."""
        silent = [
            other
            for other in self.connections
            if isinstance(other, Connection) and other is not self and other.is_silent
        ]
        if silent:
            longest = min(silent, key=lambda other: other.waits_since)
            self.connections.discard(longest)  # now: others may come before the loop tells it that it is lost
            longest.transport.abort()

    @property
    def is_silent(self) -> bool:
        """Whether nothing is being answered here."""
        return self.cycle is None or self.cycle.response_complete
