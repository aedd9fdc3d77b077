"""Whether some process drives a sweep, also one of another machine, whose lock cannot be seen from here."""

from contextlib import closing
from pathlib import Path

import pytest

from backprop import host
from backprop.lifecycle.sweep import observation
from backprop.lifecycle.sweep.journal import Began, Finished, SweepEntry, SweepJournal, SweepStopped
from backprop.lifecycle.sweep.standing import fold
from backprop.store.home import Home
from tests.unit.lifecycle.sweep.test_standing import NOW, SPEC

ELSEWHERE = Began(at=NOW, pid=1, host="another")
STOPPED = SweepStopped(at=NOW, request_ids=(), reason="Ctrl-C")


@pytest.mark.parametrize(
    ("entries", "has_heartbeat", "is_driven"),
    [
        ((ELSEWHERE,), True, True),
        ((ELSEWHERE,), False, False),  # that sweeper died
        ((ELSEWHERE, STOPPED), True, False),
        ((ELSEWHERE, Finished(at=NOW, reason="over")), True, False),
        ((ELSEWHERE, STOPPED, ELSEWHERE), True, True),
        ((Began(at=NOW, pid=1, host=host.name()),), True, False),  # here the lock tells
        ((), True, False),
    ],
)
def test_a_sweeper_of_another_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: tuple[SweepEntry], has_heartbeat: bool, is_driven: bool
):
    """By its heartbeat, until it says that it has stopped."""
    monkeypatch.setattr(SweepJournal, "has_recent_heartbeat", lambda *_: has_heartbeat)
    with closing(SweepJournal(tmp_path / "j")) as journal:
        assert observation.is_driven_elsewhere(fold(SPEC, entries), journal) is is_driven


@pytest.mark.parametrize("is_locked", [True, False])
def test_a_sweeper_of_this_machine(home: Home, is_locked: bool):
    """By the lock that it holds; looking does not take it away."""
    folder = home.path / "sweeps" / SPEC.id
    folder.mkdir(parents=True)
    with closing(SweepJournal(folder / "journal.jsonl")) as journal:
        if is_locked:
            assert journal.try_lock()
        assert observation.is_driven(home, SPEC) is is_locked
        assert journal.try_lock()
