"""What the commands share that say something about runs: `tag`, `note`, `archive` and `unarchive`."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from backprop.cli.context import check_readable, say
from backprop.cli.several import each
from backprop.errors import BusyError
from backprop.records import Annotations, RunView
from backprop.store.home import Home

if TYPE_CHECKING:
    from backprop.store.annotations import Annotation


def annotate_each(
    home: Home,
    views: Sequence[RunView],
    new: "Sequence[Annotation]",
    outcome: Callable[[Annotations], str],
    *,
    is_for_ended: bool = False,
) -> NoReturn:
    """Say this about each of the runs, and exit with the worst of their codes.

    outcome: the words for what is known of a run then. is_for_ended: it is refused for a run that is active.
    """
    from backprop.lifecycle import annotating

    def annotate(view: RunView) -> None:
        run, run_id = view.run, view.run.spec.id
        check_readable(run)
        if is_for_ended and not run.status.is_final:
            raise BusyError(f"run {run_id} is {run.status.value}: only runs that have ended can be archived.")
        say(f"run {run_id} {outcome(annotating.annotate(home, run_id, new, say))}")

    raise click.exceptions.Exit(each(views, annotate))
