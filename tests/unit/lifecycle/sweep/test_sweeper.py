"""One step of a sweep, with runs that are never made."""

import errno
import os
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backprop import host
from backprop.errors import BusyError, ConfigError
from backprop.lifecycle import indexing
from backprop.lifecycle.requests import Called
from backprop.lifecycle.sweep import observation, trial_runs
from backprop.lifecycle.sweep.journal import Asked, Began, SweepJournal, read
from backprop.lifecycle.sweep.rule import Budget
from backprop.lifecycle.sweep.spec import SweepSpec, make
from backprop.lifecycle.sweep.standing import Standing, TrialState
from backprop.lifecycle.sweep.sweeper import Sweeper
from backprop.records import Source, Status
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.store.journal.entries import SessionEnded, SessionStarted
from backprop.store.journal.file import Journal
from backprop.store.rundir import RunDir
from tests.conftest import wait_for
from tests.records import SPEC as RUN_SPEC
from tests.unit.lifecycle.sweep.test_standing import NOW, SPEC

ENDED = SessionEnded(at=NOW, session=1, status=Status.TIMEBOXED, reason="r", exit_code=0, elapsed_s=1.0)
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


@pytest.mark.parametrize("is_written", [False, True], ids=["nothing", "not synced"])
def test_a_full_disk_writes_nothing_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_written: bool):
    """What a tick could not write is decided anew by the next one."""
    home = Home(tmp_path / "home")
    path = make(home, ANEW).journal_path

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(trial_runs, "make", lambda *_: Called(0, ""))
    with closing(Sweeper(home, ANEW, Silent())) as sweeper:
        sweeper.begin()
        with monkeypatch.context() as full:
            full.setattr(os, "fsync" if is_written else "write", fail)
            with pytest.raises(ConfigError, match="No space left"):
                sweeper.tick()
        sweeper.tick()
    assert [entry.trial for entry in read(path) if isinstance(entry, Asked)] == [0, 1, 2]


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


def test_a_tick_refreshes_each_active_trial_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And no run of others: whoever looks at those refreshes them."""
    home = Home(tmp_path / "home")
    make(home, ANEW)
    refreshed: list[str] = []
    refresh = indexing._refresh

    def counted(home: Home, index: Index, rundir: RunDir, *rest: Any, **options: Any) -> Any:
        refreshed.append(rundir.run_id)
        return refresh(home, index, rundir, *rest, **options)

    with ExitStack() as held:

        def start(home: Home, spec: SweepSpec, trial: TrialState) -> Called:
            held.enter_context(closing(begun(home, trial.run_id)))
            return Called(0, "")

        monkeypatch.setattr(trial_runs, "make", start)
        sweeper = held.enter_context(closing(Sweeper(home, ANEW, Silent())))
        sweeper.begin()
        sweeper.tick()
        held.enter_context(closing(begun(home, "another")))
        monkeypatch.setattr(indexing, "_refresh", counted)
        sweeper.tick()
        assert refreshed == [trial.run_id for trial in sweeper.standing.active]
        assert len(refreshed) == ANEW.parallel


def test_a_trial_is_judged_by_all_of_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a full disk keeps out of the index is read first."""
    home = Home(tmp_path / "home")
    make(home, ANEW)
    journals: list[Journal] = []

    with ExitStack() as held:

        def start(home: Home, spec: SweepSpec, trial: TrialState) -> Called:
            journals.append(held.enter_context(closing(begun(home, trial.run_id, trial.last.request_id))))
            return Called(0, "")

        monkeypatch.setattr(trial_runs, "make", start)
        sweeper = held.enter_context(closing(Sweeper(home, ANEW, Silent())))
        sweeper.begin()
        sweeper.tick()
        lines = [f'{{"step": {step}, "{ANEW.metric}": {step}}}\n' for step in range(9)]
        home.rundir(sweeper.standing.trials[0].run_id).source_path(1, Source.OUT).write_text("".join(lines))
        journals[0].append(ENDED)
        journals[0].unlock()
        with monkeypatch.context() as full:
            full.setattr(Home, "has_room", lambda _, size_bytes=0: size_bytes == 0)
            with pytest.raises(BusyError, match="output of run .* cannot be indexed"):
                sweeper.tick()
        sweeper.tick()
        assert sweeper.standing.trials[0].value == 8


def begun(home: Home, run_id: str, request_id: str | None = None) -> Journal:
    """A run whose first session is active: the journal that its supervisor has locked."""
    rundir = home.rundir(run_id)
    rundir.path.mkdir()
    rundir.spec_path.write_bytes(msgspec.json.encode(msgspec.structs.replace(RUN_SPEC, id=run_id)))
    home.mark_for_refresh(run_id)
    journal = Journal(rundir.journal_path)
    assert journal.try_lock()
    journal.append(
        SessionStarted(
            at=NOW, session=1, timebox_s=600, grace_s=30, host="h", supervisor_pid=1, boot_id=None,
            request_id=request_id,
        )
    )  # fmt: skip
    return journal
