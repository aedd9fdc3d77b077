"""Commands that look: list, status, logs."""

import os
import sys
import time
from datetime import datetime, timezone

import click

from backprop.cli.common import find_run, is_valid, json_option, open_caught_up, say, working_folder
from backprop.errors import UsageError
from backprop.records import Status
from backprop.store.index import SORT_KEYS
from backprop.store.rundir import Home

_FOLLOW_POLL_S = 0.1
_FOLLOW_REFRESH_S = 1.0
_COPY_BYTES = 1 << 16


@click.command("list")
@click.option("--status", "statuses", multiple=True, help="Only runs of this status; may be given again.")
@click.option("--limit", type=click.IntRange(min=0), default=100, show_default=True, help="At most so many; 0: all.")
@click.option("--sort", default="created", help=f"{', '.join(SORT_KEYS)}, or the name of a metric (smallest first).")
@json_option
def list_runs(*, statuses: tuple[str, ...], limit: int, sort: str, as_json: bool) -> None:
    """Show runs, newest first."""
    allowed = [member.value for member in Status]
    for wanted in statuses:
        if wanted not in allowed:
            raise UsageError(f"--status {wanted!r} is not allowed: {', '.join(allowed)}.")
    with open_caught_up(Home.from_environment()) as index:
        views = index.select(statuses, sort, limit or None)
        total = index.count(statuses)
    now = datetime.now(timezone.utc)
    if as_json:
        from backprop.views import document

        print(document.encode([document.run_document(view, now, is_valid) for view in views]))
    elif views:
        from backprop.views import tables

        print(tables.runs_table(views, now), end="")
    else:
        say("no runs yet; start one: backprop run train.py" if not statuses else "no such runs.")
    if len(views) < total:
        say(f"{len(views)} of {total} runs; --limit 0 shows all.")


@click.command()
@click.argument("run", required=False)
@json_option
def status(*, run: str | None, as_json: bool) -> None:
    """Show the machine and what runs on it; or one RUN in full.

    RUN is an id, a unique beginning of one, a unique name, or 'last'.
    """
    from backprop.views import document, tables

    home = Home.from_environment()
    now = datetime.now(timezone.utc)
    with open_caught_up(home) as index:
        if run is not None:
            view = find_run(index, run)
            if as_json:
                print(document.encode(document.run_document(view, now, is_valid)))
            else:
                print(tables.run_details(view, now, is_valid), end="")
            return
        going_on = index.select([member.value for member in Status if not member.is_final])
    from backprop.governor.probes import read_snapshot

    snapshot = read_snapshot([str(home.path), str(working_folder())])
    if as_json:
        runs = [document.run_document(view, now, is_valid) for view in going_on]
        print(document.encode({"machine": document.machine_document(snapshot), "running": runs}))
    else:
        print(tables.machine_summary(snapshot, going_on, now), end="")


@click.command()
@click.argument("run")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
@click.option("--stderr", is_flag=True, help="What it wrote to stderr instead of stdout.")
@click.option("--session", type=click.IntRange(min=1), help="Of this session; else the last.")
def logs(*, run: str, follow: bool, stderr: bool, session: int | None) -> None:
    """Print what the trainer wrote."""
    from backprop import recovery

    home = Home.from_environment()
    with open_caught_up(home) as index:
        view = find_run(index, run)
        run_id, last = view.run.spec.id, view.run.last_session
        if last is None:
            raise UsageError(f"run {run_id} never started: {view.run.reason or view.run.status.value}.")
        number = session or last.number
        if number > last.number:
            raise UsageError(f"run {run_id} has {last.number} session(s), not {number}.")
        rundir = home.rundir(run_id)
        path = rundir.err_path(number) if stderr else rundir.out_path(number)
        if not path.exists():
            say(f"{path} is not there: the trainer was never launched.")
            return
        with path.open("rb", buffering=0) as file:
            is_going_on = follow and not view.run.status.is_final
            looked_at = time.monotonic()
            while True:
                while data := file.read(_COPY_BYTES):
                    sys.stdout.buffer.write(data)
                sys.stdout.buffer.flush()
                if not is_going_on:
                    break
                time.sleep(_FOLLOW_POLL_S)
                if time.monotonic() - looked_at > _FOLLOW_REFRESH_S:
                    looked_at = time.monotonic()
                    recovery.refresh(home, index, rundir, say)
                    now = index.get(run_id)
                    is_going_on = now is not None and not now.run.status.is_final
    if follow and os.isatty(sys.stdout.fileno()):
        say(f"run {run_id} is not going on.")
