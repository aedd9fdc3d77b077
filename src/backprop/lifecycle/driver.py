"""All that one command makes of a run: a turn, a retry after a failure, another turn after a timebox.

    stand in line ──> session ──> what next? ──> stand in line again, or end

Each session gives its slot up when it ends. What comes next is decided by `after`, a pure function.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from enum import Enum
from typing import Protocol

import msgspec

from backprop.errors import ExitCode
from backprop.governor.run_queue import Line
from backprop.lifecycle.admission import Admission, Application, NoTurn, Turn, surrounding_run
from backprop.records import Checkpoint, Limits, Record, Revision, RunSpec, RunView, Status, with_step
from backprop.store import checkpoints, kept_checkpoints
from backprop.store.ingest import Recorder, Say
from backprop.store.journal.file import CheckpointSkipped, Journal, NotContinued, Refused
from backprop.store.rundir import Home, RunDir
from backprop.supervisor import command
from backprop.supervisor.session import Observer, Outcome, SessionPlan, Supervisor
from backprop.supervisor.signals import Signals

MAX_BACKOFF_S = 60.0
_WORTH_A_RETRY_S = 1.0  # less of a timebox is no use to anybody


@dataclass(frozen=True)
class Claim:
    """A run whose journal this process has locked."""

    home: Home
    rundir: RunDir
    spec: RunSpec
    journal: Journal
    is_new: bool  # made a moment ago: if it cannot start, it is taken back


class Request(Record, frozen=True):
    """What the user asked of a run."""

    limits: Limits
    checkpoint: str | None  # to begin with
    gpu_probe: str = "auto"
    wait_s: float | None = None  # in line for each session; None: as long as it takes
    retries: int = 0
    sessions: int = 1
    job: str | None = None  # of Slurm, in which it is carried out
    revision: Revision | None = None  # what the run executes from now on; None: the same as before
    only_once: tuple[str, ...] = ()  # arguments of its first timebox


class Audience(Protocol):
    """Whom the sessions of a run are told. Called between sessions, except for what `begins` returns."""

    def waits(self, reason: str) -> None: ...
    def begins(self, plan: SessionPlan) -> Observer: ...
    def ended(self, outcome: Outcome) -> None: ...
    def said(self, text: str) -> None: ...


# -- what next?


class Attempt(Record, frozen=True):
    """How a session ended, as far as it matters for what comes next."""

    status: Status
    exit_code: int | None
    elapsed_s: float
    step: int | None  # the last that it reported
    newest: Checkpoint | None  # that looks whole, of all sessions so far
    is_over_own_limit: bool = False  # stopped because it used more RAM or GPU memory than it may

    @property
    def is_failure(self) -> bool:
        """A crash, or out of memory: another try from the newest checkpoint may get further."""
        return self.status is Status.FAILED or self.is_over_own_limit


class Kind(Enum):
    """What follows a session."""

    END = "end"
    RETRY = "retry"  # again, in what is left of its timebox
    TURN = "turn"  # another timebox


class Next(Record, frozen=True):
    """What follows a session, and what there is to say about it."""

    kind: Kind = Kind.END
    told: str | None = None
    delay_s: float = 0.0
    timebox_s: float = 0.0


def after(request: Request, attempts: Sequence[Attempt]) -> Next:
    """What follows the last of these attempts, the first being that of this request's first session."""
    last = attempts[-1]
    if last.status is Status.TIMEBOXED:
        turns = sum(attempt.status is Status.TIMEBOXED for attempt in attempts)
        if turns >= request.sessions:
            return Next()
        told = f"session {turns + 1} of {request.sessions}"
        return Next(kind=Kind.TURN, told=told, timebox_s=request.limits.timebox_s)
    if last.is_failure and request.retries and last.exit_code != ExitCode.NOT_EXECUTED:
        return _after_failure(request, attempts)
    return Next()


def _after_failure(request: Request, attempts: Sequence[Attempt]) -> Next:
    last, before = attempts[-1], attempts[-2] if len(attempts) > 1 else None
    used = sum(attempt.is_failure for attempt in attempts[:-1])
    if used >= request.retries:
        return Next(told=f"gave up after {used} {'retry' if used == 1 else 'retries'}")
    is_stuck = before is not None and before.is_failure and _is_same_place(before, last)
    if is_stuck:
        return Next(told=f"it failed twice at step {last.step} with no new checkpoint in between: not tried again")
    left_s = request.limits.timebox_s - _spent_s(attempts)
    if left_s < _WORTH_A_RETRY_S:
        return Next(told="nothing is left of its timebox for a retry")
    delay_s = _backoff_s(attempts)
    told = f"retry {used + 1} of {request.retries} in {delay_s:g} s, with {left_s:.0f} s left of its timebox"
    return Next(kind=Kind.RETRY, told=told, delay_s=delay_s, timebox_s=left_s)


def _is_same_place(one: Attempt, other: Attempt) -> bool:
    return one.step is not None and one.step == other.step and one.newest == other.newest


def _spent_s(attempts: Sequence[Attempt]) -> float:
    """How much of the present timebox is gone: the failures since the last one that was used up."""
    spent_s = 0.0
    for attempt in attempts:
        spent_s = spent_s + attempt.elapsed_s if attempt.is_failure else 0.0
    return spent_s


def _backoff_s(attempts: Sequence[Attempt]) -> float:
    """1, 2, 4 ... seconds for failures in a row without a new checkpoint."""
    in_a_row = 0
    for one, other in zip(reversed(attempts[:-1]), reversed(attempts), strict=False):
        if not one.is_failure or one.newest != other.newest:
            break
        in_a_row += 1
    return min(MAX_BACKOFF_S, 2.0 ** min(in_a_row, 10))


# -- do it


def choose_checkpoint(
    view: RunView, saved_over_by: Callable[[Checkpoint], str | None], journal: Journal, say: Say
) -> Checkpoint | None:
    """The newest whole checkpoint; what is passed over on the way is said, and written down.

    saved_over_by: gives another run that has saved to the same path since.
    """
    kept_checkpoints.reconcile(view, saved_over_by, say)
    choice = checkpoints.choose(view.checkpoints, saved_over_by, view.run.sessions)
    for skipped, reason in choice.skipped:
        say(f"checkpoint {skipped.path} is skipped: {reason}")
        journal.append(CheckpointSkipped(at=datetime.now(timezone.utc), path=skipped.path, reason=reason))
    if choice.checkpoint is None:
        none = "no valid checkpoint is left" if choice.skipped else "no checkpoint was noticed"
        say(f"{none}: none is offered. The script starts over, unless it finds one by itself")
    else:
        say(f"offering {with_step(choice.checkpoint.path, choice.checkpoint.step)}")
    return choice.checkpoint


def resume_args(spec: RunSpec) -> tuple[str, ...]:
    """What tells the script of the checkpoint in its arguments; nothing: it reads the environment."""
    if isinstance(spec.resume_arg, str):
        return (spec.resume_arg,)
    if spec.resume_arg:
        return spec.resume_arg
    return (command.RESUME_FLAG,) if command.declares_resume_flag(spec.script) else ()


class Turns:
    """Carries a request out."""

    def __init__(
        self,
        claim: Claim,
        request: Request,
        *,
        recorder: Recorder,
        signals: Signals,
        line: Line,
        audience: Audience,
        over: Callable[[], None] | None = None,
    ) -> None:
        """over: called when all is written down, before the audience, which may block, is told of the last session."""
        self._claim = claim
        self._request = request
        self._recorder = recorder
        self._signals = signals
        self._line = line
        self._audience = audience
        self._over = over

    def run(self) -> Outcome | NoTurn:
        """Run session after session, until there is nothing more to do; how the last one ended, or why there was none.

        Raises ConfigError when the home is too full to begin the first.
        """
        limits, checkpoint, only_once = self._request.limits, self._request.checkpoint, self._request.only_once
        attempts: list[Attempt] = []
        following = Next()
        outcome: Outcome | None = None
        while True:
            try:
                turn = self._turn(limits, following)
                if isinstance(turn, NoTurn):
                    return turn if outcome is None else self._cut_short(outcome, turn)
                outcome = self._session(limits, checkpoint, turn, only_once)
            except OSError as error:
                return self._give_up(outcome, error)
            attempts.append(self._attempt(outcome))
            following = after(self._request, attempts)
            if following.kind is Kind.END:
                return self._end(outcome, following)
            view = self._recorder.whole_view()
            if view is None:  # from the beginning, or from an old checkpoint, would be worse than not at all
                return self._end(outcome, Next(told="its checkpoints cannot be looked up: it is not continued"))
            self._audience.ended(outcome)
            self._audience.said(f"run {self._claim.spec.id}: {following.told}")
            chosen = choose_checkpoint(view, self._recorder.saved_over_by, self._claim.journal, self._audience.said)
            checkpoint = None if chosen is None else chosen.path
            limits = msgspec.structs.replace(limits, timebox_s=following.timebox_s)
            if following.kind is Kind.TURN:
                only_once = ()

    def _turn(self, limits: Limits, following: Next) -> Turn | NoTurn:
        claim = self._claim
        run, _ = self._recorder.read_run()
        admission = Admission(
            Application(
                spec=claim.spec,
                session=1 + run.newest_number,
                limits=limits,
                folders=(str(claim.home.path), claim.spec.cwd),
                gpu_probe=self._request.gpu_probe,
                wait_s=self._request.wait_s,
                job=self._request.job,
                within=surrounding_run(claim.home),
            ),
            line=self._line,
            journal=claim.journal,
            recorder=self._recorder,
            signals=self._signals,
            audience=self._audience,
        )
        if following.delay_s and (refusal := admission.rest(following.delay_s, following.told or "")) is not None:
            return refusal
        return admission.ask()

    def _session(self, limits: Limits, checkpoint: str | None, turn: Turn, only_once: tuple[str, ...]) -> Outcome:
        claim = self._claim
        plan = SessionPlan(
            limits=limits,
            checkpoint=checkpoint,
            resume_args=resume_args(claim.spec) if checkpoint is not None else (),
            gpus=turn.decision.gpus,
            gpu_probe=self._request.gpu_probe,
            gpu_problem=turn.decision.figures.get("gpu_problem"),
            job=self._request.job,
            revision=self._request.revision,
            only_once=only_once,
        )
        supervisor = Supervisor(
            rundir=claim.rundir,
            spec=claim.spec,
            journal=claim.journal,
            recorder=self._recorder,
            observer=self._audience.begins(plan),
            signals=self._signals,
            place=turn.place,
        )
        try:
            outcome = supervisor.run(plan)
            if (view := self._recorder.view()) is not None:  # else whoever resumes it sees to that
                kept_checkpoints.reconcile(view, self._recorder.saved_over_by, self._audience.said)
            return outcome
        finally:
            turn.place.leave()

    def _give_up(self, outcome: Outcome | None, error: OSError) -> Outcome:
        """The home cannot take another session: the run is what its last one came to.

        Raises ConfigError where this request had none. A home that is too full to begin keeps no half-made run; a
        read-only one keeps all.
        """
        claim, problem = self._claim, self._claim.home.unusable(error)
        if claim.is_new and not claim.rundir.out_path(1).exists():
            with suppress(OSError):
                claim.rundir.remove()
            raise problem from error
        with suppress(OSError):  # there is no place to say it: whoever looks next takes us for dead
            claim.journal.append(Refused(at=datetime.now(timezone.utc), reason=str(problem), figures={}))
            self._recorder.finish()
        if outcome is None:
            raise problem from error
        self._audience.said(f"run {claim.spec.id} is not continued: {problem}")
        return outcome

    def _attempt(self, outcome: Outcome) -> Attempt:
        view = self._recorder.whole_view() if self._request.retries else None  # only a retry looks at its checkpoints
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
        if end.told is not None:
            self._claim.journal.append(NotContinued(at=datetime.now(timezone.utc), reason=end.told))
            self._recorder.finish()
        if self._over is not None:
            self._over()
        self._audience.ended(outcome)
        if end.told is not None:
            self._audience.said(f"run {self._claim.spec.id}: {end.told}")
        return outcome

    def _cut_short(self, outcome: Outcome, refusal: NoTurn) -> Outcome:
        """The run is what its last session came to; the line was left before another."""
        self._audience.said(f"run {self._claim.spec.id} is not continued: {refusal.reason}")
        if refusal.exit_code is ExitCode.INTERRUPTED:
            return msgspec.structs.replace(outcome, exit_code=refusal.exit_code)
        return msgspec.structs.replace(outcome, is_broken_off=refusal.is_broken_off)
