"""Options of a session: what click makes of a command line, and the same settings as a command line again."""

from typing import Any

import click
import pytest

from backprop.cli.options import GROUPS, SessionCommand, after_dashes, session_options, settings_of, words_of
from backprop.errors import UsageError


def parsed(*words: str) -> tuple[dict[str, Any], list[str]]:
    """The settings that a command line gives, and what it leaves to the script."""
    found: list[tuple[dict[str, Any], list[str]]] = []

    @click.command(cls=SessionCommand)
    @session_options()
    @click.argument("script", required=False)
    @click.pass_context
    def command(ctx: click.Context, /, **options: Any) -> None:
        given = {key: value for key, value in settings_of(options).items() if value is not None}
        found.append((given, after_dashes(ctx)))

    command.main(list(words), standalone_mode=False)
    return found[0]


def test_what_follows_the_dashes_is_the_scripts():
    """Whatever it is: further dashes and our own options, too."""
    settings, rest = parsed("-m", "5", "train.py", "--", "-m", "7", "--", "--wait")
    assert (settings, rest) == ({"maxRunMinutes": "5"}, ["-m", "7", "--", "--wait"])


@pytest.mark.parametrize(
    ("words", "wait"),
    [
        (("--wait", "train.py"), "true"),
        (("--wait",), "true"),
        (("--wait", "--dry-run"), "true"),
        (("--wait", "10", "train.py"), "10"),
        (("--wait=false",), "false"),
        (("--no-wait",), "false"),
    ],
)
def test_wait_stands_with_or_without_a_number(words: tuple[str, ...], wait: str):
    """A script's name after it is not its value."""
    assert parsed(*words)[0] == {"wait": wait}


def test_to_wait_and_not_to_wait():
    with pytest.raises(UsageError, match="mutually exclusive"):
        parsed("--wait", "--no-wait")


def test_settings_are_a_command_line_again():
    """As a sweep gives them to its trials, and a Slurm job to its session: also values that begin with a dash."""
    words = ("-m", "5", "--name=-x", "--no-hooks", "--slurm-arg=--a=1", "--slurm-arg=--b", "--gpus=2")
    settings, _ = parsed(*words)
    assert settings["hooks"] is False
    assert parsed(*words_of(settings))[0] == settings


def test_each_option_has_one_place_in_the_help():
    """An option under two titles, or under none, would be shown twice, or last."""
    names = [name for names in GROUPS.values() for name in names]
    assert len(names) == len(set(names))
