"""`backprop completion`: the script for completion in a shell."""

import os
import sys
from pathlib import Path

import click

from backprop.cli import completion as completing
from backprop.cli.context import say
from backprop.errors import UsageError

# shell -> what to do with its script
_SHELLS = {
    "bash": "backprop completion bash > ~/.local/share/bash-completion/completions/backprop"
    " (with the package bash-completion; without it, into a file that ~/.bashrc sources)",
    "zsh": "backprop completion zsh > ~/.zfunc/_backprop"
    " (with fpath+=~/.zfunc before compinit in ~/.zshrc: autoload -Uz compinit; compinit)",
    "fish": "backprop completion fish > ~/.config/fish/completions/backprop.fish",
}


@click.command()
@click.argument("shell", required=False, shell_complete=completing.choices(*_SHELLS))
def completion(*, shell: str | None) -> None:
    """Print the completion script for SHELL: bash, zsh or fish. [default: your shell]"""
    from click.shell_completion import ShellComplete, get_completion_class

    from backprop.cli.app import COMPLETE_VARIABLE, app

    name = shell or Path(os.environ.get("SHELL", "")).name
    kind = get_completion_class(name) if name in _SHELLS else None
    if kind is None:
        raise UsageError(f"no completion for {name or 'an unknown shell'!r}: expected {', '.join(_SHELLS)}.")
    made = kind(app, {}, "backprop", COMPLETE_VARIABLE)
    try:
        script = made.source()
    except OSError:  # bash cannot be asked for its version: an old one is not warned of
        script = ShellComplete.source(made)
    print(script, end="")
    if sys.stdout.isatty():
        say(f"to install it: {_SHELLS[name]}")
