"""Commands that take several runs: named, chosen by a filter, or all that the command can do something about.

One question first, in a terminal; then an outcome for each, and the worst exit code.
"""

import functools
import sys
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from backprop.cli import completion
from backprop.cli.context import find_runs, open_caught_up, say
from backprop.errors import BackpropError, ExitCode, UsageError
from backprop.records import RunView, Status
from backprop.store import filters, query
from backprop.store.home import Home
from backprop.store.index import Index

if TYPE_CHECKING:
    from backprop.cli.completion import Completer

Function = TypeVar("Function", bound=Callable[..., Any])
# waits for the outcome of what was begun for one run, and shows it; None: it was shown already
Outcome = Callable[[], None] | None

ACTIVE = frozenset(status for status in Status if not status.is_final)
ENDED = frozenset(status for status in Status if status.is_final) - {Status.UNREADABLE}
EVERY = frozenset(Status)
_LISTED = 20  # runs before a question


class Choice(NamedTuple):
    """Which runs the command line means."""

    words: tuple[str, ...]
    filters: tuple[str, ...]
    is_by_name: bool
    is_sure: bool  # --yes
    statuses: Collection[Status]  # of the runs to choose from
    of_archived: bool  # these are the archived ones, which no other command takes unless it is told to

    def find(self, home: Home, index: Index) -> list[RunView]:
        """The runs, each once: named ones in their order, others oldest first. None of them may be there.

        Raises NoSuchRunError or UsageError.
        """
        if self.is_by_name:
            return find_runs(home, index, self.words)
        wanted = filters.Wanted(
            statuses=tuple(status.value for status in Status if status in self.statuses),
            conditions=filters.parse_filter(" ".join((*self.filters, *(["archived=true"] * self.of_archived)))),
            hides_archived=True,
            is_descending=False,
        )
        views = query.runs(index, wanted)
        if not views:
            names = [condition.name for condition in wanted.conditions]
            if (mistake := query.unknown_name(index, names)) is not None:
                raise UsageError(mistake)
            is_of_active = not self.filters and not any(status.is_final for status in self.statuses)
            say("no run is active." if is_of_active else "no matching runs.")
        return views

    def confirmed(self, home: Home, verb: str) -> list[RunView]:
        """The same, once the user has agreed. Raises as `find` and `confirm`."""
        with open_caught_up(home) as index:
            views = self.find(home, index)
        self.confirm(views, verb)
        return views

    def confirm(self, views: Sequence[RunView], verb: str) -> None:
        """Ask before something is done to runs that were not named; without a terminal, do not ask.

        Raises click.Abort for a no.
        """
        if views and not self.is_by_name and not self.is_sure and sys.stdin.isatty():
            ask(views, verb)


def ask(views: Sequence[RunView], verb: str, more: Sequence[str] = ()) -> None:
    """Show the runs and ask. more: lines to show as well. Raises click.Abort for a no."""
    for view in views[:_LISTED]:
        say(f"{view.run.spec.id} {view.run.spec.name or ''} ({view.run.status.value}, step {view.last_step})")
    if len(views) > _LISTED:
        say(f"and {len(views) - _LISTED} more")
    for line in more:
        say(line)
    if not click.confirm(f"{verb} {len(views)} run{'s' * (len(views) != 1)}?", err=True):
        raise click.Abort


def several_runs(
    all_help: str,
    *,
    of_all: Collection[Status],
    of_filter: Collection[Status] | None = None,
    of_archived: bool = False,
    asks: bool = False,
    default: str | None = None,
    complete: "Completer" = completion.runs,
) -> Callable[[Function], Function]:
    """Declare RUN..., --filter and --all; the command gets a Choice as `choice`.

    of_all, of_filter: the statuses that --all chooses from, and --filter if that is another matter. of_archived: only
    archived runs; without it, of those only such as the filter asks for. asks: with --yes
    as well. default: what no RUN means; None: one must be named, or chosen.
    """

    def declare(function: Function) -> Function:
        @functools.wraps(function)
        def call(
            *args: Any, runs: tuple[str, ...], filters: tuple[str, ...], is_all: bool, yes: bool = False, **rest: Any
        ) -> Any:
            is_by_name = not (filters or is_all)
            if runs and not is_by_name:
                raise UsageError("name runs or select them with --filter or --all, not both.")
            if is_by_name and not runs and default is None:
                raise UsageError("which run? Name one or more, or select them with --filter or --all.")
            choice = Choice(
                words=runs or (default or "",),
                filters=filters,
                is_by_name=is_by_name,
                is_sure=yes,
                statuses=of_all if of_filter is None or not filters else of_filter,
                of_archived=of_archived,
            )
            return function(*args, choice=choice, **rest)

        run = click.argument(
            "runs", metavar="RUN..." if default is None else "[RUN]...", nargs=-1, shell_complete=complete
        )
        filtering = click.option(
            "--filter",
            "filters",
            metavar="CONDITIONS",
            multiple=True,
            help="Runs that match, as in 'backprop list': 'name~sweep age<1d'.",
        )
        all_of_them = click.option("--all", "is_all", is_flag=True, help=all_help)
        declared: Any = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")(call) if asks else call
        result: Function = run(filtering(all_of_them(declared)))
        return result

    return declare


def each(views: Sequence[RunView], begin: Callable[[RunView], Outcome]) -> int:
    """Do something to every run, then wait for all outcomes. The exit code of the worst; of one run its error.

    begin: requests it, and returns a function that waits for the outcome and shows it.
    """
    if len(views) == 1:
        if (outcome := begin(views[0])) is not None:
            outcome()
        return ExitCode.OK
    worst = 0
    begun: list[Callable[[], None]] = []
    for step in [functools.partial(begin, view) for view in views]:
        code, outcome = _attempt(step)
        if code == ExitCode.INTERRUPTED:
            return code
        worst = max(worst, code)
        if outcome is not None:
            begun.append(outcome)
    for outcome in begun:
        code, _ = _attempt(outcome)
        worst = max(worst, code)
    return worst


def _attempt(step: Callable[[], Outcome]) -> tuple[int, Outcome]:
    try:
        return ExitCode.OK, step()
    except click.exceptions.Exit as exit_:
        return exit_.exit_code, None
    except BackpropError as error:
        say(str(error))
        return error.exit_code, None
