"""What is done to a trainer on each rung of the stop ladder, and in which order."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.records import Pauser, StopReason
from backprop.store.journal.entries import StopRequested
from backprop.store.output.progress import Progress
from backprop.supervisor.stop_ladder import Rung
from tests.unit.supervisor.fake_session import FakeSession

ENDING = {"SIGINT", "SIGTERM", "SIGKILL"}


def climb(session: FakeSession, *, for_s: float) -> None:
    """Let time pass in looks of a quarter of a second, as the supervisor's loop does."""
    for _ in range(round(for_s * 4)):
        session.stop.escalate()
        session.stop.interrupt_rest()
        session.now += 0.25


def test_a_timebox_is_escalated_rung_by_rung(tmp_path: Path):
    """The stop is recorded, the trainer is asked, then interrupted, terminated and killed."""
    session = FakeSession(tmp_path)
    climb(session, for_s=599)
    assert session.log == []
    climb(session, for_s=40)
    assert session.log == [
        "StopRequested",
        *("SIGINT", "Signalled"),
        *("SIGTERM", "Signalled"),
        *("SIGKILL", "Signalled"),
    ]
    assert session.stop.reason is StopReason.TIMEBOX
    assert session.read_control().stop_reason == "timebox"


def test_a_kill_request_is_recorded_before_the_kill(tmp_path: Path):
    session = FakeSession(tmp_path)
    session.stop.ask(StopReason.CTRL_C, "Ctrl-C, twice", now=True)
    assert session.log == ["StopRequested"]
    session.stop.escalate()
    assert session.log == ["StopRequested", "SIGKILL", "Signalled"]
    assert session.read_control().stop_wanted


def test_a_second_request_may_kill(tmp_path: Path):
    """Even before the first one got as far as SIGINT. The reason that is recorded stays that of the first."""
    session = FakeSession(tmp_path)
    session.stop.ask(StopReason.USER, "backprop stop")
    session.stop.ask(StopReason.GOVERNOR, "too much", now=True)
    assert session.stop.reason is StopReason.USER
    session.stop.escalate()
    assert "SIGKILL" in session.log


def test_a_paused_session_is_not_escalated(tmp_path: Path):
    """Its timebox stands still as well."""
    session = FakeSession(tmp_path)
    session.pauses.pause(Pauser.USER, "by hand")
    climb(session, for_s=700)
    assert session.log == ["freeze", "Paused"]


def test_a_trainer_that_was_never_asked_gets_its_whole_grace(tmp_path: Path):
    """The machine slept over the end of the timebox: the trainer is interrupted, not killed."""
    session = FakeSession(tmp_path)
    session.now += 10_000
    session.stop.escalate()
    assert session.log == ["StopRequested", "SIGINT", "Signalled"]
    assert session.stop.ladder.kill_at == session.now + 30


def test_processes_that_wait_for_others_are_interrupted_later(tmp_path: Path):
    """Once those that train have ended, or halfway to SIGTERM."""
    session = FakeSession(tmp_path)
    session.trainer.has_more_to_ask = True
    session.stop.ask(StopReason.USER, "backprop stop")
    climb(session, for_s=9)
    assert session.log.count("SIGINT") == 1
    climb(session, for_s=2)
    assert session.log.count("SIGINT") >= 2


def test_a_saving_process_outlives_its_launcher(tmp_path: Path):
    """The session is over only when those that were interrupted have ended, too."""
    session = FakeSession(tmp_path)
    session.trainer.is_ended = session.trainer.is_saving = True
    assert session.stop.is_over()
    session.stop.ask(StopReason.USER, "backprop stop")
    session.stop.escalate()
    assert session.stop.rung is Rung.INTERRUPT
    assert not session.stop.is_over()
    session.trainer.is_saving = False
    assert session.stop.is_over()


def test_a_script_that_was_warned_late_has_not_finished_its_training(tmp_path: Path):
    """It gets its time to save beyond the timebox; only one whose training has finished is said to run on."""
    session = FakeSession(tmp_path)
    meter = session.context.meter
    meter.progress = Progress(is_listening=True, longest_step_s=5, longest_save_s=5)
    session.now += 598
    session.stop.set_timebox(session.now)
    session.stop.escalate()
    session.now += 3
    session.stop.announce_overrun()
    assert session.stop.rung is Rung.WARN
    assert session.observer.messages == []
    meter.progress = Progress(is_finished=True)
    session.stop.set_timebox(session.now)
    session.stop.announce_overrun()
    assert ["training has finished" in message for message in session.observer.messages] == [True]


step = st.one_of(
    st.tuples(st.just("wait"), st.floats(0, 1000)),
    st.tuples(st.just("pause"), st.sampled_from(Pauser)),
    st.tuples(st.just("release"), st.sampled_from(Pauser)),
    st.tuples(st.just("stop"), st.sampled_from(StopReason)),
    st.tuples(st.just("kill"), st.sampled_from(StopReason)),
)


@given(st.lists(step, max_size=30))
@settings(deadline=None, max_examples=200)
def test_no_signal_ends_a_trainer_before_its_stop_is_recorded(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]]
):
    """Whatever is asked in whatever order: first the journal, never while it is paused, and always up the ladder."""
    session = FakeSession(tmp_path_factory.mktemp("run", numbered=True))
    for what, value in steps:
        seen = len(session.events)
        match what, value:
            case "wait", float():
                session.now += value
            case "pause", Pauser():
                session.pauses.pause(value, "asked")
            case "release", Pauser():
                session.pauses.release(value)
            case _, StopReason():
                session.stop.ask(value, "asked", now=what == "kill")
        rung, was_paused = session.stop.rung, session.pauses.is_paused
        session.stop.escalate()
        session.stop.interrupt_rest()
        assert session.stop.rung >= rung
        if was_paused:
            assert ENDING.isdisjoint(session.log[seen:])
    ends = [n for n, event in enumerate(session.log) if event in ENDING]
    requests = [n for n, event in enumerate(session.events) if isinstance(event, StopRequested)]
    assert not ends or (requests and requests[0] < ends[0])
    assert (session.stop.request is None) is (not requests)
