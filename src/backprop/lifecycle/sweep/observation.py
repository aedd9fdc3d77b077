"""A sweep as any process sees it, and what any process may ask of it. Only a sweeper drives it: see sweeper.py."""

import os
import time
from contextlib import closing, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from backprop import host
from backprop.errors import BackpropError
from backprop.lifecycle import run_state
from backprop.lifecycle.sweep.journal import StopAsked, SweepEntry, SweepJournal
from backprop.lifecycle.sweep.journal import read as read_journal
from backprop.lifecycle.sweep.rule import Budget
from backprop.lifecycle.sweep.spec import SweepSpec, sweep_dir
from backprop.lifecycle.sweep.standing import Standing, budget_of, fold
from backprop.records import Run
from backprop.store.home import Home


def ask_to_stop(home: Home, spec: SweepSpec) -> None:
    """Leave a request for the sweeper. Raises OSError."""
    append(home, spec, StopAsked(at=datetime.now(timezone.utc), by=host.user()))


def append(home: Home, spec: SweepSpec, entry: SweepEntry) -> None:
    """Append an entry that any process may write. Raises UnreadableError or ConfigError."""
    path = sweep_dir(home, spec.id).journal_path
    standing = fold(spec, read_journal(path))
    with home.changing(), closing(SweepJournal(path)) as journal:
        if is_driven_elsewhere(standing, journal):
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
    return Seen(standing, budget, _is_driven(standing, sweep_dir(home, spec.id).journal_path))


def active_runs(home: Home, standing: Standing) -> dict[int, Run]:
    """The runs of the trials whose rung has not ended by the journal, by trial."""
    runs = {}
    for trial in standing.active:
        with suppress(FileNotFoundError, BackpropError):  # it is not made yet, or cannot be read
            runs[trial.number] = run_state.look(home, home.rundir(trial.run_id).read_spec()).run
    return runs


def is_driven(home: Home, spec: SweepSpec) -> bool:
    """Whether some process goes on with the sweep."""
    path = sweep_dir(home, spec.id).journal_path
    return _is_driven(fold(spec, read_journal(path)), path)


def _is_driven(standing: Standing, path: Path) -> bool:
    with closing(SweepJournal(path, is_read_only=True)) as journal:
        return is_driven_elsewhere(standing, journal) or journal.is_owned()


def is_driven_elsewhere(standing: Standing, journal: SweepJournal) -> bool:
    """Whether a sweeper on another machine has the sweep, by its heartbeat: its lock may not be visible here."""
    began, is_over = standing.began, standing.stopped is not None or standing.finished is not None
    is_elsewhere = began is not None and began.host != host.name() and not is_over
    return is_elsewhere and journal.has_recent_heartbeat(time.time())
