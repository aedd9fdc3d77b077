"""`backprop best`: what was tried, ranked by a metric over several seeds."""

import click

from backprop.cli import completion
from backprop.cli.context import goal_option, json_option, known_goal, metrics_message, open_caught_up, print_json, say
from backprop.errors import UsageError
from backprop.records import Goal
from backprop.store import filters, metric_names, query
from backprop.store.home import Home
from backprop.views import replicates


@click.command()
@click.argument("metric", required=False, shell_complete=completion.metrics)
@click.option("--filter", "conditions", multiple=True, help="Only runs that match: 'group=lr age<1d'.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=10,
    show_default=True,
    help="Maximum number of lines (0 for no limit).",
    metavar="N",
)
@goal_option
@json_option
def best(*, metric: str | None, conditions: tuple[str, ...], limit: int, goals: dict[str, Goal], as_json: bool) -> None:
    """Rank parameters by METRIC: mean ± sd over runs that differ only in their seed.

    Without METRIC, rank by the loss. A run counts with its best value, once it has completed or was timeboxed.
    """
    asked = filters.Wanted(
        statuses=tuple(status.value for status in replicates.COUNTED),
        conditions=filters.parse_filter(" ".join(conditions)),
        hides_archived=True,
        goals=goals,
    )
    with open_caught_up(Home.from_environment()) as index:
        views = query.runs(index, asked)
        mistake = None if views else query.unknown_name(index, [condition.name for condition in asked.conditions])
    name = metric or metric_names.commonest_main_metric(views)
    if not views or name is None:
        if as_json:
            print_json([])
        say(
            mistake
            or (
                "no matching runs have completed or were timeboxed."
                if not views
                else "these runs have no loss; name a METRIC."
            )
        )
        return
    if not any(name in view.summaries for view in views):
        raise UsageError(f"none of these runs has a metric {name!r}. {metrics_message(views)}")
    goal = known_goal(name, views)
    ranked = replicates.by_mean(replicates.sets(views), name, goal)
    shown = ranked[: limit or None]
    from backprop.views.terminal.replicates_table import differing, ranking_table

    names = differing([one[0] for one, _ in ranked])  # of the first alone, none would differ
    if as_json:
        from backprop.views.documents.replicates_json import set_document

        print_json([set_document(one, over, name, goal, names) for one, over in shown])
    elif shown:
        print(ranking_table(shown, names), end="")
    if not shown:
        say("none of these runs has a value of this metric.")
    elif shown[0][1].runs == 1:
        say(f"the first is a single run, which may be luck; to know: run it with other seeds ({name}, {goal.value}).")
    if len(shown) < len(ranked):
        say(f"{len(shown)} of {len(ranked)}; --limit 0 shows all.")
