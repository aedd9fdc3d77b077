"""Commands for a new machine: init, doctor, completion."""

import os
import sys
from pathlib import Path

import click

from backprop import __version__
from backprop.cli import completion as completing
from backprop.cli.context import json_option, print_json, say, working_folder
from backprop.errors import ExitCode, UsageError
from backprop.records import Level
from backprop.store.rundir import Home
from backprop.text import printable

_ON_NOTIFY = "Whom to tell of a run's end, each time by one of these; `on` names the states, every end without it."
# shell -> what to do with its script
_SHELLS = {
    "bash": "backprop completion bash > ~/.local/share/bash-completion/completions/backprop"
    " (with the package bash-completion; without it, into a file that ~/.bashrc sources)",
    "zsh": "backprop completion zsh > ~/.zfunc/_backprop"
    " (with fpath+=~/.zfunc before compinit in ~/.zshrc: autoload -Uz compinit; compinit)",
    "fish": "backprop completion fish > ~/.config/fish/completions/backprop.fish",
}


@click.command()
@click.option("--user", is_flag=True, help="For all your projects, in the home folder; else for this folder.")
@click.option("--force", is_flag=True, help="Replace the file that is there.")
def init(*, user: bool, force: bool) -> None:
    """Write a configuration for this machine, every setting with a word on it: backprop.toml."""
    from backprop import config
    from backprop.cli import config_template
    from backprop.lifecycle.admission import read_machine

    home, folder = Home.from_environment(), working_folder()
    path = home.user_config_path if user else folder / config.PROJECT_FILES[0]
    others = [path.with_suffix(".json")] if user else [folder / name for name in config.PROJECT_FILES[1:]]
    if taken := [other for other in others if config.is_settings(other)]:
        raise UsageError(f"there are settings in {taken[0]} already; move them into {path}, or keep that file.")
    if path.exists() and not force:
        raise UsageError(f"{path} is there already; to replace it: backprop init {'--user ' * user}--force")
    values = config_template.fitted(read_machine([str(folder)], "auto"))
    whom = "all your projects" if user else f"the scripts below {printable(folder.name)}"
    text = config_template.text(_words_on_settings(), values, whom)
    _write(path, text, force=force)
    say(f"wrote {path}" + ("" if values else ": this machine is fine with the defaults"))
    for key, fitted in values.items():
        say(f"  {key} = {fitted.value:g} ({fitted.why})")
    say("next: backprop doctor looks at this machine; backprop run train.py trains")


def _words_on_settings() -> dict[str, str]:
    """A line on each setting: what --help says of its flag, and what is allowed."""
    from backprop import config
    from backprop.cli.commands.run import run

    flags = {spelling: one.help or "" for one in run.params if isinstance(one, click.Option) for spelling in one.opts}
    words = {}
    for key, (flag, allowed) in config.ALLOWED.items():
        told = flags.get(flag.split("/")[0], _ON_NOTIFY).partition(" [default")[0]
        words[key] = told if key == "notify" or told.startswith(allowed) else f"{told} ({allowed})"
    return words


def _write(path: Path, text: str, *, force: bool) -> None:
    from backprop.store.experiments_json import replace_file

    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if force:
            replace_file(path, text.encode(), mode=0o666)
        else:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


@click.command()
@click.option("--python", metavar="PATH", help="Look at this Python; else at the one that scripts here run on.")
@json_option
def doctor(*, python: str | None, as_json: bool) -> None:
    """Look at this machine: what will not work, what should be known, and what to do. Exits with 1 for a problem."""
    from backprop.cli.doctor import scripts
    from backprop.cli.doctor.checks import all_checks
    from backprop.cli.doctor.findings import examine

    folder = str(working_folder())
    if python is None and sys.stdin.isatty() and (named := scripts.named_here(folder)) is not None:
        question = f"Start {printable(named)}, which this folder names, to look at it?"
        python = named if click.confirm(question, err=True) else None
    findings = examine(all_checks(folder, __version__, python))
    if as_json:
        print_json(findings)
    else:
        from backprop.views.terminal.doctor_table import findings_table

        print(findings_table(findings), end="")
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise click.exceptions.Exit(ExitCode.PROBLEM)


@click.command()
@click.argument("shell", required=False, shell_complete=completing.choices(*_SHELLS))
def completion(*, shell: str | None) -> None:
    """Print the script that lets SHELL (bash, zsh or fish; else yours) complete commands, options and runs."""
    from click.shell_completion import get_completion_class

    from backprop.cli.app import COMPLETE_VARIABLE, app

    name = shell or Path(os.environ.get("SHELL", "")).name
    kind = get_completion_class(name) if name in _SHELLS else None
    if kind is None:
        raise UsageError(f"completion for {name or 'an unknown shell'!r} is not there: {', '.join(_SHELLS)}.")
    print(kind(app, {}, "backprop", COMPLETE_VARIABLE).source(), end="")
    if sys.stdout.isatty():
        say(f"to install it: {_SHELLS[name]}")
