"""A sweep as any process sees it, and what any process may ask of it. Only a sweeper drives it: see sweeper.py."""

import math
import os
from contextlib import closing, suppress
from datetime import datetime, timezone
from typing import NamedTuple

from backprop import host
from backprop.errors import BackpropError, BusyError
from backprop.lifecycle import run_state
from backprop.lifecycle.sweep.journal import Began, StopAsked, SweepEntry, SweepJournal
from backprop.lifecycle.sweep.journal import read as read_journal
from backprop.lifecycle.sweep.rule import Budget
from backprop.lifecycle.sweep.spec import SweepSpec, sweep_dir
from backprop.lifecycle.sweep.standing import Standing, budget_of, fold
from backprop.records import Run
from backprop.store.holder import has_open
from backprop.store.home import Home
from backprop.store.journal.file import HEARTBEAT_TIMEOUT_S


def ask_to_stop(home: Home, spec: SweepSpec) -> None:
    """Leave a request for the sweeper. Raises OSError."""
    append(home, spec, StopAsked(at=datetime.now(timezone.utc), by=host.user()))


def append(home: Home, spec: SweepSpec, entry: SweepEntry) -> None:
    """Append an entry that any process may write. Raises UnreadableError or ConfigError."""
    path = sweep_dir(home, spec.id).journal_path
    standing = fold(spec, read_journal(path))
    with home.changing(), closing(SweepJournal(path)) as journal:
        if is_from_elsewhere(standing):
            journal.ask(entry)  # two machines cannot append to one file safely
        elif not journal.append(entry):
            raise OSError(28, os.strerror(28))


class Seen(NamedTuple):
    """A sweep as any process sees it."""

    standing: Standing
    budget: Budget
    is_driven: bool  # some process goes on with it

    @property
    def state(self) -> str:
        """In a word."""
        if self.standing.finished is not None:
            return "finished" if self.standing.finished.exit_code == 0 else "failed"
        if self.is_driven:
            return "stopping" if self.standing.is_stop_asked else "running"
        return "stopped" if self.standing.stopped is not None else "interrupted"

    @property
    def is_going_on(self) -> bool:
        """Whether a process drives it, or trials train that `sweep tick` started."""
        has_ended = self.standing.finished is not None or self.standing.stopped is not None
        return self.is_driven or (bool(self.standing.active) and not has_ended)


def observe(home: Home, spec: SweepSpec) -> Seen:
    """What a sweep stands at. Changes nothing. Raises UnreadableError."""
    standing = fold(spec, read_journal(sweep_dir(home, spec.id).journal_path))
    budget = budget_of(standing, active_runs(home, standing), spec.budget_s, datetime.now(timezone.utc))
    return Seen(standing, budget, _is_driven(home, standing))


def active_runs(home: Home, standing: Standing) -> dict[int, Run]:
    """The runs of the trials whose rung has not ended by the journal, by trial."""
    runs = {}
    for trial in standing.active:
        with suppress(FileNotFoundError, BackpropError):  # it is not made yet, or cannot be read
            runs[trial.number] = run_state.look(home, home.rundir(trial.run_id).read_spec()).run
    return runs


def is_driven(home: Home, spec: SweepSpec) -> bool:
    """Whether some process goes on with the sweep."""
    return _is_driven(home, fold(spec, read_journal(sweep_dir(home, spec.id).journal_path)))


def _is_driven(home: Home, standing: Standing) -> bool:
    with closing(SweepJournal(sweep_dir(home, standing.spec.id).journal_path, is_read_only=True)) as journal:
        return _why_owned_elsewhere(home, standing, journal) is not None or journal.is_owned()


def is_from_elsewhere(standing: Standing) -> bool:
    """Whether the sweeper that took the sweep last did so on another machine, and has not recorded its end."""
    is_over = standing.stopped is not None or standing.finished is not None
    return standing.began is not None and standing.began.host != host.name() and not is_over


def own(home: Home, standing: Standing, journal: SweepJournal) -> None:
    """Own the sweep until its journal is closed. Raises BusyError, and closes it, where another process owns it."""
    why = _why_owned_elsewhere(home, standing, journal)
    if why is None and not journal.own():
        why = _why_owned_here(home, standing)
    if why is not None:
        journal.close()
        raise BusyError(why)
    journal.beat_until_closed()


def _why_owned_elsewhere(home: Home, standing: Standing, journal: SweepJournal) -> str | None:
    """Which sweeper on another machine owns the sweep, and what to do; None: none does.

    By its heartbeat, as its lock may not be visible here.
    """
    began = standing.began
    if began is None or not is_from_elsewhere(standing):
        return None
    lost_in_s = journal.lost_in_s(home.server_unix_s())
    if lost_in_s <= 0:
        return None
    return (
        f"{_why_owned(standing.spec, began)} If it was killed, try again in {math.ceil(lost_in_s)} s: a process on "
        f"another machine counts as lost {HEARTBEAT_TIMEOUT_S:g} s after its last heartbeat."
    )


def _why_owned_here(home: Home, standing: Standing) -> str:
    """What has the lock of the sweep, and what to do."""
    began, path = standing.began, sweep_dir(home, standing.spec.id).journal_path
    is_known = began is not None and began.host == host.name() and has_open(began.pid, path)
    return _why_owned(standing.spec, began if is_known else None)


def _why_owned(spec: SweepSpec, began: Began | None) -> str:
    who = "another process" if began is None else f"process {began.pid} on {began.host}"
    return f"sweep {spec.name} is run by {who}. Stop it first: backprop sweep stop {spec.name}."
