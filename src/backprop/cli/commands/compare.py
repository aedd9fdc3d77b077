"""`backprop compare`: runs side by side."""

import sys
from datetime import datetime, timezone

import click

from backprop.cli import completion
from backprop.cli.context import (
    find_runs,
    goal_option,
    json_option,
    metrics_message,
    open_caught_up,
    print_json,
    say,
    say_without_goal,
    write_lines,
)
from backprop.errors import UsageError
from backprop.records import Goal, RunView
from backprop.store import metric_names, query
from backprop.store.code.diff import Difference, difference, recorded
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.views import replicates
from backprop.views.terminal import params
from backprop.views.terminal.comparison_table import Comparison, comparison_table, side
from backprop.views.terminal.screen import cut, stdout_screen

_METRICS_SHOWN = 8  # of more, the rest when asked
_NAMES_SHOWN = 5
_NAME_WIDTH = 20


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=completion.runs)
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    metavar="NAME",
    shell_complete=completion.metrics,
    help="Only this metric. Repeatable.",
)
@goal_option
@click.option("--at", type=click.IntRange(min=0), metavar="STEP", help="Also show the metrics at this step.")
@click.option("--all", "with_all", is_flag=True, help="Also show what is the same in all runs, and every metric.")
@click.option("--diff", is_flag=True, help="Show how the code of two runs differs, as a patch.")
@json_option
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one row per run.")
def compare(
    *,
    runs: tuple[str, ...],
    metrics: tuple[str, ...],
    goals: dict[str, Goal],
    at: int | None,
    with_all: bool,
    diff: bool,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Compare runs side by side: what differs, and which is best."""
    if as_csv and (as_json or diff):
        raise UsageError("--csv cannot be combined with --json or --diff.")
    home = Home.from_environment()
    now = datetime.now(timezone.utc)
    with open_caught_up(home) as index:
        views = query.with_goals(find_runs(home, index, runs), goals)
        if len(views) < 2:
            raise UsageError(f"compare needs two runs or more, not {len(views)}.")
        if diff and len(views) != 2:
            raise UsageError(f"--diff compares the code of two runs, not of {len(views)}.")
        chosen = _chosen_metrics(views, metrics)
        is_short = not (as_json or as_csv or with_all or metrics)
        if is_short:
            chosen = [name for name in chosen if not metric_names.is_progress(name)]
        shown = chosen[:_METRICS_SHOWN] if is_short else chosen
        comparison = Comparison(
            sides=tuple(side(view, now, _values_at(index, view, shown, at)) for view in views),
            metrics=tuple(shown),
            params=tuple(params.names(views) if with_all else params.differing(views)),
            at_step=at,
            with_all=with_all,
        )
    found = difference(recorded(home, views[0]), recorded(home, views[1])) if diff else None
    if as_json:
        _print_json(comparison, found)
    elif as_csv:
        from backprop.views.documents.comparison import comparison_rows
        from backprop.views.documents.csv_text import csv_lines

        write_lines(csv_lines(comparison_rows(comparison)))
    elif found is not None:
        _print_patch(found)
    else:
        from backprop.views.terminal.replicates_table import comparison_section

        table = comparison_table(comparison, now)
        print(table.text + comparison_section(replicates.sets(views), shown), end="")
        if table.left_out:
            more = ", ..." if len(table.left_out) > _NAMES_SHOWN else ""
            names = ", ".join(cut(name, _NAME_WIDTH) for name in table.left_out[:_NAMES_SHOWN])
            say(f"no room for {len(table.left_out)} columns ({names}{more}): --csv and --json have all.")
        if len(shown) < len(chosen):
            say(f"{len(chosen) - len(shown)} more metrics: --all shows them, --metric NAME one.")
    if found is None or as_json:
        say_without_goal(shown, views)


def _chosen_metrics(views: list[RunView], asked: tuple[str, ...]) -> list[str]:
    """The main metric first, then its twin on held-out data, then other measures of quality. Raises UsageError."""
    names = metric_names.all_names(views)
    unknown = [name for name in asked if name not in names]
    if unknown:
        raise UsageError(f"none of these runs has a metric {unknown[0]!r}. {metrics_message(views)}")
    if asked:
        return list(dict.fromkeys(asked))
    return metric_names.in_order(views)


def _values_at(index: Index, view: RunView, names: list[str], step: int | None) -> dict[str, tuple[int, float] | None]:
    return {} if step is None else {name: query.at_step(index, view, name, step) for name in names}


def _print_json(comparison: Comparison, found: Difference | None) -> None:
    from backprop.views.documents.comparison import comparison_document
    from backprop.views.documents.replicates_json import sets_document

    document = comparison_document(comparison)
    sets = replicates.sets(side.view for side in comparison.sides)
    document["over_seeds"] = sets_document(sets, comparison.metrics)
    if found is not None:
        document["diff"] = {"patch": found.patch.decode(errors="backslashreplace"), "notes": found.notes}
    print_json(document)


def _print_patch(found: Difference) -> None:
    from backprop.views.terminal.patch import shown

    screen = stdout_screen()
    if screen.is_terminal:
        print(shown(found.patch, screen), end="")
    else:  # byte for byte: `git apply` reads it
        sys.stdout.flush()
        sys.stdout.buffer.write(found.patch)
    for note in found.notes:
        say(note)
