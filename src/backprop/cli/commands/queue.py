"""`backprop queue`: the order in which queued runs start."""

import click

from backprop import host
from backprop.cli import completion
from backprop.cli.context import check_readable, open_caught_up, say
from backprop.cli.several import Choice, Outcome, each, several_runs
from backprop.errors import BusyError, UsageError
from backprop.governor.run_queue import RunQueue, in_order, to_be_first
from backprop.records import MAX_PRIORITY, RunView, Status
from backprop.store.home import Home


@click.command()
@click.argument("action", type=click.Choice(["move"]), metavar="move")
@several_runs("All queued runs.", of_all={Status.QUEUED}, complete=completion.active_runs)
@click.option("--first", is_flag=True, help="Move them before all others, in this order.")
def queue(*, action: str, choice: Choice, first: bool) -> None:  # noqa: ARG001  there is one action
    """Move queued runs to the front of the queue.

    At most 99 later runs can overtake a run, whatever their priority, so that no run starves.
    """
    from backprop.lifecycle import requests, run_state

    if not first:
        raise UsageError("say where to: --first.")
    home = Home.from_environment()
    line = RunQueue(home.line_path, host.name())
    with open_caught_up(home) as index:
        views = choice.find(home, index)
    waiting = {entry.ticket.run_id: entry for entry in line.read() if entry.ticket and entry.is_waiting}
    moved = [waiting[view.run.spec.id] for view in views if view.run.spec.id in waiting]
    numbers = [entry.number for entry in moved]
    priorities = dict(zip(numbers, to_be_first(list(waiting.values()), numbers) if numbers else (), strict=True))

    def begin(view: RunView) -> Outcome:
        check_readable(view.run)
        run_id = view.run.spec.id
        entry = waiting.get(run_id)
        priority = None if entry is None else priorities[entry.number]
        requests.request_move(home, view.run, priority)

        def outcome() -> None:
            done = run_state.wait_for(
                home, view.run, lambda now: now.run.waiter is None or _has(line, run_id, priority), requests.PAUSE_S
            )
            if done is None:
                raise BusyError(f"run {run_id} has not moved yet; check with: backprop status")
            if done.run.waiter is None:
                say(f"run {run_id} is not queued any more ({done.run.status.value}).")
                return
            order = [one.ticket.run_id for one in in_order(line.read()) if one.ticket and one.is_waiting]
            place = order.index(run_id) + 1 if run_id in order else 1
            cap = f" (priority {priority}, the greatest)" if priority == MAX_PRIORITY else ""
            say(f"run {run_id} is number {place} of {len(order)} in the queue{cap}")

        return outcome

    raise click.exceptions.Exit(each(views, begin))


def _has(line: RunQueue, run_id: str, priority: int | None) -> bool:
    return any(one.ticket and one.ticket.run_id == run_id and one.ticket.priority == priority for one in line.read())
