"""One step of a sweep, with runs that are never made."""

from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from backprop.lifecycle.requests import Called
from backprop.lifecycle.sweep import observation, trial_runs
from backprop.lifecycle.sweep.rule import Budget
from backprop.lifecycle.sweep.spec import SweepSpec, make
from backprop.lifecycle.sweep.standing import Standing, TrialState
from backprop.lifecycle.sweep.sweeper import Sweeper
from backprop.store.home import Home
from tests.unit.lifecycle.sweep.test_standing import SPEC

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
