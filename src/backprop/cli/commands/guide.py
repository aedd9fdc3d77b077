"""`backprop guide`: how to do experiments with Backprop, for a coding agent."""

import stat
from pathlib import Path

import click

from backprop.cli import completion
from backprop.cli.context import say
from backprop.errors import UsageError
from backprop.store.files import replace_file

_BEGIN = "<!-- backprop guide: made by `backprop guide --write`, which replaces it -->"
_END = "<!-- end of backprop guide -->"
GUIDE = Path(__file__).with_name("guide.md")


@click.command()
@click.option(
    "--write",
    "path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    shell_complete=completion.files,
    help="Write it into this file, such as AGENTS.md; the rest of the file stays as it is.",
)
def guide(*, path: Path | None) -> None:
    """Print how to do experiments with Backprop, in a page for a coding agent."""
    if path is None:
        print(GUIDE.read_text(encoding="utf-8"), end="")
        return

    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file.")
    try:
        before = path.read_bytes().decode() if path.exists() else ""
        text = _with_section(before, path)
        if text != before:
            mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666
            replace_file(path.resolve(), text.encode(), mode)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a UTF-8 text, and was left as it is.") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error
    say(f"{path} {'is up to date' if text == before else 'has the guide'}")


def _with_section(text: str, path: Path) -> str:
    """The text with our section in it, everything else as it was. Raises UsageError."""
    line_end = "\r\n" if "\r\n" in text else "\n"
    section = f"{_BEGIN}\n{GUIDE.read_text(encoding='utf-8')}{_END}".replace("\n", line_end)
    counts = text.count(_BEGIN), text.count(_END)
    if counts == (0, 0):
        gap = "" if not text else line_end if text.endswith("\n") else 2 * line_end
        return f"{text}{gap}{section}{line_end}"
    before, _, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if counts != (1, 1) or not end:
        raise UsageError(f"{path} has a damaged section of the guide: remove the lines {_BEGIN!r} and {_END!r}.")
    return f"{before}{section}{after}"
