"""The interface of an engine, which executes sessions."""

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from backprop.records import Record, Run, RunSpec
from backprop.store.rundir import RunDir


class Phase(Enum):
    """The state of a submitted run."""

    PENDING = "pending"  # it has not started
    RUNNING = "running"  # its supervisor is alive
    ENDED = "ended"  # it has no supervisor: its journal will not grow any more
    UNKNOWN = "unknown"  # the engine does not answer


class Observation(Record, frozen=True):
    """A submitted run as its engine sees it. The journal has all other facts."""

    phase: Phase
    message: str | None = (
        None  # why it is pending, how it ended, or what is wrong with the engine, in the engine's words
    )
    is_unsatisfiable: bool = False  # waiting does not help: it requests what the engine does not have
    is_failure: bool = False  # it failed by itself
    is_known: bool = True  # False: the engine has no record of it, and did not report its end


def _elsewhere() -> int:
    raise RuntimeError("this run does not execute in a process of this machine")


class Submission(NamedTuple):
    """A run to execute."""

    rundir: RunDir
    spec: RunSpec
    timebox_s: float
    work: Callable[[], int] = _elsewhere  # executes it in a process of this machine; returns the exit code


class Engine(Protocol):
    """Executes the supervisors of sessions."""

    def submit(self, submissions: Sequence[Submission]) -> list[str]:
        """Submit runs with equal requests; returns the engine's ids for them. None starts before `release`.

        Raises BackpropError with the reason when they are rejected.
        """

    def release(self, ids: Sequence[str]) -> None:
        """Let submitted runs start: their journals record the submission by now. Raises BackpropError."""

    def cancel(self, run: Run) -> None:
        """End a run for good, without grace, or keep it from starting. Raises BackpropError."""

    def observe(self, run: Run) -> Observation:
        """The state of a run. Blocks for some seconds at most; never raises."""
