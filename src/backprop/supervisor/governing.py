"""Carries out what the runtime policy decides about a session: save, pause, continue, stop, kill."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from backprop.governor.run_policy import Action, PolicyDecision
from backprop.records import Pauser, StopReason
from backprop.store.journal.entries import Governed
from backprop.supervisor.context import SessionContext
from backprop.supervisor.control_file import ControlFile
from backprop.supervisor.monitor import ResourceMonitor
from backprop.supervisor.pauses import Pauses
from backprop.supervisor.stop_ladder import StopEscalation

if TYPE_CHECKING:
    from psutil import Process


class Governing:
    """The governor of one session: the monitor decides, this acts."""

    def __init__(
        self,
        context: SessionContext,
        monitor: ResourceMonitor,
        pauses: Pauses,
        stop: StopEscalation,
        control: ControlFile,
    ) -> None:
        self._context = context
        self._monitor = monitor
        self._pauses = pauses
        self._stop = stop
        self._control = control
        self._is_blind = monitor.gpu_problem is not None  # to the GPUs
        self.is_over_own_limit = False  # the session was stopped for that

    def obey(self, members: Callable[[], "list[Process]"]) -> None:
        """Carry out the verdict on a sample taken now, if one is due. members: the living processes of the tree."""
        context = self._context
        progress = context.meter.progress
        has_stepped = progress.step is not None or progress.counted_step is not None
        verdict = self._monitor.look(
            context.clock.now(), self._pauses.state, members, progress.longest_save_s, has_stepped=has_stepped
        )
        self._report_blindness()
        if verdict.action is Action.NONE:
            return
        if self._stop.request is not None and (verdict.action is not Action.KILL or self._stop.is_kill_requested):
            return  # it is being stopped: no other action makes sense
        context.write(
            Governed(
                at=context.clock.wall(),
                session=context.number,
                action=verdict.action.value,
                reason=verdict.reason,
                figures=dict(verdict.figures),
            )
        )
        self._act(verdict)

    def _act(self, verdict: PolicyDecision) -> None:
        observer, reason = self._context.observer, verdict.reason
        match verdict.action:
            case Action.SAVE:
                self._control.checkpoints_asked += 1
                self._stop.write_control()
                observer.message(f"{reason}: asking for a checkpoint")
            case Action.PAUSE:
                self._pauses.pause(Pauser.GOVERNOR, reason)
                observer.message(f"paused: {reason}")
            case Action.CONTINUE:
                self._pauses.release(Pauser.GOVERNOR)
                still = self._pauses.state.reason
                observer.message(f"{reason}: still paused: {still}" if still else f"continuing: {reason}")
            case Action.STOP | Action.KILL:
                is_kill = verdict.action is Action.KILL
                self.is_over_own_limit = verdict.is_over_own_limit
                observer.message(f"{'killing' if is_kill else 'stopping'}: {reason}")
                self._stop.ask(StopReason.GOVERNOR, reason, now=is_kill)

    def _report_blindness(self) -> None:
        problem = self._monitor.gpu_problem
        if (problem is not None) != self._is_blind:
            self._is_blind = problem is not None
            self._context.observer.message(
                "the governor can read the GPUs again" if problem is None else blindness_message(problem)
            )


def blindness_message(problem: str) -> str:
    """The message that the GPUs cannot be read."""
    return f"the governor cannot read the GPUs: {problem}"
