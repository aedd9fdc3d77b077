"""`backprop status`: the machine and what runs on it, or one run in full."""

from datetime import datetime, timezone
from functools import partial

import click

from backprop.cli import completion
from backprop.cli.context import (
    failure_of,
    find_runs,
    is_valid,
    json_option,
    open_caught_up,
    print_json,
    settings_here,
    working_folder,
)
from backprop.records import RunView, Status
from backprop.store import filters, query
from backprop.store.files import last_lines, opened
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.store.rundir import RunDir

_NOTIFICATIONS_SHOWN = 5


_NOTIFICATIONS_BYTES = 1 << 16  # at the end of their log


@click.command()
@click.argument("runs", metavar="[RUN]...", nargs=-1, shell_complete=completion.runs)
@click.option(
    "--all",
    "with_all",
    is_flag=True,
    help="Show every checkpoint and session of RUN, not only the newest, and every parameter.",
)
@json_option
def status(*, runs: tuple[str, ...], with_all: bool, as_json: bool) -> None:
    """Show the machine and its active runs, or each RUN in full."""
    from backprop.views.documents import run_json
    from backprop.views.terminal import machine_summary

    home = Home.from_environment()
    now = datetime.now(timezone.utc)
    with open_caught_up(home) as index:
        if runs:
            views = find_runs(home, index, runs)
            if as_json:
                documents = [run_json.run_document(view, now, is_valid, is_whole=with_all) for view in views]
                print_json(documents if len(runs) > 1 else documents[0])
            else:
                print("\n".join(_details(home, index, view, now, with_all=with_all) for view in views), end="")
            return
        last = next(iter(query.runs(index, filters.Wanted(limit=1))), None)
        going_on = query.runs(index, filters.Wanted(statuses=tuple(s.value for s in Status if not s.is_final)))
    from backprop.lifecycle.admission import read_machine

    settings = settings_here(home)
    snapshot = read_machine([str(home.path), str(working_folder())], settings.gpu_probe)
    occupancy = machine_summary.read_occupancy(home)
    if as_json:
        document = {
            "machine": run_json.machine_document(snapshot),
            "running": [run_json.run_document(view, now, is_valid) for view in going_on],
            "slots": {
                "limit": settings.max_parallel,
                "taken": [run_json.ticket_document(ticket) for ticket in occupancy.taken],
            },
            "queue": [run_json.ticket_document(ticket) for ticket in occupancy.queue],
        }
        print_json(document)
    else:
        print(machine_summary.machine_summary(snapshot, settings.limits, occupancy, going_on, last, now), end="")


def _details(home: Home, index: Index, view: RunView, now: datetime, *, with_all: bool) -> str:
    from backprop.views.terminal import run_details

    rundir = home.rundir(view.run.spec.id)
    failure = failure_of(rundir, view.run.last_session)
    return run_details.run_details(
        view,
        now,
        is_valid,
        _notified(rundir),
        curves=partial(query.sparkline_values, index),
        failure=() if failure is None else failure.lines,
        superseded=[name for name in view.summaries if query.is_best_superseded(index, view, name)],
        is_whole=with_all,
    )


def _notified(rundir: RunDir) -> list[str]:
    """What came of the last notifications."""
    with opened(rundir.path, rundir.notify_log_path.name) as fd:
        text = b"" if fd is None else last_lines(fd, _NOTIFICATIONS_BYTES).data
    return text.decode(errors="replace").splitlines()[-_NOTIFICATIONS_SHOWN:]
