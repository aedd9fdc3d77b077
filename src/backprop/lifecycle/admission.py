"""Admission of a session: wait in the queue, ask the governor, take a slot.

An application enters; a grant, or a refusal, leaves. The place of a grant in the queue holds the slot until it is left
or its process dies. Requests to a queued run (Ctrl-C, Ctrl-Z, `backprop stop`) are handled here.
"""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import msgspec

from backprop import host
from backprop.config import Config
from backprop.governor import start_policy
from backprop.governor.gpu_environment import visible
from backprop.governor.probes import machine
from backprop.governor.probes.gpus import read_gpus
from backprop.governor.reservations import PastUse, learned_bytes, reserved_bytes
from backprop.governor.run_queue import (
    QueueEntry,
    QueueLockedError,
    QueueSlot,
    RunQueue,
    ahead_of,
    in_the_way_of,
    promises,
)
from backprop.governor.start_policy import AdmissionDecision, Obstacle
from backprop.records import Limits, MachineState, Record, Run, RunSpec, Status, StopReason, Ticket, Usage
from backprop.store.home import Home
from backprop.store.journal.entries import Admitted, MoveRequested, Queued, Refused, StopRequested
from backprop.store.journal.file import Journal
from backprop.store.recorder import Recorder
from backprop.supervisor.outcome import exit_code_of
from backprop.supervisor.process.launch import RUN_DIR_VARIABLE
from backprop.supervisor.signals import Signals

_LISTEN_EVERY_S = 0.25
_DECIDE_EVERY_S = 0.5  # the first in the queue checks the machine again
_QUEUE_EVERY_S = 10.0  # the others check the whole queue; the run directly ahead much more often
_SHOW_CHANGE_EVERY_S = 10.0  # figures on a ticket
_SHOWN_AHEAD = 3
_EARLIER_RUNS = 20  # of a script, whose use tells how much memory to hold back for another one
_RAM, _VRAM = "ram", "vram"
_ENDED_WELL = {Status.COMPLETED, Status.TIMEBOXED, Status.STOPPED}


class Application(Record, frozen=True):
    """What one session asks for."""

    spec: RunSpec
    session: int  # the number it will have
    limits: Limits
    folders: tuple[str, ...]  # that will be written to
    gpu_probe: str
    wait_s: float | None = None  # longest wait in the queue; None: no limit
    job: str | None = None  # the Slurm job in which it waits
    within: str | None = None  # the run in whose trainer it was started
    request_id: str | None = None  # by which it was asked for


@dataclass(frozen=True)
class Grant:
    """A slot in the queue, and the decision with the GPUs assigned to the session."""

    place: QueueSlot
    decision: AdmissionDecision


class NotAdmitted(Record, frozen=True):
    """Why a session was not admitted."""

    reason: str
    by: StopReason | None = None  # who ended the wait, if someone did
    is_broken_off: bool = False  # by a signal, after which the run may be requeued
    figures: Mapping[str, Any] = {}

    @property
    def exit_code(self) -> int:
        """What the `backprop` process exits with."""
        return exit_code_of(Status.REFUSED, None, self.by)


class QueueObserver(Protocol):
    """Is notified of what a run is queued for."""

    def waits(self, reason: str) -> None:
        """Called when the run is queued, and whenever the reason changes."""


def surrounding_run(home: Home) -> str | None:
    """The run of this home in whose trainer this process was started, if any."""
    folder = Path(os.environ.get(RUN_DIR_VARIABLE, ""))
    return folder.name if folder.parent == home.runs_path else None


def read_machine(folders: Sequence[str], gpu_probe: str) -> MachineState:
    """The machine with all its GPUs. Blocks for up to two seconds a probe where a driver hangs."""
    reading = read_gpus(gpu_probe)
    snapshot = machine.read_snapshot(folders)
    return msgspec.structs.replace(snapshot, gpus=reading.gpus, gpu_problem=reading.problem)


def foresee(line: RunQueue, application: Application) -> AdmissionDecision:
    """The decision if the session applied now. Changes nothing."""
    entries = in_the_way_of(line.read(), application.within)
    newest = max((entry.number for entry in entries), default=0)
    if ahead := ahead_of(entries, newest + 1, application.limits.priority):
        return _behind(ahead)
    return start_policy.admit(application.limits, _usable_machine(application), promises(entries, entries))


def _usable_machine(application: Application) -> MachineState:
    """The machine with only the GPUs that the user's environment leaves visible."""
    snapshot = read_machine(application.folders, application.gpu_probe)
    if snapshot.gpus is None:
        return snapshot
    return msgspec.structs.replace(snapshot, gpus=visible(snapshot.gpus, os.environ))


def _past(runs: Sequence[tuple[Run, Usage]], kind: str, training: tuple[object, ...]) -> list[PastUse]:
    """What these runs used of a kind of memory, as far as it was measured. training: the one to be started."""
    return [
        PastUse(
            peak_bytes=usage.peak[kind],
            measured_s=usage.measured_s,
            has_ended_well=last.status in _ENDED_WELL,
            is_alike=_training(run.spec, run, last.script_sha256) == training,
        )
        for run, usage in runs
        if kind in usage.peak and (last := run.last_session) is not None
    ]


def _training(spec: RunSpec, run: Run, script_sha256: str | None) -> tuple[object, ...]:
    """What two runs of the same training have in common. Data, environment and settings files may still differ."""
    git = run.code.git
    return spec.command, spec.cwd, spec.python, script_sha256, git and (git.commit, git.dirty)


def _behind(ahead: Sequence[QueueEntry]) -> AdmissionDecision:
    tickets = [entry.ticket for entry in ahead if entry.ticket is not None]
    shown = ", ".join(ticket.label for ticket in tickets[:_SHOWN_AHEAD]) + (", ..." if tickets[_SHOWN_AHEAD:] else "")
    reason = f"{len(tickets)} {'run' if len(tickets) == 1 else 'runs'} ahead in the queue: {shown}"
    return AdmissionDecision(
        figures={"ahead": [ticket.run_id for ticket in tickets]}, reason=reason, obstacle=Obstacle.LINE
    )


class Admission:
    """Applies for one session. The run's journal must be locked by this process."""

    def __init__(
        self,
        application: Application,
        *,
        line: RunQueue,
        journal: Journal,
        recorder: Recorder,
        signals: Signals,
        observer: QueueObserver,
    ) -> None:
        self._application = application
        self._line = line
        self._journal = journal
        self._recorder = recorder
        self._signals = signals
        self._observer = observer
        self._place: QueueSlot | None = None
        self._nearest: QueueEntry | None = None  # directly ahead
        self._is_moved = False  # in the queue, since we looked who is ahead
        self._shown_reason: str | None = None
        self._shown_obstacle: Obstacle | None = None
        self._shown_at = 0.0
        self._learned: dict[str, int | None] | None = None  # kind of memory -> what it is likely to use at most
        journal.skip()  # only what comes from now on is a request to this session

    def ask(self) -> Grant | NotAdmitted:
        """A slot for the session, or why there is none; waits in the queue. Raises OSError for a home that is full."""
        wait_s = self._application.wait_s
        give_up_at = float("inf") if wait_s is None else time.monotonic() + wait_s
        try:
            while True:
                decision = self._decide()
                if decision.is_admitted and self._place is not None:
                    return self._begin(Grant(self._place, decision))
                if decision.is_unsatisfiable or wait_s == 0:
                    return self._refuse(NotAdmitted(reason=decision.reason or "", figures=decision.figures))
                self._show(decision)
                if (refusal := self._wait(decision, give_up_at)) is not None:
                    return self._refuse(refusal)
        except BaseException:
            self._leave()
            raise

    def rest(self, duration_s: float, reason: str) -> NotAdmitted | None:
        """Wait before asking; None when the time has passed. The run shows as queued meanwhile."""
        self._write_queued(reason, {})
        self._observer.waits(reason)
        until = time.monotonic() + duration_s
        while (left_s := until - time.monotonic()) > 0:
            self._signals.wait(min(left_s, _LISTEN_EVERY_S))
            if (refusal := self._handle_requests()) is not None:
                return self._refuse(refusal)
        return None

    # -- decide

    def _decide(self) -> AdmissionDecision:
        application = self._application
        before = in_the_way_of(self._line.read(self._place), application.within)
        if self._place is not None and (ahead := self._place.ahead(before)):
            self._nearest = ahead[-1]
            return _behind(ahead)
        number = None if self._place is None else self._place.number
        has_slot = start_policy.slot_refusal(application.limits, promises(before, before, number)) is None
        if has_slot and self._learned is None:
            self._learned = self._learn()
        # without a slot the GPUs do not matter, and asking for them may take long
        snapshot = _usable_machine(application) if has_slot else machine.read_snapshot(application.folders)
        try:
            return self._decide_alone(snapshot, before, has_slot=has_slot)
        except QueueLockedError as error:
            self._nearest = None
            return AdmissionDecision(figures={}, reason=f"another process holds {error}", obstacle=Obstacle.LINE)

    def _decide_alone(
        self, snapshot: MachineState, before: Sequence[QueueEntry], *, has_slot: bool
    ) -> AdmissionDecision:
        """Raises QueueLockedError or OSError."""
        application = self._application
        number = None if self._place is None else self._place.number
        with self._line.alone():
            place = self._place = self._place or self._line.join(self._ticket())
            entries = in_the_way_of(self._line.read(place, tidy=True), application.within)
            ahead = place.ahead(entries)
            self._nearest = ahead[-1] if ahead else None
            if ahead:
                return _behind(ahead)
            others = promises(entries, before, place.number)
            decision = start_policy.admit(application.limits, snapshot, others)
            if decision.is_admitted and not has_slot:
                # a run left the queue while we looked: once more, with the GPUs
                reason = start_policy.slot_refusal(application.limits, promises(before, before, number))
                return AdmissionDecision(figures=decision.figures, reason=reason, obstacle=Obstacle.SLOT)
            if decision.is_admitted:
                self._take(place, decision)
            return decision

    def _ticket(self) -> Ticket:
        return Ticket(
            run_id=self._application.spec.id,
            name=self._application.spec.name,
            pid=os.getpid(),
            user=host.user(),
            since_unix_s=time.time(),
            max_parallel=self._application.limits.max_parallel,
            priority=self._application.limits.priority,
            within=self._application.within,
        )

    def _take(self, place: QueueSlot, decision: AdmissionDecision) -> None:
        limits, learned = self._application.limits, self._learned or {}
        default = Config().limits
        ram_bytes = reserved_bytes(limits.min_free_ram_bytes, default.min_free_ram_bytes, learned.get(_RAM))
        vram_bytes = {}
        for gpu in decision.gpus or ():
            is_limited = start_policy.vram_limit_bytes(limits, gpu) is not None
            default_bytes = 0 if is_limited else default.gpu_min_free_vram_bytes
            asked_bytes = start_policy.needed_vram_bytes(limits, gpu)
            vram_bytes[gpu.uuid] = reserved_bytes(asked_bytes, default_bytes, learned.get(_VRAM))
        place.change(
            is_running=True,
            since_unix_s=time.time(),
            waits_for=None,
            ram_bytes=ram_bytes,
            vram_bytes=vram_bytes,
        )

    def _learn(self) -> dict[str, int | None]:
        """What the session is likely to use at most, by earlier runs of its script; on a GPU what they used on all."""
        runs = self._recorder.runs_of_same_script(_EARLIER_RUNS)
        run, _ = self._recorder.read_run()
        spec = self._application.spec  # as `resume` has changed it
        training = _training(spec, run, host.sha256(spec.script))
        return {kind: learned_bytes(_past(runs, kind, training)) for kind in (_RAM, _VRAM)}

    def _begin(self, grant: Grant) -> Grant:
        gpus = grant.decision.gpus
        self._journal.append(
            Admitted(
                at=datetime.fromtimestamp(grant.place.ticket.since_unix_s, timezone.utc),
                figures={
                    **grant.decision.figures,
                    "ram_reserved_bytes": grant.place.ticket.ram_bytes,
                    "vram_reserved_bytes": dict(grant.place.ticket.vram_bytes),
                    "ram_limit_bytes": self._application.limits.ram_limit_bytes,
                },
                place=grant.place.number,
                gpus=None if gpus is None else tuple(gpu.uuid for gpu in gpus),
            )
        )
        return grant

    # -- wait

    def _show(self, decision: AdmissionDecision) -> None:
        """Show what the run is queued for, where that has changed."""
        reason = decision.reason or ""
        now = time.monotonic()
        is_new = decision.obstacle is not self._shown_obstacle
        if is_new:
            self._shown_obstacle = decision.obstacle
            self._write_queued(reason, decision.figures)
        if self._place is not None and (is_new or now - self._shown_at > _SHOW_CHANGE_EVERY_S):
            self._shown_at = now
            self._place.change(waits_for=reason)
        if reason != self._shown_reason:
            self._shown_reason = reason
            self._observer.waits(reason)

    def _write_queued(self, reason: str, figures: dict[str, Any]) -> None:
        self._recorder.begin()
        self._journal.append(
            Queued(
                at=datetime.now(timezone.utc),
                session=self._application.session,
                reason=reason,
                figures=figures,
                host=host.name(),
                supervisor_pid=os.getpid(),
                job=self._application.job,
                request_id=self._application.request_id,
            )
        )
        self._recorder.record_state(publish=True)

    def _wait(self, decision: AdmissionDecision, give_up_at: float) -> NotAdmitted | None:
        """Wait until it is worth asking again, and return None; or why waiting is over."""
        is_behind = decision.obstacle is Obstacle.LINE and self._nearest is not None
        ask_again_at = time.monotonic() + (_QUEUE_EVERY_S if is_behind else _DECIDE_EVERY_S)
        while (now := time.monotonic()) < ask_again_at:
            if now >= give_up_at:
                waited = f"{(self._application.wait_s or 0) / 60:g} min"
                return NotAdmitted(reason=f"not started within {waited}: {decision.reason}", figures=decision.figures)
            self._signals.wait(min(_LISTEN_EVERY_S, ask_again_at - now, give_up_at - now))
            if (refusal := self._handle_requests()) is not None:
                return refusal
            if self._is_moved:
                self._is_moved = False
                return None
            if is_behind and self._nearest is not None and not self._line.still_waits(self._nearest):
                return None
        return None

    def _handle_requests(self) -> NotAdmitted | None:
        """Why the run must leave the queue; None if nobody asked for that."""
        for number in self._signals.take():
            if number is signal.SIGINT:
                return NotAdmitted(reason="Ctrl-C while queued", by=StopReason.CTRL_C)
            if number is not signal.SIGTSTP:
                reason = f"its process got {number.name} while queued"
                return NotAdmitted(reason=reason, is_broken_off=True, by=StopReason.SIGNAL)
            self._suspend()
        for entry in self._journal.read_new():
            match entry:
                case StopRequested(session=self._application.session, by=StopReason.USER):
                    return NotAdmitted(reason=f"{entry.detail} while queued", by=StopReason.USER)
                case MoveRequested(session=self._application.session) if self._place is not None:
                    self._place.change(priority=entry.priority)
                    self._is_moved = True
        return None

    def _suspend(self) -> None:
        """Ctrl-Z: let other runs overtake until `fg` or `bg`."""
        if self._place is not None:
            self._place.change(is_away=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        if self._place is not None:
            self._place.change(is_away=False)

    def _refuse(self, refusal: NotAdmitted) -> NotAdmitted:
        self._leave()
        self._journal.append(
            Refused(
                at=datetime.now(timezone.utc),
                reason=refusal.reason,
                figures=dict(refusal.figures),
                by=refusal.by,
                is_presumed=refusal.is_broken_off and self._application.job is not None,
            )
        )
        self._recorder.finish()
        return refusal

    def _leave(self) -> None:
        if self._place is not None:
            self._place.leave()
            self._place = None
