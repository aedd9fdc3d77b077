"""Pause a trainer's whole tree, and continue it: for the user, the governor, Ctrl-Z and Slurm.

Each pauser ends only its own pause: the tree continues when the last one has. The time between counts for nothing.
"""

import os
import signal
from collections.abc import Callable
from datetime import datetime

from backprop.governor.run_policy import PauseState
from backprop.records import Pauser
from backprop.store.journal.entries import Continued, Paused
from backprop.supervisor.context import SessionContext
from backprop.supervisor.process.trainer_process import Trainer

_SUSPENDED_S = 5.0  # Slurm stops a job two seconds after it has announced that


class Pauses:
    """The pauses of one session. `state` is the only record of who is pausing it."""

    def __init__(self, context: SessionContext, trainer: Trainer, before_continue: Callable[[float], None]) -> None:
        """before_continue: called with the length of the pause in seconds before the tree runs again."""
        self._context = context
        self._trainer = trainer
        self._before_continue = before_continue
        self._suspended_at = 0.0  # when Slurm last announced that it stops us
        self.state = PauseState()

    @property
    def is_paused(self) -> bool:
        """Whether the tree is paused by anyone."""
        return self.state.is_paused

    def pause(self, by: Pauser, reason: str) -> None:
        """Stop the whole tree in place until all pausers have released it."""
        at = self._context.clock.wall()  # freezing takes a moment, which counts as pause
        self.state = self.state.held(by, reason, self._context.clock.now())
        self._trainer.freeze()
        self._record(at)

    def release(self, by: Pauser) -> None:
        """End the pause of one pauser; nothing happens where it is not pausing the session."""
        if by not in self.state.reasons:
            return
        if len(self.state.reasons) > 1:
            self.state = self.state.released(by, self._context.clock.now())
            self._record(self._context.clock.wall())
        else:
            self.end()

    def end(self) -> None:
        """Continue a paused tree, no matter who paused it."""
        context, now = self._context, self._context.clock.now()
        paused_s = now - (self.state.paused.since or now)
        self.state = self.state.ended(now)
        self._before_continue(paused_s)
        self._trainer.signal(signal.SIGCONT)
        context.write(Continued(at=context.clock.wall(), session=context.number, paused_s=paused_s))
        context.recorder.record_state(publish=True)

    def suspend(self) -> None:
        """Ctrl-Z: stop the tree and this process; release the tree after `fg` or `bg`.

        In a Slurm job the signal comes from Slurm, which announces with it that it is about to stop all processes of
        the job: see `is_suspended`.
        """
        if self._context.is_job:
            self._context.observer.message("suspended by Slurm")
            self._suspended_at = self._context.clock.now()
            self.pause(Pauser.SLURM, "suspended by Slurm")
        else:
            self.pause(Pauser.CTRL_Z, "Ctrl-Z")
            os.kill(os.getpid(), signal.SIGSTOP)
            self.release(Pauser.CTRL_Z)

    def is_suspended(self) -> bool:
        """Whether Slurm is about to stop this process. If it still runs some time later, Slurm has resumed the job."""
        if Pauser.SLURM not in self.state.reasons:
            return False
        if self._context.clock.now() - self._suspended_at < _SUSPENDED_S:
            return True
        self.release(Pauser.SLURM)
        self._context.observer.message("resumed by Slurm")
        return False

    def _record(self, at: datetime) -> None:
        context, state = self._context, self.state
        context.write(Paused(at=at, session=context.number, reason=state.reason, by=tuple(state.reasons)))
        context.recorder.record_state(publish=True)
