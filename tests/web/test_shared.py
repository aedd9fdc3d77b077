"""What many pages are told of the same run is read once, however many listen."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from backprop.store.home import Home
from backprop.store.index import Index
from backprop.views.web.logs import LogPlace
from backprop.views.web.poller import Poller, SharedCache
from backprop.views.web.serializers import CurveSubscription
from backprop.views.web.sse import Client, Subscription
from tests.conftest import Runs
from tests.web.conftest import MakePoller, services_of


class Counting(Index):
    """A real index that counts how often all of a run is read."""

    count = 0

    def get(self, run_id: str, **only: Any) -> Any:
        Counting.count += not only
        return super().get(run_id, **only)


@pytest.fixture
def poller(runs: Runs, make_poller: MakePoller) -> Poller:
    """Of a home with one run `r`."""
    runs.call("run", "--run-id", "r", runs.script("print(json.dumps({'step': 1, 'loss': 1.0, 'acc': 0.5}))"))
    services = services_of(Home(runs.home), lambda: Counting(runs.home / "index.db", 10))
    made = make_poller(services)
    made.poll()
    Counting.count = 0
    return made


def test_a_hundred_pages_of_one_run_read_it_once_a_change(poller: Poller, runs: Runs):
    """All are told all of it, with curve and log; and again when it changed."""

    def page() -> Client:
        return Client(
            poller,
            Subscription(
                details="r",
                curves=(CurveSubscription(run="r", metric="loss"),),
                log_run="r",
                log=LogPlace(stream="out", session=1, offset=0),
            ),
        )

    pages = [page() for _ in range(100)]
    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(Client.updates, pages))
    assert all([name for name, _ in events] == ["table", "run", "curve", "log"] for events in told)
    assert len({data for events in told for name, data in events if name == "run"}) == 1
    assert Counting.count == 1

    runs.call("resume", "r", "--again")
    poller.poll()
    with ThreadPoolExecutor(8) as threads:
        told = list(threads.map(Client.updates, pages))
    assert all(b'"session_count":2' in dict(events)["run"] for events in told)
    assert Counting.count == 2


def test_what_is_remembered_is_bounded():
    """However many runs pages look at over months."""
    shared: SharedCache[int] = SharedCache(10)
    for number in range(1000):
        assert shared.get(str(number), 1, 1, lambda number=number: number) == number
    assert len(shared._made) + len(shared._makers) <= 20


def test_what_could_not_be_read_is_read_again():
    """An index that is busy once does not keep pages from hearing of a run for ever."""
    shared: SharedCache[int] = SharedCache(10)
    with pytest.raises(ZeroDivisionError):
        shared.get("r", 1, 1, lambda: 1 // 0)
    assert shared.get("r", 1, 1, lambda: 2) == 2
