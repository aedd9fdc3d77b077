"""One step of a sweep, with runs that are never made."""

import os
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from backprop import host
from backprop.errors import BusyError
from backprop.lifecycle.requests import Called
from backprop.lifecycle.sweep import observation, trial_runs
from backprop.lifecycle.sweep.journal import Began, SweepJournal
from backprop.lifecycle.sweep.rule import Budget
from backprop.lifecycle.sweep.spec import SweepSpec, make
from backprop.lifecycle.sweep.standing import Standing, TrialState
from backprop.lifecycle.sweep.sweeper import Sweeper
from backprop.store.home import Home
from tests.conftest import wait_for
from tests.unit.lifecycle.sweep.test_standing import NOW, SPEC

ANEW = msgspec.structs.replace(SPEC, id="sweepone", from_scratch=True, parallel=3)


class Silent:
    def event(self, text: str) -> None:
        pass

    def looked(self, standing: Standing, budget: Budget) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_stop_is_heard_between_two_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each may take seconds on a busy machine."""
    home = Home(tmp_path / "home")
    make(home, ANEW)
    made: list[int] = []

    def start(home: Home, spec: SweepSpec, trial: TrialState) -> Called:
        made.append(trial.number)
        if len(made) == 2:
            observation.ask_to_stop(home, spec)
        return Called(0, "")

    monkeypatch.setattr(trial_runs, "make", start)
    with closing(Sweeper(home, ANEW, Silent())) as sweeper:
        sweeper.begin()
        sweeper.tick()
        assert sweeper.standing.is_stop_asked
    assert made == [0, 1]


def test_a_tick_owns_the_sweep_of_a_lost_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What it writes is not taken for a heartbeat of that machine: the next tick is not refused."""
    home = Home(tmp_path / "home")
    path = make(home, ANEW).journal_path
    with closing(SweepJournal(path)) as journal:
        journal.append(Began(at=NOW, pid=1, host="another"))
    with pytest.raises(BusyError, match="process 1 on another"):
        Sweeper(home, ANEW, Silent())
    os.utime(path, (0, 0))
    monkeypatch.setattr(trial_runs, "make", lambda *_: Called(0, ""))
    for _ in range(2):
        with closing(Sweeper(home, ANEW, Silent())) as sweeper:
            sweeper.tick()
            assert sweeper.standing.began is not None
            assert sweeper.standing.began.host == host.name()


def test_who_has_the_sweep_is_said(tmp_path: Path):
    """Only where that is known: a tick and a stop take its lock, too."""
    home = Home(tmp_path / "home")
    make(home, ANEW)
    with closing(Sweeper(home, ANEW, Silent())) as sweeper:
        with pytest.raises(BusyError, match=f"sweep {ANEW.name} is run by another process. Stop it first: "):
            Sweeper(home, ANEW, Silent())
        sweeper.begin()
        with pytest.raises(BusyError, match=f"is run by process {os.getpid()} on {host.name()}. Stop it first: "):
            Sweeper(home, ANEW, Silent())


def test_a_slow_start_costs_no_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Slurm may take minutes to answer: no other machine takes the sweep meanwhile."""
    home = Home(tmp_path / "home")
    path = make(home, ANEW).journal_path
    for module in ("lifecycle.sweep.journal", "store.journal.file"):
        monkeypatch.setattr(f"backprop.{module}.HEARTBEAT_INTERVAL_S", 0.01)

    def start(*_: object) -> Called:
        os.utime(path, (0, 0))
        wait_for(lambda: path.stat().st_mtime > 0)
        observation.ask_to_stop(home, ANEW)
        return Called(0, "")

    monkeypatch.setattr(trial_runs, "make", start)
    with closing(Sweeper(home, ANEW, Silent())) as sweeper:
        sweeper.begin()
        sweeper.tick()
