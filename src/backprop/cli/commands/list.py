"""`backprop list`: a table of runs."""

from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial

import click
import msgspec

from backprop.cli import completion
from backprop.cli.context import (
    goal_option,
    is_valid,
    json_option,
    metrics_message,
    open_caught_up,
    print_json,
    say,
    say_without_goal,
)
from backprop.errors import UsageError
from backprop.records import Goal, RunView
from backprop.store import filters, metric_names, query
from backprop.store.filters import SORT_KEYS
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.store.usage import figures
from backprop.views import run_tree


@click.command("list")
@click.option(
    "--status",
    "statuses",
    multiple=True,
    shell_complete=completion.statuses,
    help="Only runs with this status. Repeatable.",
)
@click.option(
    "--filter", "conditions", multiple=True, help="Only runs that match: 'status=completed lr>1e-4 name~digits'."
)
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Maximum number of runs (0 for no limit).",
    metavar="N",
)
@click.option(
    "--sort",
    default="created",
    shell_complete=completion.sort_keys,
    help=f"{', '.join(SORT_KEYS)}, a metric (best first), a parameter, or resource use (sys.peak_vram); "
    "-KEY reverses it.",
)
@click.option("--reverse", is_flag=True, help="Reverse the order.")
@click.option(
    "--metric",
    shell_complete=completion.metrics,
    help="Show this metric. [default: the one sorted by, or each run's loss]",
)
@goal_option
@click.option("--tree", is_flag=True, help="Show each run below its parent.")
@click.option("--groups", is_flag=True, help="Show one row for each group of runs.")
@json_option
def list_runs(
    *,
    statuses: tuple[str, ...],
    conditions: tuple[str, ...],
    limit: int,
    sort: str,
    reverse: bool,
    metric: str | None,
    goals: dict[str, Goal],
    tree: bool,
    groups: bool,
    as_json: bool,
) -> None:
    """List runs, newest first."""
    if tree and groups:
        raise UsageError("--tree and --groups are mutually exclusive.")
    for wanted in statuses:
        filters.check_status(wanted, f"--status {wanted!r}")
    key = sort.removeprefix("-")
    asked = filters.Wanted(
        statuses=statuses,
        conditions=filters.parse_filter(" ".join(conditions)),
        sort=key,
        hides_archived=True,
        is_reversed=reverse != (key != sort),
        goals=goals,
        limit=limit or None,
    )
    if groups:
        _list_groups(asked, metric, as_json=as_json)
        return
    now = datetime.now(timezone.utc)
    home = Home.from_environment()
    with open_caught_up(home) as index:
        views = ranked = query.runs(index, asked)
        total = query.count(index, asked)
        hidden = query.count(index, msgspec.structs.replace(asked, hides_archived=False)) - total
        _check_names(index, views, metric, key)
        shown = metric or (_sorted_metric(views, key) if views else None)
        depths: list[int] | None = None
        if tree:
            branches = run_tree.branches(views)
            views, depths = [branch.view for branch in branches], [branch.depth for branch in branches]
        mistake = None if views else query.unknown_name(index, [condition.name for condition in asked.conditions])
        if as_json:
            from backprop.views.documents import run_json

            documents = [run_json.run_document(view, now, is_valid) for view in views]
            print_json(documents, advised="id,status,last_step,best")
        elif views:
            from backprop.views.terminal import runs_table

            values = partial(query.sparkline_values, index)
            print(runs_table.runs_table(views, now, metric=shown, values=values, depths=depths), end="")
    if not views and not as_json and not hidden:
        _say_nothing(home, mistake, is_filtered=bool(statuses or conditions))
    _say_what_is_missing(ranked, key, metric)
    if mistake is None:
        names = [filters.kind_and_name(condition.name) for condition in asked.conditions]
        say_without_goal([*([shown] if shown else []), *(name for kind, name in names if kind == "best")], views)
    if len(views) < total:
        say(f"{len(views)} of {total} runs; --limit 0 shows all.")
    if hidden:
        say(f"{hidden} archived run{'s are' if hidden > 1 else ' is'} hidden; to see all: --filter archived=any")


def _say_nothing(home: Home, mistake: str | None, *, is_filtered: bool) -> None:
    """Why there are no runs to list. mistake: a name in the filter that no run has."""
    if is_filtered:
        say(f"no matching runs: {mistake}" if mistake else "no matching runs.")
        return
    from backprop.lifecycle import removed_runs

    say("no runs yet; start one with: backprop run train.py")
    for sentence in removed_runs.sentences(home):
        say(sentence)


def _list_groups(asked: filters.Wanted, metric: str | None, *, as_json: bool) -> None:
    """A row for each group that a matching run is in, in the order of the runs."""
    from backprop.views import run_groups
    from backprop.views.documents import groups_json
    from backprop.views.terminal import groups_table

    in_a_group = filters.Condition(name="group", operator="!=", value="")
    wanted = msgspec.structs.replace(asked, limit=None, conditions=(*asked.conditions, in_a_group))
    with open_caught_up(Home.from_environment()) as index:
        views = query.runs(index, wanted)
        _check_names(index, views, metric, asked.sort)
        mistake = None if views else query.unknown_name(index, [condition.name for condition in asked.conditions])
    is_by_figure = figures.name_of(asked.sort) is not None
    found = run_groups.groups(
        views, metric or (_sorted_metric(views, asked.sort) if views and not is_by_figure else None)
    )
    shown = found[: asked.limit]
    if as_json:
        print_json([groups_json.group_document(group) for group in shown])
    elif shown:
        print(groups_table.groups_table(shown), end="")
    else:
        say(mistake or "no matching groups; to make one: backprop run --group NAME train.py")
    named = {group.metric for group in shown if group.metric is not None}
    say_without_goal(sorted(named), views)
    if len(shown) < len(found):
        say(f"{len(shown)} of {len(found)} groups; --limit 0 shows all.")


def _check_names(index: Index, views: Sequence[RunView], metric: str | None, key: str) -> None:
    """Raise UsageError for a metric or a sort key that no run has, where there are runs."""
    is_known = metric is None or figures.name_of(metric) is not None or any(metric in view.summaries for view in views)
    problem = None if is_known or not views else query.unknown_name(index, [f"metric.{metric}"])
    problem = problem or query.unknown_sort_key(index, views, key)
    if problem is not None:
        raise UsageError(f"{problem} {metrics_message(views)}")


def _sorted_metric(views: Sequence[RunView], key: str) -> str | None:
    """The metric that runs are sorted by, if they are: it is the one to look at. None: the loss of each run."""
    if figures.name_of(key) is not None:
        return key
    name = _sorted_name(key)
    is_other = key in SORT_KEYS or key.startswith("param.") or filters.is_its_loss(key)
    return name if not is_other and name in views[0].summaries else None


def _sorted_name(key: str) -> str:
    return key.partition(".")[2] if key.startswith(("param.", "metric.", "best.")) else key


def _say_what_is_missing(views: Sequence[RunView], key: str, metric: str | None) -> None:
    """A typo in a metric's name would look like a run without it."""
    if not views:
        return
    known = metrics_message(views)
    if metric is not None and figures.name_of(metric) is None and not any(metric in view.summaries for view in views):
        say(f"none of these runs has a metric {metric!r}. {known}")
    if (figure := figures.name_of(key)) is not None:
        if all(figures.value(view.usage, figure) is None for view in views):
            say(f"none of these runs has {key}: newest first.")
        return
    name = _sorted_name(key)
    if filters.is_its_loss(key):
        name = metric_names.main_metric(views[0].summaries) or name
    # runs that have the key come first
    if key not in SORT_KEYS and name not in views[0].summaries and name not in views[0].params:
        near = filters.near_name(name, [*SORT_KEYS, *metric_names.all_names(views), *views[0].params])
        meant = f" Did you mean {near}?" if near else ""
        say(f"no run has a metric or parameter {name!r} to sort by; newest first.{meant} {known}")
