"""All sessions that one command gives a run: the first, retries after a failure, more after each timebox.

    queue ──> session ──> what next? ──> queue again, or end

Each session gives its slot up when it ends. What comes next is decided by `after`, a pure function.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from typing import Protocol

import msgspec

from backprop import host
from backprop.governor.run_queue import RunQueue
from backprop.lifecycle.admission import Admission, Application, Grant, NotAdmitted, surrounding_run
from backprop.lifecycle.continuation import Attempt, Next, NextAction, after
from backprop.lifecycle.owned_run import OwnedRun, Request, notify_end
from backprop.records import (
    Checkpoint,
    Limits,
    RunSpec,
    RunView,
    Say,
    with_step,
)
from backprop.store import checkpoints, kept_checkpoints
from backprop.store.code import snapshot
from backprop.store.journal.entries import CheckpointSkipped, NotContinued, Refused
from backprop.store.journal.file import Journal
from backprop.supervisor import command
from backprop.supervisor.plan import Observer, Outcome, SessionPlan
from backprop.supervisor.session import Supervisor
from backprop.supervisor.signals import Signals


class RunObserver(Protocol):
    """Observes the sessions of a run. Called between sessions, except for what `begins` returns."""

    def waits(self, reason: str) -> None:
        """A session is queued, for this reason now. Called whenever that changes."""

    def begins(self, plan: SessionPlan) -> Observer:
        """A session is about to start; what is returned observes it."""

    def ended(self, outcome: Outcome) -> None:
        """It has ended, and is recorded."""

    def message(self, text: str) -> None:
        """Anything else that the user should know, in one line."""


def choose_checkpoint(
    view: RunView,
    saved_over_by: Callable[[Checkpoint], str | None],
    journal: Journal,
    say: Say,
    *,
    is_strict: bool = False,
) -> Checkpoint | None:
    """The latest valid checkpoint; those that are skipped are shown and recorded.

    saved_over_by: gives another run that has saved to the same path since. is_strict: without one, nothing is started.
    """
    kept_checkpoints.reconcile(view, saved_over_by, say)
    choice = checkpoints.choose(view.checkpoints, saved_over_by, lambda: view.run.sessions)
    for skipped, reason in choice.skipped:
        say(f"checkpoint {skipped.path} is skipped: {reason}")
        journal.append(CheckpointSkipped(at=datetime.now(timezone.utc), path=skipped.path, reason=reason))
    if choice.checkpoint is None and is_strict:
        return None
    if choice.checkpoint is None:
        none = "no valid checkpoint is left" if choice.skipped else "no checkpoint was found"
        say(f"{none}: the script starts over, unless it finds one by itself")
    else:
        say(f"offering checkpoint {with_step(choice.checkpoint.path, choice.checkpoint.step)}")
    return choice.checkpoint


def resume_args(spec: RunSpec) -> tuple[str, ...]:
    """The arguments that pass the checkpoint to the script; none for a script that reads the environment."""
    if isinstance(spec.resume_arg, str):
        return (spec.resume_arg,)
    if spec.resume_arg:
        return spec.resume_arg
    return (command.RESUME_FLAG,) if command.declares_resume_flag(spec.script) else ()


class RunDriver:
    """Runs the sessions of a request."""

    def __init__(
        self,
        owned: OwnedRun,
        request: Request,
        *,
        signals: Signals,
        line: RunQueue,
        observer: RunObserver,
        over: Callable[[], None] | None = None,
    ) -> None:
        """over: called when all is recorded, before the observer, which may block, is notified of the last session."""
        self._owned = owned
        self._request = request
        self._signals = signals
        self._line = line
        self._observer = observer
        self._over = over

    def run(self) -> Outcome | NotAdmitted:
        """Run session after session, until there is nothing more to do; how the last one ended, or why there was none.

        Raises ConfigError when the home is too full to begin the first.
        """
        limits, checkpoint, only_once = self._request.limits, self._request.checkpoint, self._request.only_once
        attempts: list[Attempt] = []
        following = Next()
        outcome: Outcome | None = None
        while True:
            try:
                grant = self._admit(limits, following)
                if isinstance(grant, NotAdmitted):
                    return grant if outcome is None else self._cut_short(outcome, grant)
                outcome = self._session(limits, checkpoint, grant, only_once)
            except OSError as error:
                return self._give_up(outcome, error)
            attempts.append(self._attempt(outcome))
            following = after(self._request, attempts)
            if following.kind is NextAction.END:
                return self._end(outcome, following)
            view = self._owned.recorder.whole_view()
            if view is None:  # from the beginning, or from an old checkpoint, would be worse than not at all
                return self._end(outcome, Next(message="not continued: its checkpoints cannot be looked up"))
            self._observer.ended(outcome)
            self._observer.message(f"run {self._owned.spec.id}: {following.message}")
            chosen = choose_checkpoint(
                view, self._owned.recorder.saved_over_by, self._owned.journal, self._observer.message
            )
            checkpoint = None if chosen is None else chosen.path
            limits = msgspec.structs.replace(limits, timebox_s=following.timebox_s)
            if following.kind is NextAction.TIMEBOX:
                only_once = ()

    def _admit(self, limits: Limits, following: Next) -> Grant | NotAdmitted:
        owned = self._owned
        run, _ = self._owned.recorder.read_run()
        admission = Admission(
            Application(
                spec=owned.spec,
                session=1 + run.newest_number,
                limits=limits,
                folders=(str(owned.home.path), owned.spec.cwd),
                gpu_probe=self._request.gpu_probe,
                wait_s=self._request.wait_s,
                job=self._request.job,
                within=surrounding_run(owned.home),
                request_id=self._request.request_id,
            ),
            line=self._line,
            journal=owned.journal,
            recorder=self._owned.recorder,
            signals=self._signals,
            observer=self._observer,
        )
        if following.delay_s and (refusal := admission.rest(following.delay_s, following.message or "")) is not None:
            return refusal
        return admission.ask()

    def _session(self, limits: Limits, checkpoint: str | None, grant: Grant, only_once: tuple[str, ...]) -> Outcome:
        owned = self._owned
        plan = SessionPlan(
            limits=limits,
            checkpoint=checkpoint,
            resume_args=resume_args(owned.spec) if checkpoint is not None else (),
            gpus=grant.decision.gpus,
            gpu_probe=self._request.gpu_probe,
            gpu_problem=grant.decision.figures.get("gpu_problem"),
            job=self._request.job,
            revision=self._request.revision,
            only_once=only_once,
            request_id=self._request.request_id,
        )
        supervisor = Supervisor(
            rundir=owned.rundir,
            spec=owned.spec,
            journal=owned.journal,
            recorder=self._owned.recorder,
            observer=self._observer.begins(plan),
            signals=self._signals,
            place=grant.place,
        )
        try:
            outcome = supervisor.run(plan)
            if (view := self._owned.recorder.view()) is not None:  # else done at the next resume
                kept_checkpoints.reconcile(view, self._owned.recorder.saved_over_by, self._observer.message)
            return outcome
        finally:
            grant.place.leave()

    def _give_up(self, outcome: Outcome | None, error: OSError) -> Outcome:
        """The home cannot take another session: the run is what its last one came to.

        Raises ConfigError where this request had none. A home that is too full to begin keeps no half-made run; a
        read-only one keeps all.
        """
        owned, problem = self._owned, self._owned.home.unusable(error)
        if owned.is_new and not owned.rundir.out_path(1).exists():
            with suppress(OSError):
                owned.rundir.remove()
            raise problem from error
        with suppress(OSError):  # it cannot be recorded: the next reader takes this supervisor for dead
            owned.journal.append(Refused(at=datetime.now(timezone.utc), reason=str(problem), figures={}))
            self._owned.recorder.finish()
        if outcome is None:
            raise problem from error
        self._observer.message(f"run {owned.spec.id} is not continued: {problem}")
        return outcome

    def _attempt(self, outcome: Outcome) -> Attempt:
        view = (
            self._owned.recorder.whole_view() if self._request.retries else None
        )  # only a retry looks at its checkpoints
        whole = (
            c
            for c in reversed(() if view is None else view.checkpoints)
            if not c.is_emergency and checkpoints.problem(c.path, c.measure, thorough=False) is None
        )
        return Attempt(
            status=outcome.session.status,
            exit_code=outcome.session.exit_code,
            elapsed_s=outcome.session.elapsed_s or 0.0,
            step=outcome.last_step,
            newest=next(whole, None),
            is_over_own_limit=outcome.is_over_own_limit,
        )

    def _end(self, outcome: Outcome, end: Next) -> Outcome:
        if end.message is not None:
            self._owned.journal.append(NotContinued(at=datetime.now(timezone.utc), reason=end.message))
            self._owned.recorder.finish()
        if self._over is not None:
            self._over()
        self._observer.ended(outcome)
        if end.message is not None:
            self._observer.message(f"run {self._owned.spec.id}: {end.message}")
        return outcome

    def _cut_short(self, outcome: Outcome, refusal: NotAdmitted) -> Outcome:
        """The run is what its last session came to; it left the queue before another."""
        self._observer.message(f"run {self._owned.spec.id} is not continued: {refusal.reason}")
        return msgspec.structs.replace(outcome, dequeued_by=refusal.by, is_broken_off=refusal.is_broken_off)


def refuse(owned: OwnedRun, reason: str) -> None:
    """Record that a run gets no session, and notify."""
    from backprop.lifecycle import recovery

    owned.journal.append(Refused(at=datetime.now(timezone.utc), reason=reason, figures={}))
    with suppress(OSError):  # the next reader brings the index up to date
        owned.recorder.finish()
    recovery.notify_end(owned.home, owned.rundir, owned.spec)


def drive(
    owned: OwnedRun,
    request: Request,
    observer: RunObserver,
    *,
    ignore_hangup: bool,
    afterwards: Callable[[Outcome | NotAdmitted], None] | None = None,
) -> Outcome | NotAdmitted:
    """Run all sessions of a request, and notify of the end.

    afterwards: done before that, because more may follow from it; the observer must not block then. Else the run is
    unlocked before the observer is notified of the end: a reader that blocks on our output must not hold the run.
    """
    owned = replace(owned, spec=snapshot.executed(owned.spec, owned.rundir))

    def give_up_run() -> None:
        notify_end(owned, is_in_job=False)
        owned.journal.unlock()

    line = RunQueue(owned.home.line_path, host.name())
    with Signals(ignore_hangup=ignore_hangup).caught() as signals:
        over = give_up_run if afterwards is None else None
        runner = RunDriver(owned, request, signals=signals, line=line, observer=observer, over=over)
        result = runner.run()
        if afterwards is not None:
            afterwards(result)
        if owned.journal.is_locked:
            notify_end(owned, is_in_job=afterwards is not None)
        return result
