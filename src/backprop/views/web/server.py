"""The server's socket, its address, and its life: from `serve` to Ctrl-C."""

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from backprop.errors import UsageError
from backprop.views.web.auth import Address

MAX_CONNECTIONS = 200
ASK_WITHIN_S = 10.0  # from the first byte of a request to its last; the connection's beginning counts as one
_ASKING = frozenset({h11.IDLE, h11.SEND_BODY})  # the client's turn

USUAL_PORT = 7860
_EVERYWHERE = frozenset({"0.0.0.0", "::", ""})  # noqa: S104  wildcard addresses
_THIS_MACHINE = frozenset({"127.0.0.1", "localhost", "::1"})
_LEAVE_WITHIN_S = 2  # a page that does not take what it is sent is cut off


def bound(host: str, port: int | None) -> socket.socket:
    """A socket that is listened at. port: 0 for any free one; None for the usual one if it is free, else any.

    Raises UsageError.
    """
    try:
        return _bound(host, USUAL_PORT if port is None else port)
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return bound(host, 0)
        raise UsageError(_why_not(host, port, error)) from error


def _bound(host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, place = found[0]
    # with its protocol: else asyncio does not know it for TCP, leaves TCP_NODELAY out, and each answer takes 40 ms more
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that is closing keeps no port
        made.bind(place)
        made.listen()
    except OSError:
        made.close()
        raise
    return made


def _why_not(host: str, port: int | None, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken. Choose another, or leave --port out for one that is free."
    if error.errno == errno.EACCES:
        return f"port {port} is not yours to serve on; choose one above 1023."
    return f"--host {host}: this machine cannot serve there ({error.strerror})."


def address(host: str, at: socket.socket) -> Address:
    """Where a socket answers, and by which names."""
    is_everywhere = host in _EVERYWHERE
    names = {*_THIS_MACHINE, host.lower(), at.getsockname()[0]}
    if is_everywhere:
        names.add(socket.gethostname().lower())
    return Address(host=host, port=at.getsockname()[1], names=frozenset(names), is_everywhere=is_everywhere)


def is_private(at: socket.socket) -> bool:
    """Whether only this machine can reach the server there."""
    return ipaddress.ip_address(at.getsockname()[0]).is_loopback


def url(at: Address, token: str) -> str:
    """What to type into a browser."""
    host = socket.gethostname() if at.is_everywhere else at.host
    return f"http://{f'[{host}]' if ':' in host else host}:{at.port}/?token={token}"


class _Server(uvicorn.Server):
    """Ends the streams before it waits for the requests that go on."""

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._end_streams()
        await super().shutdown(sockets)


def serve(app: ASGIApp, end_streams: Callable[[], None], at: socket.socket) -> None:
    """Answer requests until a signal comes, which is then raised again: SIGINT as KeyboardInterrupt."""
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="critical",  # requests hold the token, and bugs are logged by app.py
        access_log=False,
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,  # of those that are answered: see above
        timeout_graceful_shutdown=_LEAVE_WITHIN_S,
    )
    _Server(config, end_streams).run(sockets=[at])


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
