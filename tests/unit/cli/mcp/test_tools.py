"""What an agent gives a tool is a value, whatever it looks like."""

import typing
from typing import Any

import click
import msgspec
import pytest
from click.core import ParameterSource

from backprop.cli import completion
from backprop.cli.app import app
from backprop.cli.mcp.tools import TOOLS, OnRun, Tool
from backprop.errors import BackpropError

HOSTILE = (
    "--home=/x",
    "-rf",
    "--",
    "-",
    "--json",
    "--yes",
    "a\nb",
    "\x1b[31m",
    "=",
    "last; rm -rf /",
    "日本",
    "--help",
)
KEPT = {"cwd": "/work", "request_id": "r1", "budget_minutes": 1.0}  # checked before, or by the command, or no text


FIRST, SECOND = {"script", "sort"}, {"command", "best"}  # arguments that exclude one another


def filled(kind: type[Tool], word: str, *, with_second: bool) -> Tool:
    """The tool with the word in each argument that takes any text."""
    given: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if field.name in KEPT or (field.name == "run" and issubclass(kind, OnRun)):
            given[field.name] = KEPT.get(field.name, "k3f9x2ab")
        elif field.name in (FIRST if with_second else SECOND):
            pass
        elif "tuple[" in str(field.type):
            given[field.name] = [word]
        elif takes_text(field.type):
            given[field.name] = word
    return msgspec.convert(given, kind)


def takes_text(annotation: Any) -> bool:
    if annotation is str:
        return True
    return typing.get_origin(annotation) is not typing.Literal and any(map(takes_text, typing.get_args(annotation)))


def parsed(words: list[str]) -> tuple[str, dict[str, Any], Any]:
    """The command, what it is given on the command line, and what comes after its dashes."""
    name, *rest = words
    parent = click.Context(app, **app.context_settings)  # a command keeps what its first context says
    command = app.get_command(parent, name)
    if isinstance(command, click.Group):
        command = command.get_command(click.Context(command), rest.pop(0))
    assert command is not None
    context = command.make_context(name, rest, parent)
    given = {
        key: value
        for key, value in context.params.items()
        if context.get_parameter_source(key) is ParameterSource.COMMANDLINE
    }
    return name, given, context.meta.get(completion.AFTER_DASHES)


@pytest.mark.parametrize(
    ("name", "with_second"),
    [*((name, False) for name in TOOLS), ("preview", True), ("start", True), ("runs", True)],
)
def test_no_argument_becomes_an_option(name: str, with_second: bool):
    """The command gets the same options as for a harmless word, with this one as their values."""
    _, options, *rest = parsed(filled(TOOLS[name], "max:word", with_second=with_second).words())
    for word in HOSTILE:
        words = filled(TOOLS[name], word, with_second=with_second).words()
        try:
            _, found, *others = parsed(words)
        except (click.BadParameter, BackpropError) as error:  # the value is refused, as a value
            assert not isinstance(error, click.NoSuchOption)
            continue
        assert found.keys() == options.keys()
        assert str((found, others)).replace(repr(word)[1:-1], "max:word") == str((options, rest))


@pytest.mark.parametrize("kind", TOOLS.values())
def test_who_only_reads_changes_nothing(kind: type[Tool]):
    """Whatever may change something is kept from readers, and says so to the client."""
    assert kind.hints.is_read_only or not kind.is_allowed_to_readers
    assert not (kind.hints.is_read_only and kind.hints.is_destructive)
    assert kind.__doc__


def test_unknown_and_excessive_arguments_are_refused():
    """An argument that does not exist, or is out of bounds, is no silent default."""
    for given in ({"limitt": 3}, {"limit": 0}, {"max_chars": 10**9}, {"filter": "x" * 10**6}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(given, TOOLS["runs"])
