"""What a session is asked to do, who observes it, and what it returns."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from backprop.records import Gpu, Limits, Record, Revision, Session, StopReason
from backprop.store.output.progress import Progress
from backprop.supervisor.outcome import exit_code_of


@dataclass(frozen=True)
class Clock:
    """The time: `now` for durations and deadlines, `wall` for the record. Tests replace both."""

    now: Callable[[], float] = time.monotonic
    wall: Callable[[], datetime] = lambda: datetime.now(timezone.utc)


class Observer(Protocol):
    """Shows a session to someone. Called from the supervisor's loop: must not block."""

    def started(self, out_path: Path, err_path: Path) -> None:
        """The trainer was launched, and writes to these files."""

    def looked(self, progress: Progress, left_s: float) -> None:
        """Its output was read. left_s: seconds until the timebox ends."""

    def message(self, text: str) -> None:
        """Anything else that the user should know, in one line."""


class SessionPlan(Record, frozen=True):
    """What was decided about one session before it starts."""

    limits: Limits
    checkpoint: str | None = None  # offered to the trainer
    resume_args: tuple[str, ...] = ()  # pass the checkpoint to the script: see command.with_checkpoint
    gpus: tuple[Gpu, ...] | None = None  # assigned to the session; None: the trainer uses what it finds
    gpu_probe: str = "auto"
    gpu_problem: str | None = None  # why the GPUs of this machine could not be read
    job: str | None = None  # the Slurm job that the session runs in
    revision: Revision | None = None  # what the run executes from now on; None: the same as before
    only_once: tuple[str, ...] = ()  # arguments of this session alone
    request_id: str | None = None  # by which the session was asked for


class Outcome(Record, frozen=True):
    """How a session ended."""

    session: Session
    last_step: int | None = None  # reported by the trainer in this session
    is_over_own_limit: bool = False  # the governor ended it for using more than its own limits allow
    is_broken_off: bool = False  # by a signal, while another session was to follow: see admission.NotAdmitted
    dequeued_by: StopReason | None = None  # who ended the wait for another session

    @property
    def exit_code(self) -> int:
        """Of the `backprop` process."""
        return exit_code_of(self.session.status, self.session, self.dequeued_by)
