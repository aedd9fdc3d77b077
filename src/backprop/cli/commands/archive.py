"""`backprop archive` and `unarchive`: hide runs that have ended from `list`, and show them again."""

import click

from backprop.cli.annotating import annotate_each
from backprop.cli.several import ENDED, EVERY, Choice, several_runs
from backprop.store.home import Home


@click.command()
@several_runs("All runs that have ended.", of_all=ENDED, asks=True)
def archive(*, choice: Choice) -> None:
    """Hide runs that have ended from 'list'. Nothing is deleted."""
    _set(choice, is_archived=True)


@click.command()
@several_runs("All archived runs.", of_all=EVERY, of_archived=True, asks=True)
def unarchive(*, choice: Choice) -> None:
    """Show archived runs in 'list' again."""
    _set(choice, is_archived=False)


def _set(choice: Choice, *, is_archived: bool) -> None:
    from backprop.lifecycle import annotating
    from backprop.store.annotations import Kind

    new = annotating.make([(Kind.ARCHIVE if is_archived else Kind.UNARCHIVE, "")])
    home = Home.from_environment()
    views = choice.confirmed(home, "Archive" if is_archived else "Unarchive")
    annotate_each(
        home,
        views,
        new,
        lambda annotations: "archived" if annotations.is_archived else "unarchived",
        is_for_ended=is_archived,
    )
