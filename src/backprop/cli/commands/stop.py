"""`backprop stop`: end runs gracefully, or at once."""

import os
from typing import TYPE_CHECKING

import click

from backprop.cli import completion
from backprop.cli.context import check_readable, find_run, open_caught_up, say
from backprop.cli.several import ACTIVE, Choice, Outcome, each, several_runs
from backprop.errors import BusyError, NoSuchRunError, UsageError
from backprop.records import RunView
from backprop.store.home import Home
from backprop.store.index import Index

if TYPE_CHECKING:
    from backprop.lifecycle.removed_runs import RemovedRun


@click.command()
@several_runs("All running, paused or queued runs.", of_all=ACTIVE, asks=True, complete=completion.active_runs)
@click.option("--now", is_flag=True, help="Kill at once, without time to save.")
def stop(*, choice: Choice, now: bool) -> None:
    """Stop runs gracefully and wait until they have ended; a queued run leaves the queue."""
    from backprop.lifecycle import requests, run_state

    home = Home.from_environment()
    with open_caught_up(home) as index:
        views, removed = _stoppable(choice, home, index)
    choice.confirm(views, "Kill" if now else "Stop")

    def begin(view: RunView) -> Outcome:
        run = view.run
        if (lost := removed.get(run.spec.id)) is not None:
            return _begin_to_stop(lost, now=now)
        check_readable(run)
        if now:
            say(requests.stop_now(home, run, say).summary)
            return None
        patience_s = requests.request_stop(home, run).grace_s + requests.STOP_MARGIN_S

        def outcome() -> None:
            stopped = run_state.wait_for(home, run, lambda standing: standing.has_ended, patience_s)
            if stopped is None:
                run_id = run.spec.id
                raise BusyError(f"run {run_id} has not stopped yet; to kill it: backprop stop {run_id} --now")
            say(stopped.summary)

        return outcome

    raise click.exceptions.Exit(each(views, begin))


def _stoppable(choice: Choice, home: Home, index: Index) -> tuple[list[RunView], "dict[str, RemovedRun]"]:
    """The runs that are meant, and by their ids those whose record was removed while they run.

    Raises NoSuchRunError or UsageError.
    """
    removed: dict[str, RemovedRun] = {}

    def recall(word: str | None) -> list[RunView]:
        from backprop.lifecycle.removed_runs import removed_runs

        found = {run.run_id: run for run in removed_runs(home) if word is None or run.is_called(word)}
        removed.update(found)
        return [run.view() for run in found.values()]

    if not choice.is_by_name:
        views = choice.find(home, index)
        known = {view.run.spec.id for view in views}
        also = [] if choice.filters else [view for view in recall(None) if view.run.spec.id not in known]
        return [*views, *also], removed
    views = []
    for word in choice.words:
        try:
            view = find_run(home, index, word)
        except NoSuchRunError:
            if not (found := recall(word)):
                raise
            if len(found) > 1:
                ids = ", ".join(one.run.spec.id for one in found)
                raise UsageError(f"{word!r} matches several runs: {ids}. Use an id.") from None
            view = found[0]
        if not os.path.exists(home.rundir(view.run.spec.id).journal_path):  # noqa: PTH110  another user's is closed to us
            recall(view.run.spec.id)
        views.append(view)
    return list({view.run.spec.id: view for view in views}.values()), removed


def _begin_to_stop(lost: "RemovedRun", *, now: bool) -> Outcome:
    from backprop.lifecycle import requests

    if now:
        say(lost.stop_now(by="backprop stop --now"))
        return None
    patience_s = lost.request_stop(now=False, by="backprop stop").grace_s + requests.STOP_MARGIN_S

    def outcome() -> None:
        if (ended := lost.wait_for_end(patience_s)) is None:
            raise BusyError(f"run {lost.run_id} has not stopped yet; to kill it: backprop stop {lost.run_id} --now")
        say(lost.summary(ended))

    return outcome
