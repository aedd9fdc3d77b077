"""`backprop ui`: the web page."""

import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

import click

from backprop.cli.context import check_threads, open_caught_up, say, settings_here, working_folder
from backprop.store.home import Home

_MAX_SHOWN = 1_000


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
    from backprop.views.web import app, auth, login_redirect, server
    from backprop.views.web.services import Services

    home = Home.from_environment()
    settings, folders = settings_here(home), [str(home.path), str(working_folder())]
    services = Services(home=home, limits=settings.limits, gpu_probe=settings.gpu_probe, folders=folders, say=_once())
    with open_caught_up(home):
        pass  # problems of the home are shown before the page is opened
    check_threads()
    socket = server.bound(host, port)
    address, key, pages = server.address(host, socket), auth.AccessToken(), app.Pages(services)
    if not server.is_private(socket):
        say("warning: plain HTTP: anyone who can read this network's traffic can control your runs; ssh -L is safer")
    say("serving the page until Ctrl-C; your runs continue without it.")
    print(server.url(address, key.token), flush=True)
    with ExitStack() as at_end, suppress(KeyboardInterrupt):  # that is how it ends
        if not no_open and _has_browser():
            way_in = login_redirect.LoginRedirect(home.path, server.url(address, key.token))
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


def _once() -> Callable[[str], None]:
    """Says each thing once: a folder that cannot be read is found again every second."""
    shown: set[str] = set()

    def say_once(message: str) -> None:
        if message not in shown and len(shown) < _MAX_SHOWN:
            shown.add(message)
            say(message)

    return say_once
