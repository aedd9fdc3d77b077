"""What pages are told of runs that are there, while `reindex` reads them."""

import pytest

from backprop.store.home import Home
from backprop.store.index import Index
from backprop.views.web.params import log_place
from backprop.views.web.sse import Client, Subscription
from tests.conftest import Runs
from tests.web.conftest import MakePoller, Server, services_of


@pytest.fixture
def run_id(runs: Runs) -> str:
    """A run that has ended."""
    runs.call("run", runs.script("print(json.dumps({'step': 1, 'loss': 1.0}))"))
    return runs.only_id()


def forget(runs: Runs, run_id: str) -> None:
    """Take a run out of the index, as `reindex` does before it reads it."""
    home = Home(runs.home)
    index = Index(home.index_path, 10)
    index.remove(run_id)
    index.set_seen_folder_ns(home.runs_path.stat().st_mtime_ns)  # else the server would read it at once
    index.close()


@pytest.mark.parametrize("path", ["/api/runs/{}", "/api/runs/{}/log", "/api/runs/{}/patch", "/api/curves?run={}"])
def test_a_run_that_is_being_read_is_to_be_asked_for_again(server: Server, runs: Runs, run_id: str, path: str):
    """503 with the time to wait, not 404: it exists."""
    there = server.get(path.format(run_id)).status
    forget(runs, run_id)
    answer = server.get(path.format(run_id))
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert run_id in answer.json["error"]
    runs.call("reindex")
    assert server.get(path.format(run_id)).status == there


def test_an_order_to_a_run_that_is_being_read_is_not_said_to_be_to_nobody(server: Server, runs: Runs, run_id: str):
    """Whoever pressed the button may press it again."""
    forget(runs, run_id)
    assert server.post(f"/api/runs/{run_id}/stop").status == 503


def test_a_page_that_is_open_does_not_hear_that_its_run_was_removed(runs: Runs, run_id: str, make_poller: MakePoller):
    """It keeps what it shows until there is something new, and what was opened meanwhile hears all of it, with its log."""
    home = Home(runs.home)
    services = services_of(home, lambda: Index(home.index_path, 10))
    poller = make_poller(services)
    with poller.pool.connection() as index:
        subscription = lambda: Subscription(details=run_id, log_run=run_id, log=log_place(f"{run_id}:out", index)[1])  # noqa: E731
        earlier = Client(poller, subscription())
        poller.poll()
        assert names(earlier) == ["table", "run"]
        forget(runs, run_id)
        later = Client(poller, subscription())
        touch(home)
        poller.poll()
        assert [names(earlier), names(later)] == [["table"], ["table"]]
    runs.call("reindex")
    poller.poll()
    assert [names(earlier), names(later)] == [["table"], ["table", "run", "log"]]
    runs.call("rm", "--yes", run_id)
    poller.poll()
    assert all(b'"gone":true' in dict(page.updates())["run"] for page in (earlier, later))


def names(page: Client) -> list[str]:
    return [name for name, _ in page.updates()]


def touch(home: Home) -> None:
    """Make the table another one, as every change of a run's state does."""
    copy = home.path / "copy"
    copy.write_bytes(home.snapshot_path.read_bytes())
    copy.replace(home.snapshot_path)
