"""Whether some process drives a sweep, also one of another machine, whose lock cannot be seen from here."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from backprop import host
from backprop.errors import BusyError
from backprop.lifecycle.sweep import observation
from backprop.lifecycle.sweep.journal import Added, Began, Finished, SweepEntry, SweepJournal, SweepStopped
from backprop.lifecycle.sweep.spec import make, sweep_dir
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
    home: Home, monkeypatch: pytest.MonkeyPatch, entries: tuple[SweepEntry], has_heartbeat: bool, is_driven: bool
):
    """By its heartbeat, until it says that it has stopped. The clock of this machine may be wrong: that of the disk tells."""
    path = made(home, *entries)
    if not has_heartbeat:
        os.utime(path, (0, path.stat().st_mtime - 36))
    monkeypatch.setattr("time.time", lambda: 0.0 if not has_heartbeat else 2e10)
    assert observation.is_driven(home, SPEC) is is_driven
    journal = SweepJournal(path)
    if not is_driven:
        observation.own(home, fold(SPEC, entries), journal)
        journal.close()
        return
    with pytest.raises(BusyError) as refused:
        observation.own(home, fold(SPEC, entries), journal)
    why = str(refused.value)
    assert why.startswith(f"sweep {SPEC.name} is run by process 1 on another. Stop it first: backprop sweep stop ")
    assert " If it was killed, try again in 3" in why


def test_a_request_is_no_heartbeat(home: Home):
    """What is asked for while the sweeper of another machine is lost does not make it look alive."""
    path = made(home, ELSEWHERE)
    os.utime(path, (0, 0))
    observation.append(home, SPEC, Added(at=NOW, params={"lr": "0.5"}, by="ada"))
    assert not observation.is_driven(home, SPEC)
    with closing(SweepJournal(path)) as journal:
        assert journal.own()
        assert [type(entry) for entry in journal.read_new()] == [Began, Added]


def made(home: Home, *entries: SweepEntry) -> Path:
    """The journal of a sweep, with these entries."""
    make(home, SPEC)
    path = sweep_dir(home, SPEC.id).journal_path
    with closing(SweepJournal(path)) as journal:
        journal.append(*entries)
    return path


@pytest.mark.parametrize("is_locked", [True, False])
def test_a_sweeper_of_this_machine(home: Home, is_locked: bool):
    """By the lock that it holds; looking does not take it away."""
    with closing(SweepJournal(made(home))) as journal:
        if is_locked:
            assert journal.try_lock()
        assert observation.is_driven(home, SPEC) is is_locked
        assert journal.try_lock()
