"""Pictures of a home, beside whoever shows them."""

import os
import queue
from pathlib import Path

import pytest

from backprop.records import Limits
from backprop.store.home import Home
from backprop.views.live_feed import FeedRequest, LiveFeed, LiveState
from tests.conftest import Runs

LIMITS = Limits(timebox_s=600, grace_s=30, min_free_ram_bytes=0, min_free_disk_bytes=0)


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
