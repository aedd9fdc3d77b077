"""Signals to the supervisor, and requests in the journal."""

from datetime import datetime, timezone
from pathlib import Path
from signal import Signals

import pytest

from backprop.records import Pauser, StopReason
from backprop.store.journal.entries import Entry, PauseRequested, Renamed, ResumeRequested, StopRequested
from backprop.supervisor.control_requests import RequestHandler
from tests.unit.supervisor.fake_session import FakeSession

AT = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    return FakeSession(tmp_path)


@pytest.fixture
def requests(session: FakeSession) -> RequestHandler:
    return RequestHandler(session.context, session.pauses, session.stop)


def send(session: FakeSession, requests: RequestHandler, *incoming: Signals | Entry) -> None:
    session.signals.incoming = [one for one in incoming if isinstance(one, Signals)]
    session.journal.incoming = [one for one in incoming if not isinstance(one, Signals)]
    requests.handle()


def test_a_second_ctrl_c_kills(session: FakeSession, requests: RequestHandler):
    """Unless it comes so soon that it is the first one, sent twice by a wrapper."""
    send(session, requests, Signals.SIGINT)
    assert (session.stop.reason, session.log) == (StopReason.CTRL_C, ["StopRequested"])
    session.now += 0.1
    send(session, requests, Signals.SIGINT)
    assert session.log == ["StopRequested"]
    session.now += 1
    send(session, requests, Signals.SIGINT)
    assert isinstance(stop := session.events[-1], StopRequested)
    assert stop.now


@pytest.mark.parametrize("number", [Signals.SIGTERM, Signals.SIGHUP, Signals.SIGUSR1, Signals.SIGALRM])
def test_every_other_signal_stops_the_session(session: FakeSession, requests: RequestHandler, number: Signals):
    send(session, requests, number)
    assert session.stop.request is not None
    assert session.stop.request.detail == f"the supervisor received {number.name}"


def test_a_request_is_followed_in_the_session_it_is_for(session: FakeSession, requests: RequestHandler):
    """One that came too late for the session before is not for this one; and it is in the journal already."""
    stop = StopRequested(at=AT, session=7, by=StopReason.USER, detail="backprop stop", now=False)
    send(session, requests, stop, PauseRequested(at=AT, session=7, detail="backprop pause"))
    assert session.log == []
    assert session.stop.request is None
    own = StopRequested(at=AT, session=1, by=StopReason.USER, detail="backprop stop", now=False)
    send(session, requests, own)
    assert session.log == []
    assert session.stop.request is own


def test_a_user_pauses_and_resumes_the_session(session: FakeSession, requests: RequestHandler):
    pause = PauseRequested(at=AT, session=1, detail="backprop pause")
    send(session, requests, pause, pause)
    assert session.log == ["freeze", "Paused"]
    session.pauses.pause(Pauser.GOVERNOR, "hot")
    send(session, requests, ResumeRequested(at=AT, session=1, detail="backprop resume"))
    assert session.observer.messages[-1] == "backprop resume: still paused: hot"
    assert session.pauses.is_paused


def test_a_session_that_is_being_stopped_is_not_paused(session: FakeSession, requests: RequestHandler):
    session.stop.ask(StopReason.USER, "backprop stop")
    send(session, requests, PauseRequested(at=AT, session=1, detail="backprop pause"))
    assert not session.pauses.is_paused


def test_a_run_that_is_renamed_has_its_new_name(session: FakeSession, requests: RequestHandler):
    send(session, requests, Renamed(at=AT, name="new"))
    assert session.context.spec.name == "new"


def test_no_request_is_taken_while_slurm_suspends_the_job(tmp_path: Path):
    """They stay where they are until the job is resumed."""
    session = FakeSession(tmp_path, is_job=True)
    requests = RequestHandler(session.context, session.pauses, session.stop)
    send(session, requests, Signals.SIGTSTP)
    session.now += 1
    send(session, requests, Signals.SIGTERM)
    assert session.stop.request is None
    session.now += 10
    requests.handle()
    assert session.stop.request is not None
