"""The present state of a run: its supervisor, who paused it, whether it has ended; and waiting for a state."""

import time
from collections.abc import Callable
from typing import NamedTuple

from backprop.errors import NoSuchRunError
from backprop.records import Pauser, Run, RunSpec, Session
from backprop.store.home import Home
from backprop.store.journal import file as journals
from backprop.store.journal.fold import fold
from backprop.supervisor import outcome

_POLL_S = 0.05


class SupervisorInfo(NamedTuple):
    """The supervisor of a run that is active or queued."""

    session: int
    pid: int
    host: str
    grace_s: float
    is_queued: bool = False  # the session has not started
    is_on_slurm: bool = False


def current_supervisor(run: Run) -> SupervisorInfo | None:
    """None for a run that is not active."""
    session, on_slurm = run.last_session, run.is_on_slurm
    if run.waiter is not None:
        waiter = run.waiter
        return SupervisorInfo(
            waiter.session, waiter.supervisor_pid, waiter.host, 0.0, is_queued=True, is_on_slurm=on_slurm
        )
    if run.status.is_final or session is None:
        return None
    return SupervisorInfo(session.number, session.supervisor_pid, session.host, session.grace_s, is_on_slurm=on_slurm)


def exit_code_of(run: Run) -> int:
    """What `wait` exits with for a run that has ended: as the process that ran it did."""
    return outcome.exit_code_of(run.status, run.last_session, run.dequeued_by)


class RunState(NamedTuple):
    """A run as its journal has it at this moment."""

    run: Run

    @property
    def has_ended(self) -> bool:
        """Whether it is in a final state. `resume` can start another session even then."""
        return self.run.status.is_final

    @property
    def pausers(self) -> tuple[Pauser, ...]:
        """Everyone who has paused it; none when it is not paused."""
        return () if self._session is None else self._session.paused_by

    @property
    def is_being_stopped(self) -> bool:
        """Whether its last session was asked to stop, and has not ended yet."""
        return self._session is not None and self._session.stopped_by is not None

    @property
    def is_asked_to_pause(self) -> bool:
        """By a user, whose request its supervisor has not handled yet."""
        return self._session is not None and self._session.is_pause_asked

    @property
    def _session(self) -> Session | None:
        """The one that has not ended."""
        return None if self.has_ended else self.run.last_session

    @property
    def is_paused_by_user(self) -> bool:
        """Whether a user has paused it, the governor aside."""
        return Pauser.USER in self.pausers

    @property
    def summary(self) -> str:
        """In one line."""
        reason = self.run.reason
        return f"run {self.run.spec.id} {self.run.status.value}" + (f": {reason}" if reason else "")


def look(home: Home, spec: RunSpec) -> RunState:
    """The present state of a run, which the index may not have yet. Raises NoSuchRunError when it was removed."""
    path = home.rundir(spec.id).journal_path
    if not path.exists():
        raise NoSuchRunError(f"run {spec.id} was removed.")
    entries, _ = journals.read(path)
    return RunState(fold(spec, [*entries, *journals.pending_requests(path)]))


def wait_for(home: Home, run: Run, is_so: Callable[[RunState], bool], timeout_s: float) -> RunState | None:
    """The state of the run as soon as `is_so` holds for it; None after the timeout."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        now = look(home, run.spec)
        if is_so(now):
            return now
        time.sleep(_POLL_S)
    return None
