"""Connections on which nothing, or only half a request, is said: they end, and stand in nobody's way."""

import asyncio
import socket
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from backprop.views.web import server
from backprop.views.web.server import Connection
from tests.conftest import HANG_S
from tests.web.conftest import Server

HALF = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Half: "


def test_half_sent_requests_keep_nobody_out(quiet_server: Server):
    """However many connections wait with half a request, a page is answered, and its stream goes on."""
    with quiet_server.stream(machine=1) as stream, ExitStack() as crowd:
        for _ in range(2 * server.MAX_CONNECTIONS):
            made = crowd.enter_context(socket.create_connection(("127.0.0.1", quiet_server.port)))
            made.sendall(HALF)
        assert quiet_server.get("/api/runs").status == 200
        stream.next_of("machine")


def test_requests_that_were_answered_keep_nobody_out(quiet_server: Server):
    """Nor do connections that are kept open after an answer, refused ones among them."""
    with ExitStack() as crowd:
        for _ in range(server.MAX_CONNECTIONS + 10):
            made = crowd.enter_context(socket.create_connection(("127.0.0.1", quiet_server.port)))
            made.sendall(b"GET /api/runs HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert made.recv(1000).startswith(b"HTTP/1.1 403")
        assert quiet_server.get("/api/runs").status == 200


@pytest.fixture
def deadline(monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(server, "ASK_WITHIN_S", 0.3)
    return 0.3


@asynccontextmanager
async def listening() -> Any:
    """The port of a server whose connections are ours, and which answers once it has all of a request."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await asyncio.sleep(scope["path"] == "/slow")
        await send({"type": "http.response.body", "body": b"ok"})

    config = uvicorn.Config(app, log_config=None, timeout_keep_alive=60)
    config.load()
    state = ServerState()
    made = await asyncio.get_running_loop().create_server(lambda: Connection(config, state, {}), "127.0.0.1", 0)
    async with made:
        yield made.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        HALF,
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + HALF,
    ],
    ids=["nothing", "half a head", "half a body", "a request and a half"],
)
def test_what_is_not_said_in_time_is_not_waited_for(deadline: float, begun: bytes):
    """The connection ends, though it goes on letter by letter."""

    async def trickle() -> None:
        async with listening() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(begun)
            ended = asyncio.ensure_future(reader.read())
            while begun and not ended.done():
                writer.write(b"x")
                await asyncio.sleep(deadline / 10)
            with suppress(ConnectionError):  # what was not read when it ended is answered by a reset
                assert (await ended).count(b"HTTP/1.1 200") == begun.count(b"\r\n\r\nGET")
            writer.close()

    asyncio.run(asyncio.wait_for(trickle(), HANG_S))


def test_an_answer_may_take_longer(deadline: float):
    """A stream of events goes on for days: only the request is waited for so long."""

    async def ask() -> bytes:
        async with listening() as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            told = await reader.read()
            writer.close()
            return told

    assert deadline < 1
    assert asyncio.run(ask()).endswith(b"ok")
