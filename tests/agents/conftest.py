"""A real server, asked by the client of the SDK over its stdin and stdout: `make exports` has both."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import psutil
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from backprop.cli.mcp.answer import data_of
from tests.conftest import BACKPROP, HANG_S, Runs

TIMED_OUT = 124  # exit code


class Answer(NamedTuple):
    """What a tool answered."""

    is_error: bool
    texts: list[str]
    images: list[str]  # their data

    @property
    def head(self) -> dict[str, Any]:
        """Its first part: what the server says itself."""
        return json.loads(self.texts[0])

    @property
    def data(self) -> str:
        """What stands between the marks."""
        return data_of(self.texts[1])

    @property
    def size(self) -> int:
        return sum(map(len, self.texts))


class Agent:
    """A client with a server of its own."""

    def __init__(self, portal: BlockingPortal, client: Client, server: psutil.Process) -> None:
        self._portal = portal
        self.client = client
        self.server = server

    def tools(self) -> dict[str, Any]:
        return {tool.name: tool for tool in self._portal.call(self.client.list_tools).tools}

    def call(self, name: str, /, **arguments: Any) -> Answer:
        return self.begin(name, **arguments)()

    def begin(self, name: str, /, **arguments: Any) -> Callable[[], Answer]:
        """Call a tool; the function waits for its answer."""
        future = self._portal.start_task_soon(self.client.call_tool, name, arguments)

        def end() -> Answer:
            result = future.result(HANG_S)
            texts = [block.text for block in result.content if block.type == "text"]
            return Answer(result.is_error, texts, [block.data for block in result.content if block.type == "image"])

        return end

    def wait(self, *ids: str) -> Answer:
        """Wait for these runs, by as many calls as it takes: each gives up before a client would."""
        while (answer := self.call("wait", runs=list(ids))).head["exit"] == TIMED_OUT:
            pass
        return answer

    def ask(self, name: str, /, **arguments: Any) -> str:
        """The data of an answer that is no error."""
        answer = self.call(name, **arguments)
        assert not answer.is_error, answer.texts
        return answer.data


Serve = Callable[..., AbstractContextManager[Agent]]


@pytest.fixture
def serve(runs: Runs) -> Serve:
    @contextmanager
    def served(*words: object) -> Iterator[Agent]:
        parameters = StdioServerParameters(
            command=BACKPROP, args=["mcp", *map(str, words)], env=runs.environment, cwd=runs.work
        )
        before = set(psutil.Process().children())
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(Client(parameters)) as client:
            (server,) = [one for one in psutil.Process().children() if one not in before and "mcp" in one.cmdline()]
            yield Agent(portal, client, server)

    return served
