"""`backprop rename`: give a run another name."""

import click

from backprop import config
from backprop.cli import completion
from backprop.cli.context import check_readable, find_run, open_caught_up, say
from backprop.store import filters, query
from backprop.store.home import Home


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.argument("name")
def rename(*, run: str, name: str) -> None:
    """Rename a run."""
    from backprop.lifecycle import indexing, requests

    config.check_name(name)
    home = Home.from_environment()
    with open_caught_up(home) as index:
        spec = (view := find_run(home, index, run)).run.spec
        check_readable(view.run)
        requests.rename(home, view.run, name)
        indexing.refresh(home, index, home.rundir(spec.id), say)
        wanted = filters.Wanted(conditions=(filters.Condition(name="name", operator="=", value=name),))
        others = [other.run.spec.id for other in query.runs(index, wanted) if other.run.spec.id != spec.id]
    say(f"run {spec.id} renamed to {name}" + (f", from {spec.name}" if spec.name else ""))
    if others:
        say(f"note: {', '.join(others[:5])} has the same name; to tell them apart, use ids")
