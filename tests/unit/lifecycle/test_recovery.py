"""What is recorded of a run whose supervisor is dead. No process is needed."""

import os
import time
from contextlib import closing
from datetime import datetime, timedelta, timezone

import msgspec
import pytest

from backprop import engines
from backprop.engines.base import Observation, Phase
from backprop.engines.slurm.engine import SlurmEngine
from backprop.errors import BusyError
from backprop.lifecycle import recovery
from backprop.records import Run, Status, StopReason
from backprop.store.home import Home
from backprop.store.journal import file as journals
from backprop.store.journal.entries import Entry, Queued, SessionEnded, SessionStarted, StopRequested, Submitted
from backprop.store.journal.file import Journal
from backprop.store.journal.fold import fold
from backprop.store.rundir import RunDir
from tests.records import AT, LIMITS, SPEC

STARTED = SessionStarted(at=AT, session=1, timebox_s=600, grace_s=30, host="h", supervisor_pid=1, boot_id=None)
TIMEBOXED = SessionEnded(at=AT, session=1, status=Status.TIMEBOXED, reason="over", exit_code=0, elapsed_s=1.0)


def queued(session: int) -> Queued:
    return Queued(at=AT, session=session, reason="no slot", figures={}, host="h", supervisor_pid=1)


def reconciled(rundir: RunDir, *entries: Entry) -> tuple[bool, Run]:
    """What `reconcile` returns for a run with these entries, and the run afterwards."""
    with closing(Journal(rundir.journal_path)) as journal:
        assert journal.try_lock()
        journal.append(*entries)
        is_filed = recovery.reconcile(rundir, SPEC, journal, 0.0, print)
    return is_filed, fold(SPEC, journals.read(rundir.journal_path)[0])


@pytest.mark.parametrize("entries", [(), (queued(1),)], ids=["nothing", "queued"])
def test_a_run_whose_supervisor_died_before_its_first_session(rundir: RunDir, entries: tuple[Entry, ...]):
    """It is interrupted, not queued for ever, with the reason."""
    is_filed, run = reconciled(rundir, *entries)
    assert is_filed
    assert (run.status, run.sessions, run.waiter) == (Status.INTERRUPTED, (), None)
    assert run.reason == "its supervisor died before the trainer was started"


def test_a_run_whose_supervisor_died_between_two_sessions(rundir: RunDir):
    """It is what its last session came to, and not queued any more."""
    is_filed, run = reconciled(rundir, STARTED, TIMEBOXED, queued(2))
    assert is_filed
    assert (run.status, run.waiter, len(run.sessions)) == (Status.TIMEBOXED, None, 1)


@pytest.mark.parametrize(
    ("by", "now", "status"),
    [
        (StopReason.USER, True, Status.STOPPED),
        (StopReason.USER, False, Status.INTERRUPTED),
        (StopReason.GOVERNOR, True, Status.INTERRUPTED),
    ],
)
def test_a_session_that_its_user_killed(rundir: RunDir, by: StopReason, now: bool, status: Status):
    """It was stopped, also where its supervisor did not answer and was killed. Nobody else wanted its supervisor dead."""
    asked = StopRequested(at=AT, session=1, by=by, detail="`backprop stop` by me", now=now)
    run = reconciled(rundir, STARTED, asked)[1]
    assert (run.status, run.stopped_by) == (status, by)
    assert run.reason is not None
    assert run.reason.startswith("`backprop stop` by me; its supervisor (pid ") is (status is Status.STOPPED)


def test_a_session_that_its_user_killed_on_slurm(rundir: RunDir):
    """There a request waits beside the journal, and nobody has taken it."""
    with closing(Journal(rundir.journal_path)) as asking:
        asking.ask(StopRequested(at=AT, session=1, by=StopReason.USER, detail="`backprop stop` by me", now=True))
    assert reconciled(rundir, STARTED)[1].status is Status.STOPPED


def test_a_session_took_no_longer_than_until_now(rundir: RunDir):
    """Also where the clock of the file system, or ours before a correction, is ahead."""
    started = msgspec.structs.replace(STARTED, at=datetime.now(timezone.utc) - timedelta(seconds=10))
    out = rundir.out_path(1)
    out.touch()
    os.utime(out, (time.time() + 1000,) * 2)
    session = reconciled(rundir, started)[1].sessions[0]
    assert session.ended_at is not None
    assert session.elapsed_s is not None
    assert 10 <= session.elapsed_s <= (session.ended_at - session.started_at).total_seconds()


def test_a_run_that_has_ended_is_left_as_it_is(rundir: RunDir):
    """Nothing is written about it again."""
    is_filed, _ = reconciled(rundir, STARTED, TIMEBOXED)
    assert not is_filed
    assert journals.read(rundir.journal_path)[0] == [STARTED, TIMEBOXED]


class _Cluster(SlurmEngine):
    """One whose job is requeued while it is asked for: the journal says so, and Slurm says that it has FAILED."""

    def __init__(self, journal: Journal, *entries: Entry, phase: Phase = Phase.ENDED) -> None:
        super().__init__()
        self._journal = journal
        self._entries = entries
        self._phase = phase

    def observe(self, run: Run) -> Observation:
        self._journal.append(*self._entries)
        return Observation(self._phase)


@pytest.mark.parametrize("is_recorded", [None, "before", "while Slurm is asked", "Slurm does not answer"])
def test_a_job_that_is_requeued_meanwhile(rundir: RunDir, monkeypatch: pytest.MonkeyPatch, is_recorded: str | None):
    """Whoever saw the end of the session before it was recorded is told that another follows, or may."""
    submitted = Submitted(at=AT, session=1, host="h", limits=LIMITS, job="7", sessions=2)
    again = msgspec.structs.replace(submitted, session=2, is_again=True)
    with closing(Journal(rundir.journal_path)) as journal:
        assert journal.try_lock()
        journal.append(submitted, msgspec.structs.replace(STARTED, job="7"), TIMEBOXED)
        ended = fold(SPEC, journals.read(rundir.journal_path)[0])
        assert ended.status is Status.TIMEBOXED
        if is_recorded == "before":
            journal.append(again)
        phase = Phase.UNKNOWN if is_recorded == "Slurm does not answer" else Phase.ENDED
        cluster = _Cluster(journal, *([again] if is_recorded == "while Slurm is asked" else []), phase=phase)
        monkeypatch.setattr(engines, "cluster", lambda: cluster)
        assert recovery.is_about_to_requeue(rundir, ended) == (is_recorded is not None)


@pytest.mark.parametrize("has_ended", [True, False])
def test_a_run_whose_process_still_ends(home: Home, rundir: RunDir, monkeypatch: pytest.MonkeyPatch, has_ended: bool):
    """It records its end before it lets go of the run: it is claimed then, and not called running for that."""
    holder = Journal(rundir.journal_path)
    assert holder.try_lock()
    holder.append(STARTED, *([TIMEBOXED] if has_ended else []))
    monkeypatch.setattr(recovery, "CLAIM_PATIENCE_S", 0.0)
    ended = fold(SPEC, [STARTED, TIMEBOXED])
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            holder.close()

    monkeypatch.setattr(time, "sleep", sleep)
    if has_ended:
        recovery.claim(home, ended, print).close()
        assert len(slept) == 3
    else:
        with pytest.raises(BusyError, match="^run r is running, supervised by process 1 on h"):
            recovery.claim(home, ended, print)
        holder.close()


def test_a_run_whose_process_never_ends(home: Home, rundir: RunDir, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recovery, "CLAIM_PATIENCE_S", 0.0)
    monkeypatch.setattr(recovery, "BETWEEN_SESSIONS_S", 0.0)
    with closing(Journal(rundir.journal_path)) as holder:
        assert holder.try_lock()
        holder.append(STARTED, TIMEBOXED)
        with pytest.raises(BusyError, match="another process still holds it"):
            recovery.claim(home, fold(SPEC, [STARTED, TIMEBOXED]), print)
