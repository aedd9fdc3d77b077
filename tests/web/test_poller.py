"""The poller: it survives any error, and keeps no more than it needs."""

import logging
import threading
from pathlib import Path

import pytest

from backprop.store.home import Home
from backprop.store.index import Index
from tests.conftest import HANG_S, wait_for
from tests.web.conftest import MakePoller, services_of


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    made.make()
    made.snapshot_path.write_text("{}")
    return made


def test_a_bug_is_told_to_pages_and_once_to_the_terminal_and_looks_go_on(
    home: Home, caplog: pytest.LogCaptureFixture, make_poller: MakePoller
):
    """A thread that ended in silence would leave all pages as they are, and nobody would know."""
    looks = threading.Semaphore(0)
    is_broken = True

    def catch_up(_: Index) -> None:
        looks.release()
        if is_broken:
            raise ZeroDivisionError("a bug of ours")

    services = services_of(home, lambda: Index(home.index_path, 10), catch_up)
    poller = make_poller(services)
    poller.join(machine=False)
    try:
        for _ in range(3):
            assert looks.acquire(timeout=HANG_S)
        assert "terminal" in str(wait_for(lambda: poller.result.trouble))
        is_broken = False
        wait_for(lambda: looks.acquire(blocking=False) and poller.result.trouble is None)
    finally:
        poller.close()
    bugs = [record for record in caplog.records if record.levelno == logging.ERROR and record.exc_info]
    assert [record.exc_info[0] for record in bugs if record.exc_info] == [ZeroDivisionError]


def test_a_machine_that_cannot_be_read_is_told_and_looked_at_again(home: Home, make_poller: MakePoller):
    """Its gauges come back, and until then pages know why they stand still."""
    services = services_of(home, lambda: Index(home.index_path, 10))
    poller = make_poller(services)
    poller.join(machine=True)  # nobody can read the machine at these services
    try:
        assert "machine" in str(wait_for(lambda: poller.result.trouble))
        number = poller.result.number
        wait_for(lambda: poller.result.number > number + 1)
    finally:
        poller.close()


def test_runs_that_ended_long_ago_are_forgotten(home: Home, make_poller: MakePoller):
    """A page that is open for months costs no more than one that was opened now."""
    services = services_of(home, lambda: Index(home.index_path, 10))
    poller = make_poller(services)
    for number in range(20):
        home.mark_for_refresh(f"run-{number}")
        poller.poll()
        home.mark_refreshed(f"run-{number}")
        new = home.path / "new"
        new.write_text(str(number))
        new.replace(home.snapshot_path)  # as it is at every change of a run's state
        poller.poll()
        assert poller.changed_at(f"run-{number}") == poller.result.number
    assert len(poller._changed_at) <= 2
