"""Pausing and continuing a trainer, for several pausers at once."""

from pathlib import Path

import pytest

from backprop.records import Pauser, StopReason
from backprop.store.journal.entries import Continued, Paused
from tests.unit.supervisor.fake_session import FakeSession


def test_a_session_continues_when_its_last_pauser_releases_it(tmp_path: Path):
    """Each change is in the journal with the pausers that are left; SIGCONT comes with the last one."""
    session = FakeSession(tmp_path)
    session.pauses.pause(Pauser.USER, "by hand")
    session.now += 5
    session.pauses.pause(Pauser.GOVERNOR, "hot")
    session.pauses.release(Pauser.USER)
    assert session.log == ["freeze", "Paused", "freeze", "Paused", "Paused"]
    assert [entry.by for entry in session.events if isinstance(entry, Paused)] == [
        (Pauser.USER,),
        (Pauser.USER, Pauser.GOVERNOR),
        (Pauser.GOVERNOR,),
    ]
    session.now += 5
    session.pauses.release(Pauser.GOVERNOR)
    assert session.log[-2:] == ["SIGCONT", "Continued"]
    assert isinstance(continued := session.events[-1], Continued)
    assert continued.paused_s == 10.0
    assert not session.pauses.is_paused


def test_what_freezing_takes_is_part_of_the_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By the record, too: else a view would count it as training until the pause is over."""
    session = FakeSession(tmp_path)
    begun = session.context.clock.wall()

    def freeze_slowly() -> None:
        session.now += 5

    monkeypatch.setattr(session.trainer, "freeze", freeze_slowly)
    session.pauses.pause(Pauser.USER, "by hand")
    session.pauses.end()
    assert [entry.at for entry in session.events if isinstance(entry, Paused)] == [begun]
    assert [entry.paused_s for entry in session.events if isinstance(entry, Continued)] == [5.0]


def test_a_release_by_somebody_who_is_not_pausing_does_nothing(tmp_path: Path):
    session = FakeSession(tmp_path)
    session.pauses.release(Pauser.USER)
    session.pauses.pause(Pauser.GOVERNOR, "hot")
    session.pauses.release(Pauser.USER)
    assert session.log == ["freeze", "Paused"]


def test_a_pause_moves_the_deadline_before_the_trainer_continues(tmp_path: Path):
    """The time of the pause counts for nothing; the trainer finds the new deadline when it wakes up."""
    session = FakeSession(tmp_path)
    session.now += 100
    session.pauses.pause(Pauser.USER, "by hand")
    session.now += 1000
    session.pauses.end()
    assert session.stop.left_s(session.now) == 500.0
    control = session.read_control()
    assert control.deadline_unix_s == session.context.clock.wall().timestamp() + 500
    assert session.stop.ladder.kill_at == session.now + 500 + 30


def test_slurm_resumes_a_job_that_it_had_suspended(tmp_path: Path):
    """Slurm announces a suspension, stops the job, and says nothing when it resumes it."""
    session = FakeSession(tmp_path, is_job=True)
    session.pauses.suspend()
    assert session.observer.messages == ["suspended by Slurm"]
    session.now += 2
    assert session.pauses.is_suspended()
    assert session.pauses.is_paused
    session.now += 100
    assert not session.pauses.is_suspended()
    assert not session.pauses.is_paused
    assert session.log == ["freeze", "Paused", "SIGCONT", "Continued"]


def test_a_stop_of_a_paused_session_is_recorded_before_it_continues(tmp_path: Path):
    """It must run in order to save. A crash in between must not leave a run that nobody asked to continue."""
    session = FakeSession(tmp_path)
    session.pauses.pause(Pauser.USER, "by hand")
    session.now += 5
    session.stop.ask(StopReason.CTRL_C, "Ctrl-C")
    assert session.log == ["freeze", "Paused", "StopRequested", "SIGCONT", "Continued"]
