"""The server at the level of the protocol, as any client sees it: versions, capabilities, and the tools' schemas."""

import json
import re
import subprocess
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from backprop import __version__
from backprop.cli.mcp.tools import TOOLS
from tests.agents.conftest import Serve
from tests.conftest import BACKPROP, HANG_S, Runs

METHOD_NOT_FOUND = -32601  # JSON-RPC 2.0


def answers(runs: Runs, version: str, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a server answers to `initialize` and these requests, a line each, until its stdin is closed."""
    server = runs.start_program([BACKPROP, "mcp"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    hello = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    messages = [{"method": "initialize", "params": hello}, {"method": "notifications/initialized"}, *requests]
    lines = []
    for number, message in enumerate(messages):
        is_request = not message["method"].startswith("notifications/")
        identity = {"id": number} if is_request else {}
        server.stdin.write(json.dumps({"jsonrpc": "2.0", **identity, **message}).encode() + b"\n")
        server.stdin.flush()
        if is_request:
            lines.append(json.loads(server.stdout.readline()))
            assert lines[-1]["id"] == number
    server.stdin.close()
    assert server.stdout.read() == b""
    assert server.wait(HANG_S) == 0
    return lines


@pytest.mark.parametrize("version", [*HANDSHAKE_PROTOCOL_VERSIONS, "1999-01-01"])
def test_every_version_of_the_protocol(runs: Runs, version: str):
    """A client gets the version that it asks for, or the newest; tools and nothing else are offered, and work."""
    call = {"method": "tools/call", "params": {"name": "runs", "arguments": {}}}
    begun, listed, called, pong, unknown = answers(
        runs, version, [{"method": "tools/list"}, call, {"method": "ping"}, {"method": "resources/list"}]
    )
    result = begun["result"]
    newest = HANDSHAKE_PROTOCOL_VERSIONS[-1]
    assert result["protocolVersion"] == (version if version in HANDSHAKE_PROTOCOL_VERSIONS else newest)
    assert result["capabilities"] == {"tools": {"listChanged": False}}
    assert (result["serverInfo"]["name"], result["serverInfo"]["version"]) == ("backprop", __version__)
    assert "guide" in result["instructions"]
    assert [tool["name"] for tool in listed["result"]["tools"]] == [
        name for name, tool in TOOLS.items() if tool.is_allowed_to_readers
    ]
    assert not called["result"].get("isError", False)
    assert [block["type"] for block in called["result"]["content"]] == ["text", "text"]
    assert pong["result"] == {}
    assert unknown["error"]["code"] == METHOD_NOT_FOUND


def test_the_schemas_are_valid(serve: Serve):
    """JSON Schema for each tool, with names and texts within the bounds of common clients; defaults fit, others are found."""
    with serve("--allow", "run") as agent:
        tools = agent.tools()
    for name, tool in tools.items():
        assert re.fullmatch(r"[a-z_]{1,64}", name)
        assert 0 < len(tool.description) <= 1024
        schema = tool.input_schema
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object"
        assert set(schema.get("required", ())) <= set(schema["properties"])
        for argument, one in schema["properties"].items():
            assert "type" in one or "enum" in one, (name, argument)
            if "default" in one:
                jsonschema.validate(one["default"], one)
    runs, wait = (jsonschema.Draft202012Validator(tools[name].input_schema) for name in ("runs", "wait"))
    assert runs.is_valid({"limit": 5, "filter": "lr>1", "groups": True})
    for wrong in ({"limit": 0}, {"limit": "many"}, {"groups": "yes"}, {"max_chars": 10**9}):
        assert not runs.is_valid(wrong)
    assert not wait.is_valid({"seconds": 51})
    assert not jsonschema.Draft202012Validator(tools["start"].input_schema).is_valid({"script": "train.py"})
