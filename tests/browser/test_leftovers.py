"""What the page makes of the odd: a run that is being read, metrics without a name, values at the end of what can be."""

from backprop.store.index import Index
from backprop.store.rundir import Home
from tests.browser.conftest import Page, Training, Ui
from tests.conftest import Runs


def test_a_run_that_is_being_read_into_the_index_is_waited_for(page: Page, served: Ui, training: Training, runs: Runs):
    """While `reindex` reads it the page says so, and shows it by itself when it is there."""
    training.ended("big", 1.0)
    home, run_id = Home(runs.home), runs.only_id()
    index = Index(home.index_path, 10)
    index.remove(run_id)
    index.set_seen_folder_ns(home.runs_path.stat().st_mtime_ns)  # else the server would read it at once
    index.close()
    page.open(f"{served.address}#/run/{run_id}")
    page.until(lambda: "being read" in page.text("#run-view"))
    assert runs.call("reindex").returncode == 0
    page.until(lambda: page.text("#run-view h1") == "big")
    assert "being read" not in page.text("#run-view")
    page.until(lambda: page.points() == 60)
