"""What a page is told, when the index fails under its feet."""

import itertools
import json
import sqlite3
from collections.abc import Iterator
from typing import Any

import pytest

from backprop.store.home import Home
from backprop.store.index import Index
from backprop.views.web.index_pool import IndexPool
from backprop.views.web.logs import LogPlace
from backprop.views.web.poller import Poller
from backprop.views.web.serializers import CurveSubscription
from backprop.views.web.sse import Client, Subscription
from tests.conftest import Runs
from tests.web.conftest import services_of


class Failing(Index):
    """A real index that fails once, at the read that it is told to."""

    reads_before: int | None = None

    def _read(self) -> None:
        if self.reads_before is not None:
            self.reads_before -= 1
            if self.reads_before < 0:
                self.reads_before = None
                raise sqlite3.OperationalError("database is locked")

    def rows(self, *words: Any) -> list[tuple[Any, ...]]:
        self._read()
        return super().rows(*words)

    def get(self, run_id: str, **only: Any) -> Any:
        self._read()
        return super().get(run_id, **only)


@pytest.fixture
def index(runs: Runs) -> Iterator[Failing]:
    """Of a home with one run `r`, of two metrics and a log."""
    runs.call("run", "--run-id", "r", runs.script("print(json.dumps({'step': 1, 'loss': 1.0, 'acc': 0.5}))"))
    made = Failing(runs.home / "index.db", 10)
    yield made
    made.close()


def test_whatever_read_fails_the_page_gets_all_of_it_at_the_next_look(runs: Runs, index: Failing):
    """Rows, details, curves, log and machine: nothing that was found before the failure is lost with it."""
    services = services_of(Home(runs.home), lambda: index)
    poller = Poller(services, IndexPool(services), lambda: None)
    poller.machine = 1, b"{}"
    whole = {"machine", "table", "rows", "run", "curve loss", "curve acc", "log"}
    for reads in itertools.count():
        poller.poll()
        client = Client(
            poller,
            Subscription(
                runs=("r",),
                details="r",
                curves=(CurveSubscription(run="r", metric="loss"), CurveSubscription(run="r", metric="acc")),
                log_run="r",
                log=LogPlace(stream="out", session=1, offset=0),
                machine=True,
            ),
        )
        index.reads_before = reads
        first = told(client)
        if index.reads_before is not None:  # it takes no more reads than that
            assert first == whole
            break
        assert first == {"trouble"}
        poller.poll()
        assert told(client) == whole | {"trouble"}
    assert reads > 3


def told(client: Client) -> set[str]:
    """What the page hears of, curves by their metric."""
    return {f"{name} {json.loads(data)['metric']}" if name == "curve" else name for name, data in client.updates()}
