"""What a place where sessions execute must be able to do."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from backprop.records import Record, Run, RunSpec
from backprop.store.rundir import RunDir


class Phase(Enum):
    """How far what was submitted is."""

    PENDING = "pending"  # it has not begun
    RUNNING = "running"  # somebody answers for it
    ENDED = "ended"  # nobody does: whatever its journal does not say will never be said
    UNKNOWN = "unknown"  # the engine does not answer: it may be any of these


class Observation(Record, frozen=True):
    """A submitted run as its engine sees it. The run's own journal is the truth; this tells who lives and who waits."""

    phase: Phase
    told: str | None = None  # why it waits, how it ended, or what is wrong with the engine, in the engine's words
    is_unsatisfiable: bool = False  # it asks for what it will never get, however long it waits
    is_failure: bool = False  # it ended by itself, and badly
    is_known: bool = True  # False: nobody saw it end, the engine merely knows nothing of it


def _elsewhere() -> int:
    raise RuntimeError("this is not carried out in a process of this machine")


class Order(NamedTuple):
    """A run that is to have a session."""

    rundir: RunDir
    spec: RunSpec
    timebox_s: float
    work: Callable[[], int] = _elsewhere  # carries it out and gives the exit code, in a process of this machine


class Engine(Protocol):
    """Where the supervisor of a session executes."""

    def submit(self, orders: Sequence[Order]) -> list[str]:
        """Take runs that ask for the same; the words by which this engine knows them. None begins before `release`.

        Raises BackpropError with the reason where they are refused.
        """

    def release(self, words: Sequence[str]) -> None:
        """Let what was submitted begin: the journals say by now that it was. Raises BackpropError."""

    def cancel(self, run: Run) -> None:
        """End it for good, without grace; or see to it that it never begins. Raises BackpropError."""

    def observe(self, run: Run) -> Observation:
        """How it stands. Blocks for some seconds at the most; never raises."""
