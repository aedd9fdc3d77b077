"""`backprop init`: write a configuration that fits this machine."""

from pathlib import Path

import click

from backprop.cli.context import say, working_folder
from backprop.errors import UsageError
from backprop.store.home import Home
from backprop.text import printable

_ON_NOTIFY = "Who to notify when a run ends, one table each; `on` names the statuses, every end without it."


@click.command()
@click.option("--user", is_flag=True, help="For all your projects, in the home folder, instead of this directory.")
@click.option("--force", is_flag=True, help="Replace an existing file.")
def init(*, user: bool, force: bool) -> None:
    """Write backprop.toml for this machine: every setting, with a comment on each."""
    from backprop import config
    from backprop.cli import config_template
    from backprop.lifecycle.admission import read_machine

    home, folder = Home.from_environment(), working_folder()
    path = home.user_config_path if user else folder / config.PROJECT_FILES[0]
    others = [path.with_suffix(".json")] if user else [folder / name for name in config.PROJECT_FILES[1:]]
    if taken := [other for other in others if config.is_settings(other)]:
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
    """A comment for each setting: the help of its option, and the allowed values."""
    from backprop import config
    from backprop.cli.commands.run import run

    flags = {spelling: one.help or "" for one in run.params if isinstance(one, click.Option) for spelling in one.opts}
    words = {}
    for key, (flag, allowed) in config.ALLOWED.items():
        comment = flags.get(flag.split("/")[0], _ON_NOTIFY).partition(" [default")[0]
        words[key] = comment if key == "notify" or comment.startswith(allowed) else f"{comment} ({allowed})"
    return words


def _write(path: Path, text: str, *, force: bool) -> None:
    from backprop.store.files import replace_file

    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if force:
            replace_file(path, text.encode(), mode=0o666)
        else:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
