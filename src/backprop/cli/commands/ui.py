"""`backprop ui`: the web page."""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import click

from backprop import __version__
from backprop import host as this_machine
from backprop.cli.context import is_valid, open_caught_up, read_occupancy, say, settings_here, working_folder
from backprop.lifecycle import requests, run_state
from backprop.records import Run
from backprop.store.home import Home

if TYPE_CHECKING:
    from backprop.views.web.services import MachineReading, Services

_MAX_TOLD = 1_000


@click.command()
@click.option(
    "--port",
    metavar="PORT",
    type=click.IntRange(0, 65_535),
    help="Port to serve on (0 for any free one). [default: 7860, or any free one]",
)
@click.option(
    "--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Address of this machine to serve on."
)
@click.option("--no-open", is_flag=True, help="Do not open a browser.")
def ui(*, port: int | None, host: str, no_open: bool) -> None:
    """Serve a live web page of all runs to your browser, until Ctrl-C."""
    from backprop.views.web import app, auth, door, server

    home = Home.from_environment()
    desk = _desk(home)
    with open_caught_up(home):
        pass  # what is wrong with the home is said before anybody waits for a page
    socket = server.bound(host, port)
    address, key, pages = server.address(host, socket), auth.AccessToken(), app.Pages(desk)
    if not server.is_private(socket):
        say("warning: plain HTTP: whoever can read this network's traffic can control your runs; ssh -L is safer")
    say("serving the page until Ctrl-C; your runs continue without it.")
    print(server.url(address, key.token), flush=True)
    with ExitStack() as at_end, suppress(KeyboardInterrupt):  # that is how it ends
        if not no_open and _has_browser():
            way_in = door.LoginRedirect(home.path, server.url(address, key.token))
            at_end.callback(way_in.close)
            key.on_used = way_in.close
            threading.Thread(target=_open, args=(way_in.url,), daemon=True).start()
        at_end.callback(pages.end_streams)
        server.serve(app.make(pages, key, address), at_end.close, socket)
    say("the page is closed.")


def _has_browser() -> bool:
    """Whether there is a screen to show one; the browsers of a terminal would take it from us."""
    return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def _open(url: str) -> None:
    import webbrowser

    webbrowser.open(url)


def _desk(home: Home) -> "Services":
    """What the page may ask of this home. Raises ConfigError."""
    from backprop.lifecycle import indexing
    from backprop.views.web.services import Services

    tell = _once()
    return Services(
        home=home,
        host=this_machine.name(),
        user=this_machine.user(),
        version=__version__,
        open_index=lambda: indexing.open_home(home, tell),
        catch_up=lambda index: indexing.catch_up(home, index, tell),
        read_machine=_machine_reader(home),
        is_valid=is_valid,
        stop=lambda run, now: _stop(home, run, now=now),
        pause=lambda run: _pause(home, run),
        resume=lambda run, minutes: _resume(home, run, minutes),
    )


def _once() -> Callable[[str], None]:
    """Says each thing once: a folder that cannot be read is found again every second."""
    told: set[str] = set()

    def tell(message: str) -> None:
        if message not in told and len(told) < _MAX_TOLD:
            told.add(message)
            say(message)

    return tell


def _machine_reader(home: Home) -> "Callable[[], MachineReading]":
    from backprop.lifecycle.admission import read_machine
    from backprop.views.web.services import MachineReading

    folder, settings = working_folder(), settings_here(home)

    def read() -> MachineReading:
        return MachineReading(
            snapshot=read_machine([str(home.path), str(folder)], settings.gpu_probe),
            limits=settings.limits,
            occupancy=read_occupancy(home),
        )

    return read


# -- orders


def _stop(home: Home, run: Run, *, now: bool) -> str:
    if now:
        return requests.stop_now(home, run, say, by="kill button of the page").told
    answering = requests.request_stop(home, run, by="stop button of the page")
    if answering.is_in_line:
        return f"run {run.spec.id} was asked to leave the queue."
    return f"run {run.spec.id} was asked to stop; it is killed after {answering.grace_s:g} s."


def _pause(home: Home, run: Run) -> str:
    requests.request_pause(home, run, by="pause button of the page")
    return f"run {run.spec.id} was asked to pause."


def _resume(home: Home, run: Run, minutes: float | None) -> str:
    """Go on with a paused session, or begin another one."""
    if run_state.current_supervisor(run) is None:
        return requests.start_resume(home, run.spec.id, minutes)
    requests.request_resume(home, run, by="resume button of the page")
    return f"run {run.spec.id} was asked to resume."
