"""What the page makes of the odd: a run that is being read, metrics without a name, values at the end of what can be."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from backprop.store.home import Home
from backprop.store.index import Index
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
    page.until(lambda: page.points() >= 60)  # and what was measured of a run that took a second


def test_metrics_and_parameters_without_a_name_can_be_seen(page: Page, served: Ui, runs: Runs):
    """Names of nothing, or of blanks alone, stand in quotes: in the tables of a run's page and at its charts."""
    script = runs.script("""
        print(json.dumps({"event": "params", "params": {"": 1, " ": 2}}))
        print(json.dumps({"step": 1, "loss": 1.0, "": 2.0, "   ": 3.0}))
    """)
    assert runs.call("run", "-n", "odd", script).returncode == 0
    runs.set_usage(runs.only_id())
    page.open(f"{served.address}#/run/{runs.only_id()}")
    page.until(lambda: len(page.all(".chart")) == 3)
    first_cells = "[...document.querySelectorAll('.tables td:first-child')].map((cell) => cell.textContent)"
    assert page.js(first_cells)[:5] == ['""', '" "', '""', '"   "', "loss"]
    titles = page.js("[...document.querySelectorAll('.chart figcaption bdi')].map((title) => title.textContent)")
    assert titles == ["loss", '""', '"   "']


def test_default_parameters_have_a_table_of_their_own(page: Page, served: Ui, runs: Runs):
    """What was given is not lost among them."""
    script = runs.script("""
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--lr", type=float, default=0.1)
        parser.add_argument("--width", type=int, default=8)
        parser.parse_args()
    """)
    assert runs.call("run", script, "--", "--lr", "1").returncode == 0
    page.open(f"{served.address}#/run/{runs.only_id()}")
    page.until(lambda: "Default parameters" in page.text("#run-view"))
    cells = page.js("[...document.querySelectorAll('.tables h2, .tables td')].map((cell) => cell.textContent)")
    assert cells[:6] == ["Parameters", "lr", "1", "Default parameters", "width", "8"]


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


def test_no_other_server_of_this_machine_is_told_the_token(page: Page, served: Ui):
    """The browser keeps it for pages of our port, through other addresses, other tabs and all."""
    told: list[str] = []

    class Nosy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.append(f"{self.path}\n{self.headers}")
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    token = served.address.partition("token=")[2]
    page.open(served.address)
    page.until(lambda: page.text("#link") == "live")
    with ThreadingHTTPServer(("127.0.0.1", 0), Nosy) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        page.open(f"http://127.0.0.1:{other.server_port}/")
        other.shutdown()
    assert told
    assert not [request for request in told if token in request]
    page.open(served.without_token)
    page.until(lambda: page.text("#link") == "live")
