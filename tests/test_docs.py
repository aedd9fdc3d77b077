"""What users read says what the program does."""

import re
from pathlib import Path

import click
import pytest

from backprop import config
from backprop.cli.app import app
from backprop.errors import ExitCode
from backprop.records import Status

README = (Path(__file__).parents[1] / "README.md").read_text()
_CONTEXT = click.Context(app)
COMMANDS = [
    name for name in app.list_commands(_CONTEXT) if not getattr(app.get_command(_CONTEXT, name), "hidden", True)
]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_in_the_readme(name: str):
    """A command or an option that nobody can read about does not exist."""
    command = app.get_command(click.Context(app), name)
    assert command is not None
    assert f"`backprop {name}" in README
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            for spelling in parameter.opts:
                assert re.search(rf"(?<![\w-]){re.escape(spelling)}(?![\w-])", README), f"{name} {spelling}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str):
    """--help says what each is for."""
    command = app.get_command(click.Context(app), name)
    assert command is not None
    assert command.help
    assert all(parameter.help for parameter in command.params if isinstance(parameter, click.Option))


@pytest.mark.parametrize("key", config.ALLOWED)
def test_every_setting_is_in_the_readme(key: str):
    """Key, flag and default of every setting are in the table."""
    begin = f"| `{config.ALLOWED[key][0]}"
    (row,) = [line for line in README.splitlines() if line.startswith(begin) and f"`{key}`" in line]
    default = config.default(key)
    if isinstance(default, float):
        assert f"| {default:g} |" in row


def test_every_setting_has_a_flag_and_a_word_on_what_is_allowed():
    """No key without its entry in ALLOWED, and none left over."""
    assert set(config.ALLOWED) == set(config.KEYS)


@pytest.mark.parametrize("status", [s.value for s in Status])
def test_every_status_is_in_the_readme(status: str):
    """Every status a run can have is explained."""
    assert f"`{status}`" in README


@pytest.mark.parametrize("code", list(ExitCode))
def test_every_exit_code_is_in_the_readme(code: ExitCode):
    """Every exit code of ours is explained."""
    assert f"| `{code.value}` |" in README


def test_the_architecture_names_every_part_once():
    """A part that has two rows in the table has two answers to what it is."""
    table = (Path(__file__).parents[1] / "docs" / "architecture.md").read_text()
    named = [
        part.strip() for line in table.splitlines() if line.startswith("| `") for part in line.split("|")[1].split(",")
    ]
    assert len(named) > 30
    assert sorted(set(named)) == sorted(named)
