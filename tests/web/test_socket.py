"""The socket that the page is served at."""

import asyncio
import socket

import pytest

from backprop.views.web import server


def test_small_answers_are_not_held_back():
    """Nagle's algorithm and delayed acknowledgements together would make each of a page's files 40 ms late."""

    async def is_sent_at_once() -> int:
        told: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            told.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with server.bound("127.0.0.1", 0) as at:
            async with await asyncio.start_server(connected, sock=at):
                _, writer = await asyncio.open_connection(*at.getsockname())
                is_set = await told
                writer.close()
                await writer.wait_closed()
        return is_set

    assert asyncio.run(is_sent_at_once())


@pytest.mark.parametrize(
    ("host", "is_private"),
    [("127.0.0.1", True), ("localhost", True), ("127.0.0.2", True), ("127.1", True), ("0.0.0.0", False)],
)
def test_all_of_loopback_is_private(host: str, is_private: bool):
    """No warning of a network where there is none."""
    with server.bound(host, 0) as at:
        assert server.is_private(at) is is_private
