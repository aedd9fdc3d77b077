"""When a sweeper acts, and what ends it. No process, and a sweeper that only counts."""

import signal
from collections.abc import Sequence

import pytest

from backprop.errors import BackpropError, ExitCode
from backprop.lifecycle.sweep import driving
from backprop.lifecycle.sweep.driving import SweepDriver
from backprop.lifecycle.sweep.journal import Finished
from backprop.lifecycle.sweep.standing import Standing
from backprop.store.home import Home
from tests.unit.lifecycle.sweep.test_standing import NOW, SPEC


class Sweep:
    """The sweeper, its observer and its signals; something happens at each wait."""

    def __init__(self, *ticks: BackpropError | Standing, signals: Sequence[list[signal.Signals]] = ()) -> None:
        self._ticks = list(ticks)
        self._signals = list(signals)
        self.standing = Standing(spec=SPEC)
        self.ticked = 0
        self.stopped: list[str] = []
        self.messages: list[str] = []

    def tick(self) -> None:
        self.ticked += 1
        match self._ticks.pop(0) if self._ticks else self.standing:
            case BackpropError() as error:
                raise error
            case standing:
                self.standing = standing

    def stop(self, reason: str) -> None:
        self.stopped.append(reason)

    def budget(self) -> None:
        pass

    def looked(self, *_: object) -> None:
        pass

    def event(self, text: str) -> None:
        self.messages.append(text)

    def take(self) -> list[signal.Signals]:
        return self._signals.pop(0) if self._signals else []

    def wait(self, _: float) -> None:
        pass


FINISHED = Standing(spec=SPEC, finished=Finished(at=NOW, reason="over", exit_code=4))


def drive(home: Home, sweep: Sweep) -> int:
    return SweepDriver(home, SPEC, sweep, sweep).drive(sweep)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "_TICK_EVERY_S", 0.0)


def test_it_ends_with_the_code_of_the_sweep(home: Home):
    sweep = Sweep(Standing(spec=SPEC), FINISHED)
    assert drive(home, sweep) == 4
    assert (sweep.ticked, sweep.stopped) == (2, [])


def test_a_signal_stops_its_trials(home: Home):
    """Before anything else is started."""
    sweep = Sweep(signals=[[], [signal.SIGHUP]])
    assert drive(home, sweep) == ExitCode.INTERRUPTED
    assert (sweep.ticked, len(sweep.stopped)) == (1, 1)


def test_a_request_to_stop_is_no_failure(home: Home):
    sweep = Sweep(Standing(spec=SPEC, is_stop_asked=True))
    assert drive(home, sweep) == ExitCode.OK
    assert sweep.stopped == ["backprop sweep stop"]


def test_what_fails_for_a_moment_is_tried_again(home: Home):
    """Only failures in a row count."""
    busy = BackpropError("busy")
    sweep = Sweep(*[busy] * 4, Standing(spec=SPEC), *[busy] * 4, FINISHED)
    assert drive(home, sweep) == 4
    assert len(sweep.messages) == 8


def test_what_keeps_failing_ends_it(home: Home):
    sweep = Sweep(*[BackpropError("gone")] * 9)
    with pytest.raises(BackpropError, match="gone"):
        drive(home, sweep)
    assert sweep.ticked == driving._TRIES


def test_without_a_change_it_does_not_tick(home: Home, monkeypatch: pytest.MonkeyPatch):
    """The journals of the sweep and of its active runs have not grown."""
    monkeypatch.setattr(driving, "_TICK_EVERY_S", float("inf"))
    sweep = Sweep(signals=[[], [], [], [signal.SIGINT]])
    drive(home, sweep)
    assert sweep.ticked == 1
