"""Commands that look: list, status, logs."""

import os
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import typer

from backprop.cli.common import JsonFlag, RunWord, find_run, is_valid, open_caught_up, say
from backprop.errors import UsageError
from backprop.records import Status
from backprop.store.index import SORT_KEYS
from backprop.store.rundir import Home

_FOLLOW_POLL_S = 0.1
_FOLLOW_REFRESH_S = 1.0
_COPY_BYTES = 1 << 16


def list_runs(
    status: Annotated[
        list[str] | None, typer.Option("--status", help="Only runs of this status; may be given again.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="At most so many; 0 shows all.")] = 100,
    sort: Annotated[
        str, typer.Option("--sort", help=f"{', '.join(SORT_KEYS)}, or the name of a metric (smallest first).")
    ] = "created",
    as_json: JsonFlag = False,
) -> None:
    """Show runs, newest first."""
    statuses = status or []
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


def status(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", help="An id, a unique beginning of one, a name, or 'last'."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the machine and what runs on it; or one run in full."""
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

    snapshot = read_snapshot([str(home.path), str(Path.cwd())])
    if as_json:
        runs = [document.run_document(view, now, is_valid) for view in going_on]
        print(document.encode({"machine": document.machine_document(snapshot), "running": runs}))
    else:
        print(tables.machine_summary(snapshot, going_on, now), end="")


def logs(
    run: RunWord,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends.")] = False,
    stderr: Annotated[bool, typer.Option("--stderr", help="What it wrote to stderr instead of stdout.")] = False,
    session: Annotated[int | None, typer.Option("--session", min=1, help="Of this session; else the last.")] = None,
) -> None:
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
