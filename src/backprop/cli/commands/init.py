"""`backprop init`: write a configuration that fits this machine."""

from pathlib import Path

import click

from backprop.cli.context import say, working_folder
from backprop.errors import UsageError
from backprop.store.files import replace_file
from backprop.store.home import Home
from backprop.text import printable


@click.command()
@click.option("--user", is_flag=True, help="For all your projects, in the home folder, instead of this directory.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def init(*, user: bool, force: bool) -> None:
    """Write backprop.toml for this machine: every setting, with a comment on each."""
    from backprop.cli import config_sources, config_template
    from backprop.lifecycle.admission import read_machine

    home, folder = Home.from_environment(), working_folder()
    path = home.user_config_path if user else folder / config_sources.PROJECT_FILES[0]
    others = [path.with_suffix(".json")] if user else [folder / name for name in config_sources.PROJECT_FILES[1:]]
    if taken := [other for other in others if config_sources.is_settings(other)]:
        raise UsageError(f"there are settings in {taken[0]} already; move them into {path}, or keep that file.")
    if path.exists() and not force:
        raise UsageError(f"{path} already exists; to replace it: backprop init {'--user ' * user}--force")
    values = config_template.fitted(read_machine([str(folder)], "auto"))
    whom = "all your projects" if user else f"the scripts below {printable(folder.name)}"
    text = config_template.text(_words_on_settings(), values, whom)
    _write(path, text, force=force)
    say(f"wrote {path}" + ("" if values else ": the defaults suit this machine"))
    for key, fitted in values.items():
        say(f"  {key} = {fitted.value:g} ({fitted.why})")
    say("next: backprop doctor checks this machine; backprop run train.py trains")


def _words_on_settings() -> dict[str, str]:
    """A comment for each setting: its help, and the allowed values."""
    from backprop import config

    return {
        key: one.help if key == "notify" or one.help.startswith(one.allowed) else f"{one.help} ({one.allowed})"
        for key, one in config.SETTINGS.items()
    }


def _write(path: Path, text: str, *, force: bool) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if force:
            replace_file(path, text.encode(), mode=0o666)
        else:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
