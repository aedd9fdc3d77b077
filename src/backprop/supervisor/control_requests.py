"""Requests to a running session: signals to the supervisor, and entries that other processes append to the journal."""

import signal

import msgspec

from backprop.records import Pauser, StopReason
from backprop.store.journal.entries import PauseRequested, Renamed, ResumeRequested, StopRequested
from backprop.supervisor.context import SessionContext
from backprop.supervisor.pauses import Pauses
from backprop.supervisor.signals import DOUBLE_PRESS_S
from backprop.supervisor.stop_ladder import StopEscalation


class RequestHandler:
    """Handles the requests to one session."""

    def __init__(self, context: SessionContext, pauses: Pauses, stop: StopEscalation) -> None:
        self._context = context
        self._pauses = pauses
        self._stop = stop
        self._interrupted_at: float | None = None  # the first Ctrl-C

    def handle(self) -> None:
        """Follow all signals and requests that came since the last call."""
        context = self._context
        if self._pauses.is_suspended():
            return
        for number in context.signals.take():
            if number is signal.SIGINT:
                self._interrupted()
            elif number is signal.SIGTSTP:
                self._pauses.suspend()
            else:
                by_slurm = " from Slurm: preemption, its time limit, or scancel" if context.is_job else ""
                self._stop.ask(StopReason.SIGNAL, f"the supervisor received {number.name}{by_slurm}")
        for entry in context.journal.read_new():
            match entry:
                case StopRequested(session=context.number, by=StopReason.USER):
                    self._stop.follow(entry)
                case PauseRequested(session=context.number):
                    self._pause(entry)
                case ResumeRequested(session=context.number):
                    self._resume(entry)
                case Renamed():
                    context.spec = msgspec.structs.replace(context.spec, name=entry.name)
                case _:
                    pass

    def _interrupted(self) -> None:
        now, first = self._context.clock.now(), self._interrupted_at
        if first is None:
            self._interrupted_at = now
            self._stop.ask(StopReason.CTRL_C, "Ctrl-C")
            self._context.observer.message("stopping gracefully; press Ctrl-C again to kill")
        elif now - first > DOUBLE_PRESS_S:
            self._stop.ask(StopReason.CTRL_C, "Ctrl-C, twice", now=True)

    def _pause(self, asked: PauseRequested) -> None:
        if self._stop.request is None and Pauser.USER not in self._pauses.state.reasons:
            self._pauses.pause(Pauser.USER, asked.detail)
            self._context.observer.message(f"paused: {asked.detail}")

    def _resume(self, asked: ResumeRequested) -> None:
        if Pauser.USER in self._pauses.state.reasons:
            self._pauses.release(Pauser.USER)
            still = self._pauses.state.reason
            self._context.observer.message(f"{asked.detail}: " + (f"still paused: {still}" if still else "continuing"))
