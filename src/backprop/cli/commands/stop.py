"""`backprop stop`: end runs gracefully, or at once."""

import click

from backprop.cli import completion
from backprop.cli.context import check_readable, open_caught_up, say
from backprop.cli.several import ACTIVE, Choice, Outcome, each, several_runs
from backprop.errors import BusyError
from backprop.records import RunView
from backprop.store.rundir import Home


@click.command()
@several_runs("All that are running, paused or queued.", of_all=ACTIVE, asks=True, complete=completion.runs_going_on)
@click.option("--now", is_flag=True, help="Kill it at once, without time to save.")
def stop(*, choice: Choice, now: bool) -> None:
    """Stop runs gracefully and wait until they have ended; one that is queued leaves the queue."""
    from backprop.lifecycle import requests

    home = Home.from_environment()
    with open_caught_up(home) as index:
        views = choice.find(home, index)
    choice.confirm(views, "Kill" if now else "Stop")

    def begin(view: RunView) -> Outcome:
        run = view.run
        check_readable(run)
        if now:
            say(requests.stop_now(home, run, say).told)
            return None
        patience_s = requests.ask_stop(home, run).grace_s + requests.STOP_MARGIN_S

        def outcome() -> None:
            stopped = requests.wait_for(home, run, lambda standing: standing.has_ended, patience_s)
            if stopped is None:
                run_id = run.spec.id
                raise BusyError(f"run {run_id} has not stopped yet; to kill it: backprop stop {run_id} --now")
            say(stopped.told)

        return outcome

    raise click.exceptions.Exit(each(views, begin))
