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


def test_metrics_and_parameters_without_a_name_can_be_seen(page: Page, served: Ui, runs: Runs):
    """Names of nothing, or of blanks alone, stand in quotes: in the tables of a run's page and at its charts."""
    script = runs.script("""
        print(json.dumps({"event": "params", "params": {"": 1, " ": 2}}))
        print(json.dumps({"step": 1, "loss": 1.0, "": 2.0, "   ": 3.0}))
    """)
    assert runs.call("run", "-n", "odd", script).returncode == 0
    page.open(f"{served.address}#/run/{runs.only_id()}")
    page.until(lambda: len(page.all(".chart")) == 3)
    first_cells = "[...document.querySelectorAll('.tables td:first-child')].map((cell) => cell.textContent)"
    assert page.js(first_cells)[:5] == ['""', '" "', '""', '"   "', "loss"]
    titles = page.js("[...document.querySelectorAll('.chart figcaption bdi')].map((title) => title.textContent)")
    assert titles == ["loss", '""', '"   "']


def test_a_sparkline_of_the_greatest_numbers_is_drawn(page: Page, served: Ui):
    """Their difference is more than a number can be; the shape is that of small ones."""
    page.open(served.address)
    page.one("#empty")

    def path(values: str) -> str:
        drawn = f"import('/static/sparkline.js').then((module) => done(module.path({values})))"
        return page.driver.execute_async_script(f"const done = arguments[0]; {drawn}")

    assert path("[1e308, -1e308, 0]") == path("[1, -1, 0]")
    assert "NaN" not in path("[1e308, -1e308, null, 1.7e308]")
    assert path("[5e-324, 5e-324]") == path("[1, 1]")
