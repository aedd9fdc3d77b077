"""`backprop export`: runs in the formats of other tools."""

import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone

import click
import msgspec

from backprop.cli import completion
from backprop.cli.context import find_runs, is_valid, open_caught_up, say, write_lines
from backprop.errors import UsageError
from backprop.records import RunView
from backprop.store import query
from backprop.store.curves import Point
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.text import printable
from backprop.views import exports
from backprop.views.documents import run_json
from backprop.views.exports.record import RunExport

_STDOUT = "-"
_PROGRESS_PERIOD_S = 0.2
_PROGRESS_POINTS = 1000  # between two looks at the clock


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=completion.runs)
@click.option(
    "--to",
    "target",
    type=(click.Choice(list(exports.KINDS)), str),
    metavar="KIND DESTINATION",
    required=True,
    help=f"{', '.join(exports.KINDS)}; and the directory, file or address to write to.",
)
@click.option("--force", is_flag=True, help="Replace earlier exports of these runs.")
def export(*, runs: tuple[str, ...], target: tuple[str, str], force: bool) -> None:
    """Export runs: every point of their metrics, their parameters and checkpoints, and how they ended.

    \b
    --to tensorboard DIR      --to csv FILE.csv, DIR or -
    --to mlflow URI           --to parquet FILE.parquet or DIR
    --to wandb-offline DIR    --to jsonl FILE or -
    """  # noqa: D301  click's mark for lines that must stay lines
    kind, destination = target
    exporter = exports.exporter(kind)
    home = Home.from_environment()
    with open_caught_up(home) as index:
        views = find_runs(home, index, runs)
        # rows on the screen show the progress themselves
        progress = _Progress(views, is_shown=destination != _STDOUT or not sys.stdout.isatty())
        exported = [_export_of(index, view, progress) for view in views]
        try:
            if destination == _STDOUT and hasattr(exporter, "lines"):
                write_lines(exporter.lines(exported))
                return
            written = exporter.write(exported, destination, replace=force)
        except BrokenPipeError:
            raise
        except OSError as error:
            where = error.filename or destination
            raise UsageError(f"cannot write to {where}: {error.strerror or error}.") from error
        finally:
            progress.clear()
    say(f"exported {len(views)} run(s) and {progress.count:,} points to {written}")


def _export_of(index: Index, view: RunView, progress: "_Progress") -> RunExport:
    document = run_json.run_document(view, datetime.now(timezone.utc), is_valid, is_whole=True)
    return RunExport(
        view=view,
        document=msgspec.to_builtins(document),
        points_of=lambda metric: progress.counted(view, query.points(index, view, metric)),
    )


class _Progress:
    """A progress line on a terminal; counts the points."""

    def __init__(self, views: list[RunView], *, is_shown: bool) -> None:
        self.count = 0
        self._total = sum(summary.count for view in views for summary in view.summaries.values())
        self._total += sum(sum(view.usage.counts.values()) for view in views if view.usage is not None)
        self._is_shown = is_shown and sys.stderr.isatty()
        self._shown_at = time.monotonic()
        self._is_dirty = False

    def counted(self, view: RunView, points: Iterator[Point]) -> Iterator[Point]:
        """The same points."""
        for point in points:
            self.count += 1
            if self._is_shown and self.count % _PROGRESS_POINTS == 0:
                self._show(view)
            yield point

    def _show(self, view: RunView) -> None:
        now = time.monotonic()
        if now - self._shown_at >= _PROGRESS_PERIOD_S:
            self._shown_at, self._is_dirty = now, True
            name = printable(view.run.spec.name or view.run.spec.id)[:40]
            print(f"\r\x1b[Kexporting {name}: {self.count:,} of {self._total:,} points", end="", file=sys.stderr)
            sys.stderr.flush()

    def clear(self) -> None:
        """Erase the line."""
        if self._is_dirty:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
