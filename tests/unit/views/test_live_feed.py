"""Pictures of a home, beside whoever shows them."""

import os
import queue
from pathlib import Path

import pytest

from backprop.store.home import Home
from backprop.views.live_feed import LiveFeed, LiveState
from backprop.views.live_rows import FeedRequest
from backprop.views.watch.texts import curve_title
from tests.conftest import Runs
from tests.records import LIMITS


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_log_that_is_no_file_of_the_run_is_neither_followed_nor_waited_for(runs: Runs, tmp_path: Path, kind: str):
    """What lies in a run's directory may come from anybody's archive."""
    runs.call("run", runs.script("print('hello')"), "--run-id", "r")
    log = runs.rundir("r") / "session-1.out"
    log.unlink()
    if kind == "link":
        secret = tmp_path / "secret"
        secret.write_text("a secret\n")
        log.symlink_to(secret)
    else:
        os.mkfifo(log)
    pictures: queue.Queue[LiveState | Exception] = queue.Queue()
    feed = LiveFeed(Home(runs.home), LIMITS, "none")
    feed.start(FeedRequest(run_id="r"), pictures.put)
    try:
        picture = pictures.get(timeout=60)
    finally:
        feed.close()
    assert isinstance(picture, LiveState)
    assert picture.shown is not None
    assert picture.shown.log is None


def test_what_a_run_used_is_among_its_curves(runs: Runs):
    """After its metrics, over time although steps are asked for; with its unit in the title."""
    runs.call("run", runs.script('print(json.dumps({"step": 1, "loss": 0.5}))'), "--run-id", "r")
    runs.set_usage("r", '{"since":0,"until":2,"count":2,"values":{"cpu":[100,50],"ram":5}}\n')
    pictures: queue.Queue[LiveState | Exception] = queue.Queue()
    feed = LiveFeed(Home(runs.home), LIMITS, "none")
    feed.start(FeedRequest(run_id="r", metric="sys/ram"), pictures.put)
    try:
        picture = pictures.get(timeout=60)
    finally:
        feed.close()
    assert isinstance(picture, LiveState)
    assert picture.shown is not None
    assert picture.shown.metrics == ("loss", "sys/cpu", "sys/ram")
    assert picture.shown.curve is not None
    assert (list(picture.shown.curve.xs), list(picture.shown.curve.ys)) == ([1.0, 2.0], [5e6, 5e6])
    title = curve_title(picture.shown, is_log=False).plain
    assert title == "r · sys/ram 5.0 MB · over seconds of training"
