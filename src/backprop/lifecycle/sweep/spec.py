"""What a sweep was asked for, and the folder that holds it.

<home>/sweeps/<id>/
  spec.json       what was asked; written once
  journal.jsonl   proposals, promotions and results; its lock is the right to go on with the sweep
  sweeper.log     messages of a sweeper in the background
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from backprop.errors import BusyError, NoSuchRunError, UsageError
from backprop.lifecycle.sweep.rule import Rules
from backprop.lifecycle.sweep.space import Parameter
from backprop.records import Goal, StoredRecord
from backprop.store.files import UnreadableError, read_record, write_plain
from backprop.store.home import Home, HomeBusyError
from backprop.store.rundir import RUN_ID, FileIn, derived_run_id

SWEEPS_FOLDER = "sweeps"


class Confirm(StoredRecord, frozen=True):
    """How the best trials are repeated at the end."""

    top: int  # trials
    seeds: int  # of each


class SweepSpec(StoredRecord, frozen=True):
    """What was asked: spec.json, written once when the sweep is made."""

    id: str
    name: str  # also of the group of its runs
    script: str
    cwd: str
    created_at: datetime
    user: str
    metric: str  # whose best value is searched
    goal: Goal
    parameters: tuple[Parameter, ...]
    budget_s: float  # of training, of all runs together
    rung_s: float  # of the first rung; where rungs are counted in steps, the most that it may take
    parallel: int
    rung_steps: int | None = None  # a rung ends at a step: the first at this one, the next at eta times as many
    eta: float = 3.0
    max_rungs: int = 4
    sampler: str = "random"
    seed: int = 0  # of the sampler
    seed_param: str | None = None  # the script's option for its seed
    confirm: Confirm | None = None
    until: datetime | None = None
    from_scratch: bool = False  # each rung trains anew
    arguments: tuple[str, ...] = ()  # of the script, in every trial
    run_options: tuple[str, ...] = ()  # of `backprop run`, in every trial
    resume_options: tuple[str, ...] = ()  # of `backprop resume`: those that a run does not keep
    version: int = 1

    @property
    def goal_text(self) -> str:
        """As it was written: max:val_accuracy."""
        return f"{self.goal.value}:{self.metric}"

    @property
    def rules(self) -> Rules:
        """The same for the rule that promotes."""
        return Rules(
            goal=self.goal,
            rung_s=self.rung_s,
            rung_steps=self.rung_steps,
            is_anew=self.from_scratch,
            eta=self.eta,
            max_rungs=self.max_rungs,
            parallel=self.parallel,
        )

    def run_id(self, trial: int) -> str:
        """The id of the run of a trial."""
        return derived_run_id(f"sweep {self.id} trial {trial}")


@dataclass(frozen=True, slots=True)
class SweepDir:
    """The folder of one sweep. Making the object touches nothing."""

    path: Path

    spec_path = FileIn("spec.json")  # what was asked for
    journal_path = FileIn("journal.jsonl")  # see journal.py
    log_path = FileIn("sweeper.log")  # of a sweeper in the background

    def read_spec(self) -> SweepSpec:
        """What was asked. Raises FileNotFoundError or UnreadableError."""
        return read_record(self.spec_path, SweepSpec)


def sweep_dir(home: Home, sweep_id: str) -> SweepDir:
    """The folder of a sweep, whether or not it exists."""
    return SweepDir(home.path / SWEEPS_FOLDER / sweep_id)


def make(home: Home, spec: SweepSpec) -> SweepDir:
    """A new sweep's folder, whole from the moment it can be seen. Raises UsageError for a name that is taken.

    Raises BusyError where the home's lock is held for long.
    """
    home.make()
    made = sweep_dir(home, spec.id)
    draft = SweepDir(made.path.with_name(f".new-{spec.id}-{os.getpid()}"))
    with home.changing(), _locked(home):  # of two starts with one name, one is refused
        if any(other.name == spec.name for other in sweeps(home)):
            raise UsageError(
                f"a sweep {spec.name!r} exists already: choose another --name, or: backprop sweep resume {spec.name}"
            )
        made.path.parent.mkdir(mode=0o700, exist_ok=True)
        draft.path.mkdir(mode=0o700)
        try:
            write_plain(draft.spec_path, msgspec.json.format(msgspec.json.encode(spec)) + b"\n")
            draft.journal_path.touch(mode=0o600)
            draft.path.rename(made.path)
        except OSError:
            shutil.rmtree(draft.path, ignore_errors=True)
            raise
    return made


@contextmanager
def _locked(home: Home) -> Iterator[None]:
    try:
        with home.lock():
            yield
    except HomeBusyError as error:
        raise BusyError(f"the home is busy: {error}; try again.") from error


def remove(home: Home, spec: SweepSpec) -> None:
    """Delete the record of a sweep, whose lock we hold; its runs stay. Raises OSError."""
    folder = sweep_dir(home, spec.id).path
    doomed = folder.with_name(f".removed-{spec.id}-{os.getpid()}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def sweeps(home: Home, say: Callable[[str], object] | None = None) -> Iterator[SweepSpec]:
    """All sweeps of a home that can be read, unordered. say: is told of each of the others."""
    try:
        names = os.listdir(home.path / SWEEPS_FOLDER)  # noqa: PTH208  names, not paths
    except FileNotFoundError:
        return
    for name in names:
        if RUN_ID.fullmatch(name):
            try:
                yield sweep_dir(home, name).read_spec()
            except FileNotFoundError:  # it was removed a moment ago
                continue
            except UnreadableError as error:
                if say is not None:
                    say(f"sweep {name}: {error}")


def find(home: Home, word: str) -> SweepSpec:
    """The sweep of this name or id; `last` is the newest. Raises NoSuchRunError or UnreadableError."""
    unreadable: list[str] = []
    known = sorted(sweeps(home, unreadable.append), key=lambda spec: spec.created_at)
    found = [spec for spec in known if word in {spec.name, spec.id}] or (known[-1:] if word == "last" else [])
    if not found and unreadable:
        raise UnreadableError(f"no sweep named {word!r} can be read; {'; '.join(unreadable)}")
    if not found:
        names = ", ".join(spec.name for spec in known[-5:])
        raise NoSuchRunError(
            f"no sweep named {word!r}; "
            + (f"there are: {names}." if names else "start one with: backprop sweep train.py")
        )
    return found[-1]
