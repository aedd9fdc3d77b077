"""`backprop verdict`: whether one set of runs is better than another, as far as their seeds can tell."""

from collections.abc import Sequence
from typing import NoReturn

import click

from backprop.cli import completion
from backprop.cli.context import (
    find_run,
    goal_option,
    json_option,
    known_goal,
    metrics_message,
    open_caught_up,
    print_json,
)
from backprop.errors import ExitCode, NoSuchRunError, UsageError
from backprop.lifecycle import significance
from backprop.lifecycle.optional_dependency import missing
from backprop.lifecycle.significance import Verdict
from backprop.records import Goal, RunView
from backprop.store import filters, metric_names, query
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.views.verdict import sides
from backprop.views.verdict.report import Report, lines, verdict_document
from backprop.views.verdict.sides import At, Compared, Side

_OPERATORS = frozenset("=<>~")
_CODES = {
    Verdict.BETTER: ExitCode.OK,
    Verdict.UNDECIDED: ExitCode.UNDECIDED,
    Verdict.TIE: ExitCode.TIE,
    Verdict.WORSE: ExitCode.WORSE,
}  # in the order in which they decide over the code where there are several


@click.command()
@click.argument("baseline", metavar="BASELINE", shell_complete=completion.runs)
@click.argument("candidates", metavar="CANDIDATE...", nargs=-1, required=True, shell_complete=completion.runs)
@click.option(
    "--metric",
    metavar="NAME",
    shell_complete=completion.metrics,
    help="Compare by this metric. [default: that of --goal, else the loss]",
)
@goal_option
@click.option(
    "--at",
    type=click.Choice([at.value for at in At]),
    default=At.STEP.value,
    show_default=True,
    help="Compare at the last step, or GPU-seconds of training, that all have reached; at each run's end; or its best.",
)
@click.option(
    "--margin",
    default="1%",
    show_default=True,
    metavar="D",
    help="Call it a tie if the difference is surely smaller: a number, or a percentage of the baseline's mean.",
)
@json_option
def verdict(
    *,
    baseline: str,
    candidates: tuple[str, ...],
    metric: str | None,
    goals: dict[str, Goal],
    at: str,
    margin: str,
    as_json: bool,
) -> None:
    """Test whether a candidate beats a baseline. Each is a run, a group, or a filter such as 'group=lr lr=0.1'.

    Runs that differ in their seeds only are replicates, paired by seed. Exits with 0 for better, 20 for worse, 21 for a
    tie, 22 for undecided; of several candidates the best counts.
    """
    share, is_share = _margin(margin)
    home = Home.from_environment()
    with open_caught_up(home) as index:
        found = [Side(word=word, views=tuple(_find(home, index, word))) for word in (baseline, *candidates)]
        sides.check_sides(found)
        views = [view for side in found for view in side.views]
        name, goal = _goal(query.with_goals(views, goals), metric or (next(iter(goals)) if len(goals) == 1 else None))
        place = sides.place_of(index, views, name, At(at))
        compared = Compared(metric=name, is_max=goal is Goal.MAX, at=At(at), place=place)
        measured = [sides.measure(index, side, compared) for side in found]
        width = share * abs(measured[0].mean or 0.0) if is_share else share
        judgements = significance.judge(
            measured[0].values, [each.values for each in measured[1:]], is_max=goal is Goal.MAX, margin=width
        )
        reports = [
            Report(
                compared=compared,
                baseline=found[0],
                candidate=side,
                baseline_values=measured[0],
                candidate_values=values,
                judgement=significance.with_lost_runs(
                    judgement, baseline_lost=len(measured[0].lacking), candidate_lost=len(values.lacking)
                ),
                warnings=tuple(
                    sides.warnings(index, found[0], side, compared, (*measured[0].lacking, *values.lacking))
                ),
            )
            for side, values, judgement in zip(found[1:], measured[1:], judgements, strict=True)
        ]
    try:
        _print(reports, as_json=as_json)
    except ImportError as error:
        raise missing("stats", error) from error


def _find(home: Home, index: Index, word: str) -> list[RunView]:
    """The runs that a word names. Raises UsageError or NoSuchRunError."""
    if _OPERATORS.isdisjoint(word):
        in_group = _of_filter(index, filters.Condition(name="group", operator="=", value=word))
        try:
            run = find_run(home, index, word)
        except (NoSuchRunError, UsageError) as error:  # no run, or the beginning of several ids
            if in_group:
                return in_group
            if isinstance(error, UsageError):
                raise
            raise NoSuchRunError(f"no run and no group named {word!r}; to see them: backprop list --groups") from error
        if in_group and word in {run.run.spec.id, run.run.spec.name}:
            raise UsageError(f"{word!r} names a run and a group: use the run's id {run.run.spec.id}, or group={word}.")
        return in_group or [run]
    conditions = filters.parse_filter(word)
    found = _of_filter(index, *conditions)
    if not found:
        mistake = query.unknown_name(index, [condition.name for condition in conditions])
        raise UsageError(mistake or f"no run matches {word!r}.")
    return found


def _of_filter(index: Index, *conditions: filters.Condition) -> list[RunView]:
    return query.runs(index, filters.Wanted(conditions=conditions, hides_archived=True))


def _goal(views: Sequence[RunView], metric: str | None) -> tuple[str, Goal]:
    """The metric, and which of its values are better. Raises UsageError."""
    name = metric or next(iter(metric_names.leading_metrics(views)), None)
    if name is None or name not in metric_names.all_names(views):
        what = "no metric to compare: name one with --metric" if name is None else f"no run has a metric {name!r}"
        raise UsageError(f"{what}. {metrics_message(views)}")
    return name, known_goal(name, views)


def _margin(text: str) -> tuple[float, bool]:
    """A number, and whether it is a share of the baseline's mean. Raises UsageError."""
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = -1.0
    if not 0.0 <= number < float("inf"):
        raise UsageError(f"invalid --margin {text!r}: expected a number from 0 on, or a percentage such as 1%.")
    return (number / 100, True) if text.endswith("%") else (number, False)


def _print(reports: Sequence[Report], *, as_json: bool) -> NoReturn:
    if as_json:
        documents = [verdict_document(report) for report in reports]
        print_json(documents[0] if len(documents) == 1 else documents, has_result=True)
    else:
        print("\n".join(line for report in reports for line in lines(report)))
    verdicts = {report.judgement.verdict for report in reports}
    raise click.exceptions.Exit(next(code for each, code in _CODES.items() if each in verdicts))
