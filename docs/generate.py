"""Write what the reference pages take from the code: `make reference`, or `python -m docs.generate`.

A page of docs/reference has its own words, and between two marks what is made here: commands from click, settings from
`backprop.config`, Python functions from their docstrings. What is made is committed, so that the pages are whole
wherever they are read, and the site is built without Backprop; tests/test_docs.py fails when a page is not current.
"""

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

import backprop
from backprop import config
from backprop.cli.app import app
from backprop.cli.help import EXAMPLES
from backprop.cli.options import GROUPS, SessionCommand
from backprop.views import python_api

REFERENCE = Path(__file__).parent / "reference"
BEGIN = "<!-- made by `make reference`: do not edit -->"
END = "<!-- end of what is made -->"
_CONTEXT = click.Context(
    app, info_name="backprop", **app.context_settings
)  # of those, commands keep how help is asked for


def visible_commands() -> dict[str, click.Command]:
    """The commands that `backprop --help` shows, in its order."""
    commands = {name: app.get_command(_CONTEXT, name) for name in app.list_commands(_CONTEXT)}
    return {name: command for name, command in commands.items() if command is not None and not command.hidden}


def commands() -> str:
    """Every command with its options, as `--help` has them."""
    return "\n".join(line for name, command in visible_commands().items() for line in _command(name, command))


def _command(name: str, command: click.Command, level: str = "##") -> Iterator[str]:
    context = click.Context(command, info_name=name, parent=_CONTEXT)
    yield from (f"{level} `backprop {name}`", "")
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):  # click keeps these lines as they are
            yield from ("```text", *paragraph.splitlines()[1:], "```", "")
        else:
            yield from (_text(paragraph), "")
    usage = " ".join(["backprop", name, *command.collect_usage_pieces(context)])
    yield from ("```text", usage, "```", "")
    options = {param.name: param for param in command.params if isinstance(param, click.Option)}
    groups = list(GROUPS.items()) if isinstance(command, SessionCommand) else []
    grouped = [(title, [options.pop(key) for key in keys if key in options]) for title, keys in groups]
    for title, group in (*grouped, ("", list(options.values()))):
        rows = [row for option in group if (row := option.get_help_record(context)) is not None]
        if rows:
            yield from (f"| {title or 'option'} | |", "| --- | --- |")
            yield from (f"| {_names(names)} | {_text(text)} |" for names, text in rows)
            yield ""
    if name in EXAMPLES:
        yield from ("```bash", *(f"backprop {example}" for example in EXAMPLES[name]), "```", "")
    if isinstance(command, click.Group):
        for inner, subcommand in command.commands.items():
            yield from _command(f"{name} {inner}", subcommand, f"{level}#")


def _names(names: str) -> str:
    return f"`{names.replace('|', ' or ')}`"


def _text(text: str) -> str:
    """In one line, with what Markdown would take for its own written as code."""
    line = " ".join(text.split())
    line = re.sub(r"'(--|backprop [^']*|name~[^']*|status=[^']*)'", r"`\1`", line)
    parts = line.split("`")  # every second one is code already
    parts[::2] = [re.sub(r"(?<!\w)(--?[a-zA-Z][\w-]*(?:=\S+\w\}?)?)(?!\w)", r"`\1`", part) for part in parts[::2]]
    return "`".join(parts).replace("|", r"\|")


def settings() -> str:
    """Every setting: its key, option and environment variable, its default, and what it may be."""
    lines = ["| key, option, environment variable | default | |", "| --- | --- | --- |"]
    for key in config.KEYS:
        one = config.SETTINGS[key]
        names = "<br>".join(f"`{name}`" for name in dict.fromkeys([key, one.flag, config.environment_name(key)]))
        what = f"{_text(one.help)}<br>Allowed: {_text(one.allowed)}."
        lines.append(f"| {names} | {config.default_text(key) or _default(key)} | {what} |")
    return "\n".join([*lines, ""])


def _default(key: str) -> str:
    default = config.default(key)
    return "" if default is None or default == () else str(default).lower()


def python() -> str:
    """The functions of `import backprop`, from their docstrings."""
    parts = ["## For training scripts", ""]
    for name in backprop.__all__:
        parts += _function(f"backprop.{name}", getattr(backprop, name))
    parts += ["## For programs and notebooks", ""]
    for name in ("runs", "find_run"):
        parts += _function(f"backprop.{name}", getattr(backprop, name))
    parts += ["### `backprop.Run`", "", *_attributes(python_api.Run)]
    for name, member in vars(python_api.Run).items():
        if inspect.isfunction(member) and not name.startswith("_"):
            parts += _function(f"Run.{name}", member)
    for record in (python_api.Checkpoint, python_api.Usage, python_api.Point):
        parts += [f"### `{record.__name__}`", "", *_attributes(record)]
    return "\n".join(parts)


def _function(name: str, function: Callable[..., Any]) -> Iterator[str]:
    parameters = inspect.signature(function).parameters.values()
    shown = [str(one.replace(annotation=inspect.Parameter.empty)) for one in parameters if one.name != "self"]
    names = [one.name for one in parameters]
    star = next((index for index, one in enumerate(parameters) if one.kind is one.KEYWORD_ONLY), None)
    if star is not None and not any(one.kind is one.VAR_POSITIONAL for one in parameters):
        shown.insert(star - ("self" in names), "*")
    yield from (f"### `{name}`", "", "```python", f"{name}({', '.join(shown)})", "```", "")
    yield from (_docstring(function, names), "")


def _docstring(function: Callable[..., Any], names: list[str]) -> str:
    """As Markdown: a parameter that is explained is an item of a list."""
    text = inspect.getdoc(function) or ""
    for name in names:
        text = re.sub(rf"(?:^|(?<=[.:\"]) |\n){name}: ", rf"\n\n- `{name}`: ", text)
    paragraphs = re.split(r"\n\n+| (?=Raises )|\n(?=Raises )", text)
    return "\n\n".join(" ".join(paragraph.split()).replace("<run>", "RUN") for paragraph in paragraphs)


def _attributes(record: type) -> Iterator[str]:
    """A row for each public attribute, with the comment beside it in the source."""
    yield from (inspect.getdoc(record) or "", "", "| attribute | type | |", "| --- | --- | --- |")
    for name, annotation, comment in re.findall(
        r"^    ([a-z]\w*): ([^=#\n]+?)(?: = .*?)?(?:  # (.*))?$", inspect.getsource(record), re.MULTILINE
    ):
        yield f"| `{name}` | `{annotation.replace('|', 'or')}` | {comment} |"
    yield ""


PAGES: dict[str, Callable[[], str]] = {"commands.md": commands, "settings.md": settings, "python.md": python}


def current(page: str) -> str:
    """The page as it should be."""
    text = (REFERENCE / page).read_text()
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n\n{PAGES[page]().strip()}\n\n{END}{after}"


if __name__ == "__main__":
    for page in PAGES:
        (REFERENCE / page).write_text(current(page))
