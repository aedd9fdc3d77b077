"""`backprop report`: runs in one HTML file."""

from datetime import datetime, timezone
from pathlib import Path

import click

from backprop.cli import completion
from backprop.cli.context import find_runs, open_caught_up, say
from backprop.errors import UsageError
from backprop.store.home import Home
from backprop.store.rundir import LAST


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1, shell_complete=completion.runs)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    required=True,
    help="The file to write: report.html.",
)
def report(*, runs: tuple[str, ...], output: Path) -> None:
    """Write runs into one HTML file: curves, a table, and each run in full.

    It opens anywhere, without a server. Without RUN, the last run.
    """
    from backprop.views.report import report as content

    home = Home.from_environment()
    with open_caught_up(home) as index:
        views = find_runs(home, index, runs or [LAST])
        text = content(index, views, datetime.now(timezone.utc))
    try:
        output.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UsageError(f"cannot write {str(output)!r}: {error.strerror}.") from error
    say(f"wrote {output}")
