"""`backprop plot`: curves of metrics, in the terminal or a file."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backprop.cli import completion
from backprop.cli.context import find_runs, json_option, metrics_message, open_caught_up, print_json, say
from backprop.errors import UsageError
from backprop.records import RunView
from backprop.store import metric_names, query
from backprop.store.curves import Axis
from backprop.store.home import Home
from backprop.store.rundir import LAST
from backprop.store.usage import history as usage_history

if TYPE_CHECKING:
    from backprop.views.plots.model import Plot

_FILE_POINTS = 4000
_PAGE_POINTS = 20_000  # one can look closer there
_FORMATS = ("png", "svg", "html")


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1, shell_complete=completion.runs)
@click.option(
    "-y",
    "metrics",
    multiple=True,
    metavar="NAME,...",
    shell_complete=completion.metrics,
    help="Metrics to plot, or resource use: sys/gpu_util. [default: the loss and the validation loss]",
)
@click.option(
    "-x",
    "axis",
    type=click.Choice([axis.value for axis in Axis]),
    help="Plot over steps, or over training time. [default: step; time for resource use, which has no steps]",
)
@click.option("--log", "is_log", is_flag=True, help="Use a logarithmic scale.")
@click.option(
    "--smooth",
    metavar="N",
    type=float,
    help="Average over N points; below 1, the weight of an exponential moving average.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Write a .png, .svg or .html file."
)
@click.option(
    "--width",
    type=click.IntRange(min=20, max=10_000),
    metavar="N",
    help="Width of a panel, in characters, or in pixels in a file.",
)
@click.option("--height", type=click.IntRange(min=5, max=10_000), metavar="N", help="Height of a panel.")
@click.option(
    "--points",
    type=click.IntRange(min=2, max=1_000_000),
    metavar="N",
    help="Approximate number of points of all curves together. [default: as many as can be seen]",
)
@json_option
def plot(
    *,
    runs: tuple[str, ...],
    metrics: tuple[str, ...],
    axis: str | None,
    is_log: bool,
    smooth: float | None,
    output: Path | None,
    width: int | None,
    height: int | None,
    points: int | None,
    as_json: bool,
) -> None:
    """Plot the metrics of runs, all runs in one plot.

    Without RUN, plot the last run.
    """
    kind = None if output is None else _kind(output)
    if as_json and output is not None:
        raise UsageError("--json prints the points; leave -o/--output out.")
    if smooth is not None and not (0 < smooth < 1 or (smooth >= 1 and smooth == int(smooth))):
        raise UsageError(
            f"--smooth {smooth:g}: invalid value: expected a whole number of points, or a weight between 0 and 1."
        )
    from backprop.views.plots import terminal as plot_terminal
    from backprop.views.plots.curve_panels import has_curve, plot_of
    from backprop.views.terminal.screen import stdout_screen

    screen = stdout_screen()
    max_points = {None: plot_terminal.points_for(screen, width), "html": _PAGE_POINTS}.get(kind, _FILE_POINTS)
    home = Home.from_environment()
    with open_caught_up(home) as index:
        views = find_runs(home, index, runs or [LAST])
        names = _chosen_metrics(views, metrics)
        if points is not None:
            count = sum(has_curve(view, name) for name in names for view in views)
            max_points = max(2, points // max(1, count))
        over = _axis(views, names, axis)
        curve = partial(query.curve, index, axis=over)
        made = plot_of(views, names, curve, max_points, axis=over, is_log=is_log, smooth=smooth)
    if as_json:
        from backprop.views.documents import curves_json

        print_json(curves_json.curves_document(made, [view.run.spec.id for view in views]))
    elif output is None:
        print(plot_terminal.drawn(made, screen, width, height), end="")
    else:
        _write(made, output, str(kind), width, height)


def _kind(output: Path) -> str:
    """Raises UsageError for a file of another kind."""
    kind = output.suffix.lower().removeprefix(".")
    if kind not in _FORMATS:
        raise UsageError(
            f"-o {str(output)!r}: invalid value: expected a file that ends in {', '.join('.' + f for f in _FORMATS)}."
        )
    return kind


def _axis(views: list[RunView], names: list[str], asked: str | None) -> Axis:
    """What to plot over. Raises UsageError for steps, where what was measured has none."""
    timed = [name for name in names if any(usage_history.has(view, name) for view in views)]
    if timed and asked == Axis.STEP.value:
        raise UsageError(f"-x step: {timed[0]} was measured over time, and has no steps: use -x time.")
    return Axis(asked or (Axis.TIME if timed else Axis.STEP))


def _chosen_metrics(views: list[RunView], asked: tuple[str, ...]) -> list[str]:
    """What was asked for; else the main metric and its twin on held-out data. Raises UsageError."""
    reported = metric_names.all_names(views)
    measured = [name for view in views for name in usage_history.names(view)]
    names = list(dict.fromkeys([*reported, *measured]))
    if not reported and not asked:
        subject = "this run has" if len(views) == 1 else "these runs have"
        raise UsageError(f"{subject} no metrics to plot: see the guide 'JSON lines' for how a script reports them.")
    wanted = [part for text in asked for part in ([text] if text in names else text.split(",")) if part]
    unknown = [name for name in wanted if name not in names]
    if unknown:
        also = f" What was measured: {', '.join(dict.fromkeys(measured))}." if measured else ""
        raise UsageError(f"no such metric: {unknown[0]!r}. {metrics_message(views)}{also}")
    first = metric_names.leading_metrics(views) or sorted(reported, key=metric_names.is_progress)[:1]
    return list(dict.fromkeys(wanted or first))


def _write(made: "Plot", output: Path, kind: str, width: int | None, height: int | None) -> None:
    """Raises UsageError when it cannot be written."""
    if kind == "html":
        from backprop.views.plots.html_page import page

        data = page(made, height).encode(errors="backslashreplace")
    else:
        from backprop.views.plots.matplotlib_file import picture

        try:
            data = picture(made, kind, width, height)
        except ModuleNotFoundError as error:
            if error.name != "matplotlib":
                raise
            raise UsageError(
                f".{kind} files need matplotlib, which is not in Backprop's environment: "
                f"{sys.executable} -m pip install 'backprop-cli[plot]', or write a .html file."
            ) from error
    try:
        output.write_bytes(data)
    except OSError as error:
        raise UsageError(f"cannot write {str(output)!r}: {error.strerror}.") from error
    say(f"wrote {output}")
