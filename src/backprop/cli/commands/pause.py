"""`backprop pause`: suspend runs, to be resumed later."""

import click

from backprop.cli import completion
from backprop.cli.context import check_readable, say
from backprop.cli.several import Choice, Outcome, each, several_runs
from backprop.errors import BusyError, UsageError
from backprop.records import RunView, Status
from backprop.store.home import Home


@click.command()
@several_runs("All running runs.", of_all={Status.RUNNING}, asks=True, complete=completion.active_runs)
def pause(*, choice: Choice) -> None:
    """Suspend runs, and their clocks, until `backprop resume`. They keep their slots and memory."""
    from backprop.lifecycle import requests, run_state

    home = Home.from_environment()
    views = choice.confirmed(home, "Pause")

    def begin(view: RunView) -> Outcome:
        run, run_id = view.run, view.run.spec.id
        check_readable(run)
        if (standing := run_state.look(home, run.spec)).is_paused_by_user:
            say(f"run {run_id} is already paused: {standing.run.reason}")
            return None
        requests.request_pause(home, run)

        def outcome() -> None:
            paused = run_state.wait_for(home, run, lambda now: now.is_paused_by_user or now.has_ended, requests.PAUSE_S)
            if paused is None:
                raise BusyError(
                    f"the supervisor of run {run_id} has not paused it yet; check with: backprop status {run_id}"
                )
            if paused.has_ended:
                raise UsageError(f"run {run_id} has just ended ({paused.run.status.value}).")
            say(f"run {run_id} paused · resume with: backprop resume {run_id}")

        return outcome

    raise click.exceptions.Exit(each(views, begin))
