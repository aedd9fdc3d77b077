"""`backprop watch`: the live view in the terminal."""

import os
import signal
import sys

import click

from backprop.cli import completion
from backprop.cli.context import check_threads, find_run, open_caught_up, settings_here
from backprop.errors import ExitCode, UsageError
from backprop.store.home import Home


@click.command()
@click.argument("run", required=False, shell_complete=completion.runs)
def watch(*, run: str | None) -> None:
    """Watch runs, the machine and curves live, full screen; keys stop, pause and resume."""
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    if not all(stream is not None and stream.isatty() for stream in streams) or os.environ.get("TERM") == "dumb":
        raise UsageError("watch needs a terminal; without one: backprop list, backprop status, backprop logs -f RUN.")
    check_threads()
    home = Home.from_environment()
    with open_caught_up(home) as index:
        run_id = None if run is None else find_run(home, index, run).run.spec.id
    settings = settings_here(home)
    from backprop.views.live_feed import LiveFeed
    from backprop.views.watch.app import WatchApp

    app = WatchApp(LiveFeed(home, settings.limits, settings.gpu_probe), run_id)
    app.run()
    if app.ended_by is not None:  # end as a program that does not catch it, so that the sender can see it
        signal.signal(app.ended_by, signal.SIG_DFL)
        os.kill(os.getpid(), app.ended_by)
    raise click.exceptions.Exit(app.return_code or ExitCode.OK)
