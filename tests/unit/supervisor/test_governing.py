"""What the supervisor does about the runtime policy's verdicts."""

from pathlib import Path

import pytest

from backprop.governor.run_policy import Action, PauseState, PolicyDecision
from backprop.records import Pauser, StopReason
from backprop.store.journal.entries import StopRequested
from backprop.supervisor.governing import Governing
from tests.unit.supervisor.fake_session import FakeSession


class FakeMonitor:
    """Answers with one verdict after the other, then that nothing is to be done."""

    def __init__(self, *verdicts: PolicyDecision) -> None:
        self._verdicts = list(verdicts)
        self.gpu_problem: str | None = None

    def look(
        self, now: float, pauses: PauseState, members: object, longest_save_s: float, *, has_stepped: bool
    ) -> PolicyDecision:
        return self._verdicts.pop(0) if self._verdicts else PolicyDecision()


def verdict(action: Action, **changes: object) -> PolicyDecision:
    return PolicyDecision(action=action, reason="because", **changes)  # type: ignore[arg-type]


def governing(session: FakeSession, *verdicts: PolicyDecision) -> tuple[Governing, FakeMonitor]:
    monitor = FakeMonitor(*verdicts)
    return Governing(session.context, monitor, session.pauses, session.stop, session.control), monitor  # type: ignore[arg-type]


def test_heat_pauses_until_the_governor_lets_go(tmp_path: Path):
    """Each verdict is in the journal before it is carried out."""
    session = FakeSession(tmp_path)
    governor, _ = governing(session, verdict(Action.PAUSE), verdict(Action.CONTINUE))
    governor.obey(list)
    assert session.log == ["Governed", "freeze", "Paused"]
    governor.obey(list)
    assert session.log[3:] == ["Governed", "SIGCONT", "Continued"]
    assert session.observer.messages == ["paused: because", "continuing: because"]


def test_the_users_pause_outlasts_the_governors(tmp_path: Path):
    session = FakeSession(tmp_path)
    governor, _ = governing(session, verdict(Action.PAUSE), verdict(Action.CONTINUE))
    session.pauses.pause(Pauser.USER, "by hand")
    governor.obey(list)
    governor.obey(list)
    assert session.pauses.is_paused
    assert session.observer.messages[-1] == "because: still paused: by hand"


@pytest.mark.parametrize("action", [Action.STOP, Action.KILL])
def test_a_stop_by_the_governor_is_recorded_first(tmp_path: Path, action: Action):
    session = FakeSession(tmp_path)
    governor, _ = governing(session, verdict(action, is_over_own_limit=True))
    governor.obey(list)
    assert session.log == ["Governed", "StopRequested"]
    assert isinstance(stop := session.events[-1], StopRequested)
    assert (stop.by, stop.now) == (StopReason.GOVERNOR, action is Action.KILL)
    assert governor.is_over_own_limit


def test_a_session_that_is_being_stopped_can_only_be_killed(tmp_path: Path):
    """Whatever else the governor wants comes too late; a second kill changes nothing."""
    session = FakeSession(tmp_path)
    governor, _ = governing(session, *map(verdict, (Action.PAUSE, Action.SAVE, Action.STOP, Action.KILL, Action.KILL)))
    session.stop.ask(StopReason.USER, "backprop stop")
    for _ in range(5):
        governor.obey(list)
    assert session.log == ["StopRequested", "Governed", "StopRequested"]


def test_a_checkpoint_is_asked_for_in_control_json(tmp_path: Path):
    session = FakeSession(tmp_path)
    governor, _ = governing(session, verdict(Action.SAVE))
    governor.obey(list)
    assert session.read_control().checkpoint_wanted == 1


def test_blindness_to_gpus_is_reported_once(tmp_path: Path):
    session = FakeSession(tmp_path)
    governor, monitor = governing(session)
    for problem in ("no driver", "no driver", None, None):
        monitor.gpu_problem = problem
        governor.obey(list)
    assert session.observer.messages == [
        "the governor cannot read the GPUs: no driver",
        "the governor can read the GPUs again",
    ]
