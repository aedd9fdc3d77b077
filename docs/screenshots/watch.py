"""A picture of `backprop watch`, drawn by Textual itself."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from docs.screenshots.demonstration import Demonstration
from textual.pilot import Pilot
from textual.widgets import Static

from backprop.cli.config_sources import load
from backprop.store.home import Home
from backprop.views.live_feed import LiveFeed
from backprop.views.watch.app import WatchApp
from backprop.views.watch.panes import CurvePane, RunsTable

_SIZE = (130, 36)
_CHOSEN = "long-high"
_PATIENCE_S = 30.0


def take(demonstration: Demonstration, folder: Path) -> None:
    """watch.svg: the runs, the curve of one that trains, and its log."""
    home = Home(Path(demonstration.environment["BACKPROP_HOME"]))
    settings = load(
        flags={},
        environment=demonstration.environment,
        start=demonstration.folder,
        user_file=home.user_config_path,
    ).config
    app = WatchApp(LiveFeed(home, settings.limits, settings.gpu_probe), demonstration.run_id(_CHOSEN))
    folder.joinpath("watch.svg").write_text(asyncio.run(_drawn(app)))


async def _drawn(app: WatchApp) -> str:
    async with app.run_test(size=_SIZE) as pilot:
        await _until(pilot, lambda: app.query_one(RunsTable).row_count > 1)
        title = app.query_one(CurvePane)
        await _until(pilot, lambda: "loss" in str(title.border_title))
        await _until(pilot, lambda: str(app.query_one("#curve", Static).visual).strip())
        await pilot.press("g")  # the loss falls by powers of ten
        await _until(pilot, lambda: "log" in str(title.border_title))
        await pilot.pause(2)  # the first looks at the machine and at the log have come
        return app.export_screenshot(title="backprop watch")


async def _until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    """Raises TimeoutError."""
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the view did not show what there is to see")
        await pilot.pause(0.05)
