"""Drives a sweep: looks at its runs, records what they came to, and starts what comes next.

`tick` is one step, and may be repeated at any time: what was asked for is in the journal before it is done, and what
was done is seen in the runs. `drive` ticks until nothing is left to do. Trials are started as a user would start them,
so each has its own supervisor and outlives the sweeper.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

import msgspec

from backprop import host
from backprop.errors import BackpropError, BusyError, ExitCode
from backprop.lifecycle import catalog, indexing, requests, run_state
from backprop.lifecycle.sweep import observation, rule, sampler
from backprop.lifecycle.sweep.journal import (
    Asked,
    Began,
    Checked,
    Confirming,
    Ended,
    Finished,
    NotPromoted,
    Planned,
    Promoted,
    Stopped,
    SweepEntry,
    SweepJournal,
)
from backprop.lifecycle.sweep.journal import read as read_journal
from backprop.lifecycle.sweep.rule import Budget, Finish, Promote, StartTrial, Wait
from backprop.lifecycle.sweep.sampler import Proposal
from backprop.lifecycle.sweep.space import option_words
from backprop.lifecycle.sweep.spec import SweepDir, SweepSpec, sweep_dir
from backprop.lifecycle.sweep.standing import (
    SAME_FAILURES,
    Asking,
    Facts,
    Standing,
    StepsSeen,
    TrialState,
    budget_of,
    conclude,
    fold,
    fold_on,
)
from backprop.records import Run, RunView, Status
from backprop.store import curves
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.supervisor import outcome
from backprop.supervisor.signals import Signals

_LOOK_EVERY_S = 0.25
_TICK_EVERY_S = 5.0  # without a change of any journal: a supervisor may have died
_TRIES = 5  # to start one session
_FAILURE_BYTES = 65_536  # of stderr, at its end


class SweepObserver(Protocol):
    """Observes a sweep."""

    def event(self, text: str) -> None:
        """Something was started, has ended or failed."""

    def looked(self, standing: Standing, budget: Budget) -> None:
        """Called after each tick, and about once a second in between."""

    def close(self) -> None:
        """Called before others use the terminal: take away what is redrawn."""


class Sweeper:
    """The one process that goes on with a sweep: it holds the lock of its journal. Close it."""

    def __init__(self, home: Home, spec: SweepSpec, observer: SweepObserver) -> None:
        """Raises BusyError while another process has the sweep; UnreadableError or ConfigError."""
        self._home = home
        self._spec = spec
        self._observer = observer
        self._dir: SweepDir = sweep_dir(home, spec.id)
        standing = fold(spec, read_journal(self._dir.journal_path))
        with home.changing():
            self._journal = SweepJournal(self._dir.journal_path)
        if observation.is_driven_elsewhere(standing, self._journal) or not self._journal.try_lock():
            self._journal.close()
            raise BusyError(f"sweep {spec.name} is run by another process. To look: backprop sweep status {spec.name}")
        self._runs: dict[int, Run] = {}  # of the active trials
        self._failures = 0  # of ticks, in a row
        self._tries: dict[str, int] = {}  # request -> how often it was started in vain
        self.standing = fold(spec, ())
        self._read()

    def begin(self) -> None:
        """Go on with a sweep that was stopped, or that an error ended; nothing is to be done for one that finished."""
        if self.standing.finished is None or self.standing.finished.exit_code:
            self._write(Began(at=_now(), pid=os.getpid(), host=host.name()))

    def close(self) -> None:
        """Let another process have the sweep."""
        self._journal.close()

    # -- one step

    def tick(self) -> None:
        """Record what has ended, and start what comes next. Blocks while sessions are started, for seconds each.

        Raises BackpropError where a run cannot be made at all; the next tick tries again.
        """
        self._read()
        if self.standing.finished is not None or self.standing.is_stop_asked or self.standing.stopped is not None:
            return
        with catalog.caught_up(self._home, self._observer.event) as index:
            self._look(index)
            if self.standing.problem is not None:
                self._finish(_check_advice(self.standing.problem), ExitCode.CANNOT_RESUME)
            elif (failure := self.standing.same_failure) is not None:
                self._finish(f"trials fail with the same error: {failure}", ExitCode.SAME_FAILURE)
            elif self.standing.trained_without_metric >= SAME_FAILURES:
                self._finish(self._no_metric(), ExitCode.NO_METRIC)
            else:
                self._start_what_is_due(index)
        self._observer.looked(self.standing, self.budget())

    def budget(self) -> Budget:
        """As it is by now."""
        return budget_of(self.standing, self._runs, self._spec.budget_s)

    def _look(self, index: Index) -> None:
        """Bring the active trials in step with their runs; start what was asked for and has not begun."""
        self._runs = {}
        for trial in self.standing.active:
            self._look_at(index, trial)

    def _look_at(self, index: Index, trial: TrialState) -> None:
        view, is_held = _look_up(self._home, index, trial.run_id, self._observer.event)
        if view is None:
            if len(trial.asked) == 1:
                self._start_first(index, trial)
            else:
                self._give_up(trial, trial.trained_s, "its run was removed", Status.FAILED)
            return
        run = self._runs[trial.number] = view.run
        if not run.status.is_final or is_held:  # if so, it is about to end, or to begin
            return
        if run.has_session_for(trial.last.request_id):
            self._conclude(index, trial, view)
        else:
            self._start_again(index, trial, run)

    def _conclude(self, index: Index, trial: TrialState, view: RunView) -> None:
        facts = self._facts(index, trial, view)
        entries = conclude(self._spec, self.standing, trial, facts, _now())
        if not entries:
            return
        self._write(*entries)
        changed = self.standing.trials[trial.number]
        if changed.is_active:
            self._observer.event(f"trial {trial.number} goes on: {changed.last.reason}")
            self._resume(index, changed)
        else:
            self._observer.event(_end_message(self._spec, changed))

    def _facts(self, index: Index, trial: TrialState, view: RunView) -> Facts:
        run_id, session = view.run.spec.id, view.run.last_session
        checked = None
        if session is not None and session.offered is not None:
            earlier = (one for one in view.checkpoints if one.session < session.number)
            steps = {one.path: one.step for one in earlier}  # a path may be saved to again and again
            first, last = curves.step_range(index, run_id, session.number) or (None, None)
            checked = StepsSeen(steps.get(session.offered), first, last)
        return Facts(
            run=view.run,
            summaries=curves.session_summaries(index, run_id, self._spec.metric, trial.last.until_step),
            has_checkpoint=any(not one.is_emergency and catalog.is_valid(one) for one in view.checkpoints),
            checked=checked,
            failure=_failure(self._home, view.run),
            left_s=self._left_s(trial),
        )

    def _left_s(self, trial: TrialState) -> float:
        """What another session of an active trial may take instead of its newest: of the budget, and until --until."""
        idle = msgspec.structs.replace(trial, is_active=False)
        standing = msgspec.structs.replace(
            self.standing, trials=tuple(idle if one.number == trial.number else one for one in self.standing.trials)
        )
        budget = budget_of(standing, observation.active_runs(self._home, self.standing), self._given_s)
        planned_s = sum(one.timebox_s for one in self.standing.planned or ())
        return min(budget.left_s - planned_s, self._longest_s())

    @property
    def _given_s(self) -> float:
        """The budget of the search, until that is over; then all of it."""
        is_kept = self._spec.confirm is not None and self.standing.planned is None
        return self._spec.budget_s * (1 - rule.CONFIRMED_SHARE if is_kept else 1)

    # -- what comes next

    def _start_what_is_due(self, index: Index) -> None:
        while (action := self._decide()) is not None:
            if isinstance(action, Finish):
                self._end_search(action.reason)
                if self.standing.finished is not None:
                    return
            elif isinstance(action, Promote):
                trial = self.standing.trials[action.trial]
                self._write(
                    Promoted(
                        at=_now(),
                        trial=action.trial,
                        rung=action.rung,
                        request_id=f"{trial.run_id}-{len(trial.asked)}",
                        timebox_s=action.timebox_s,
                        until_step=action.until_step,
                        reason=action.reason,
                    )
                )
                self._observer.event(self.standing.last_event)
                self._resume(index, self.standing.trials[action.trial])
            else:
                self._start(index, action)

    def _decide(self) -> StartTrial | Promote | Finish | Planned | None:
        """None: nothing before a session ends."""
        standing, spec = self.standing, self._spec
        if standing.planned is not None:
            if standing.planned:
                return standing.planned[0] if len(standing.active) < spec.parallel else None
            return None if standing.active else Finish(reason="all repeats are trained")
        needs_check = not (standing.is_checked or spec.from_scratch)
        if needs_check and standing.active:
            return None
        budget, longest_s = msgspec.structs.replace(self.budget(), total_s=self._given_s), self._longest_s()
        rules = standing.rules
        if longest_s < rule.LEAST_SHARE * rules.duration_s(0):
            return None if standing.active else Finish(reason=f"no session would end before {_clock(spec.until)}")
        within = _within(budget, longest_s * spec.parallel)
        action = rule.decide(rules, standing.candidates, within, has_proposals=self._has_proposals())
        if isinstance(action, Wait):
            return None
        if isinstance(action, Finish):
            return action
        timebox_s, until_step = min(action.timebox_s, longest_s), action.until_step
        if isinstance(action, StartTrial) and needs_check:
            timebox_s /= 2  # the other half shows whether it continues
            until_step = until_step and until_step // 2
        return msgspec.structs.replace(action, timebox_s=timebox_s, until_step=until_step)

    def _longest_s(self) -> float:
        """How long a session may take by the clock."""
        until = self._spec.until
        return float("inf") if until is None else (until - _now()).total_seconds()

    def _has_proposals(self) -> bool:
        return self._spec.sampler != "grid" or sampler.propose(self.standing) is not None

    def _end_search(self, reason: str) -> None:
        """The repeats come next, where some are wanted; else the end."""
        standing, confirm = self.standing, self._spec.confirm
        if standing.planned is None and confirm is not None:
            best = standing.ranked[: confirm.top]
            budget = _within(self.budget(), self._longest_s() * self._spec.parallel)
            planned = rule.repeats(
                standing.rules,
                standing.candidates,
                budget,
                top=confirm.top,
                seeds=confirm.seeds,
                trained_s=max((self._length_s(trial) for trial in best), default=0.0),
            )
            self._write(Confirming(at=_now(), planned=tuple(Planned.of(one) for one in planned), reason=reason))
            if planned:
                self._observer.event(f"{reason}; repeating the best {len(best)} with {confirm.seeds} seeds each")
                return
            self._observer.event(f"{reason}; nothing is left to repeat the best")
        if not any(trial.has_metric for trial in standing.trials):
            self._finish(f"{reason}; {self._no_metric()}", ExitCode.NO_METRIC)
        elif standing.best is None:
            self._finish(f"{reason}; no trial has a value of {self._spec.metric!r}", ExitCode.NO_METRIC)
        else:
            self._finish(reason, ExitCode.OK)

    def _length_s(self, trial: TrialState) -> float:
        """How long the same training may take: of one that completed early, as long as it might have taken."""
        rules = self.standing.rules
        if rules.rung_steps is not None:
            pace_s = trial.for_rule(rules).pace_s
            return rules.duration_s(len(trial.values) - 1, pace_s) if rules.is_anew else trial.trained_s
        rungs_s = sum(rules.duration_s(rung) for rung in range(len(trial.values)))
        return rungs_s if trial.status is Status.COMPLETED else trial.trained_s

    def _no_metric(self) -> str:
        steps = "" if self._spec.rung_steps is None else f" up to step {self._spec.rung_steps} (--rung-steps)"
        return f"no trial reported the metric {self._spec.metric!r} of the goal{steps}"

    def _finish(self, reason: str, code: ExitCode) -> None:
        if code != ExitCode.OK:
            self._stop_trials(reason)
        self._write(Finished(at=_now(), reason=reason, exit_code=int(code)))

    # -- start sessions

    def _start(self, index: Index, action: StartTrial | Planned) -> None:
        number = len(self.standing.trials)
        if isinstance(action, Planned):
            original = self.standing.trials[action.trial]
            proposal = Proposal(original.params, "confirm", note=f"repeats trial {action.trial}")
            seed: int | None = action.seed
        else:
            found = sampler.propose(self.standing)
            if found is None:
                raise RuntimeError("the rule starts a trial, and there is no proposal")
            proposal, seed = found, None if self._spec.seed_param is None else 0
        self._write(
            Asked(
                at=_now(),
                trial=number,
                run_id=self._spec.run_id(number),
                params=proposal.params,
                source=proposal.source,
                timebox_s=action.timebox_s,
                until_step=action.until_step,
                repeats=action.trial if isinstance(action, Planned) else None,
                seed=seed,
                note=proposal.note,
                attrs=proposal.attrs,
            )
        )
        trial = self.standing.trials[number]
        self._observer.event(f"trial {number}: {params_text(trial)}" + (f" ({trial.note})" if trial.note else ""))
        self._start_first(index, trial)

    def _start_first(self, index: Index, trial: TrialState) -> None:
        """Make the run of a trial, or find that it was made."""
        spec, asking = self._spec, trial.last
        params = [word for name, text in trial.params.items() for word in option_words(name, text)]
        note = () if trial.note is None else ("--note", trial.note)
        seed = () if trial.seed is None or spec.seed_param is None else (f"--{spec.seed_param}", str(trial.seed))
        words = (
            "run", spec.script, "--detach", "--run-id", trial.run_id, "--request-id", asking.request_id,
            "--sweep-trial", f"{spec.id}:{trial.number}", "--group", spec.name, "--name", f"{spec.name}-{trial.number}",
            *_limits(asking), f"--goal={spec.goal_text}", *note, *spec.run_options,
            "--", *spec.arguments, *seed, *params,
        )  # fmt: skip
        done = self._call(words)
        self._started(index, trial, done)

    def _start_again(self, index: Index, trial: TrialState, run: Run) -> None:
        """A session was asked for, and has not begun: the sweeper was killed, or the run left the queue."""
        if trial.last.request_id in self.standing.stopped_ids:
            self._resume(index, trial)
        elif run.dequeued_by is not None:
            self._give_up(trial, _trained_s(run), f"it left the queue: {run.reason}", Status.STOPPED)
        elif run.status is Status.REFUSED:
            self._give_up(trial, _trained_s(run), run.reason or "refused", Status.FAILED)
        else:
            self._resume(index, trial)

    def _resume(self, index: Index, trial: TrialState) -> None:
        """Start the session that was asked for last."""
        spec, asking = self._spec, trial.last
        is_anew = spec.from_scratch and len(trial.asked) > 1
        how = ("--from-scratch",) if is_anew else ("--strict",) if asking.is_strict else ()
        words = (
            "resume", trial.run_id, "--again", "--detach", "--request-id", asking.request_id, *how,
            *_limits(asking), *spec.resume_options,
        )  # fmt: skip
        done = self._call(words)
        if done.code == ExitCode.NO_CHECKPOINT:
            reason = "it has no valid checkpoint to continue from"
            if asking.is_check:
                reason = f"it saved no valid checkpoint within {asking.timebox_s:g} s"
                self._write(Checked(at=_now(), trial=trial.number, problem=reason))
            self._write(NotPromoted(at=_now(), trial=trial.number, request_id=asking.request_id, reason=reason))
            self._observer.event(f"trial {trial.number}: {reason}")
            return
        self._started(index, trial, done)

    def _call(self, words: Sequence[str]) -> requests.Called:
        """Nobody is notified of the end of every rung: `sweep wait` waits for that of the sweep."""
        return requests.call(self._home, words, self._spec.cwd, BACKPROP_NOTIFY="[]")

    def _started(self, index: Index, trial: TrialState, done: requests.Called) -> None:
        """What came of the command that was to start a session. Raises BackpropError where no run could be made."""
        view, _ = _look_up(self._home, index, trial.run_id, self._observer.event)
        if view is not None:
            self._runs[trial.number] = view.run
        if done.code == ExitCode.OK:
            return
        request_id = trial.last.request_id
        if view is None:
            raise BackpropError(f"trial {trial.number} cannot be started: {done.message}")
        if not view.run.status.is_final or view.run.has_session_for(request_id):
            return  # it has begun and failed: the next look records that
        self._tries[request_id] = self._tries.get(request_id, 0) + 1
        if self._tries[request_id] >= _TRIES:
            reason = done.message or f"exit code {done.code}"
            self._give_up(trial, _trained_s(view.run), reason, Status.FAILED)

    def _give_up(self, trial: TrialState, trained_s: float, reason: str, status: Status) -> None:
        """Record that the session of a trial will never begin."""
        self._write(
            Ended(
                at=_now(),
                trial=trial.number,
                rung=trial.last.rung,
                status=status,
                value=None,
                has_metric=False,
                can_resume=False,
                trained_s=trained_s,
                reason=reason,
            )
        )
        self._observer.event(_end_message(self._spec, self.standing.trials[trial.number]))

    # -- stop

    def stop(self, reason: str) -> None:
        """Stop the active trials gracefully, to go on later. Blocks until they have ended, at most their grace."""
        self._read()
        asked = self._stop_trials(reason)
        for run, patience_s in asked:
            run_state.wait_for(self._home, run, lambda now: now.has_ended, patience_s)

    def _stop_trials(self, reason: str) -> list[tuple[Run, float]]:
        active = self.standing.active
        self._write(Stopped(at=_now(), request_ids=tuple(one.last.request_id for one in active), reason=reason))
        asked = []
        for trial in active:
            try:
                run = run_state.look(self._home, self._home.rundir(trial.run_id).read_spec()).run
                answering = requests.request_stop(self._home, run, by="backprop sweep stop")
            except (FileNotFoundError, BackpropError):
                continue  # it has not begun, or has just ended
            asked.append((run, answering.grace_s + requests.STOP_MARGIN_S))
        return asked

    # -- until the end

    def drive(self, signals: Signals) -> int:
        """Tick until the sweep has finished, or is stopped; what to exit with. Raises BackpropError as `tick`."""
        seen: object = None
        ticked_at = float("-inf")
        while True:
            if self._is_to_end(signals):
                self._observer.event("stopping the trials; they can go on later")
                self.stop("Ctrl-C, or a signal")
                return ExitCode.INTERRUPTED
            now, stamp = time.monotonic(), self._stamp()
            if stamp != seen or now - ticked_at >= _TICK_EVERY_S:
                self._try_to_tick()
                seen, ticked_at = self._stamp(), time.monotonic()
                if self.standing.finished is not None:
                    return self.standing.finished.exit_code
                if self.standing.is_stop_asked:
                    self.stop("backprop sweep stop")
                    return ExitCode.OK
            self._observer.looked(self.standing, self.budget())
            signals.wait(_LOOK_EVERY_S)

    def _is_to_end(self, signals: Signals) -> bool:
        """Whether a signal asks for the end; the terminal is gone, too. Ctrl-Z suspends the sweeper, not its trials."""
        taken = signals.take()
        if signal.SIGTSTP in taken:
            self._observer.close()
            os.kill(os.getpid(), signal.SIGSTOP)
        return any(number is not signal.SIGTSTP for number in taken)

    def _try_to_tick(self) -> None:
        """Tick; what fails for a moment is tried again later. Raises BackpropError where it keeps failing."""
        try:
            self.tick()
            self._failures = 0
        except BackpropError as error:
            self._failures += 1
            if self._failures >= _TRIES:
                raise
            self._observer.event(f"trying again in {_TICK_EVERY_S:g} s: {error}")

    def _stamp(self) -> object:
        """Changes as soon as the journal of an active run changes, or a request comes."""
        paths = [self._dir.journal_path, *(self._home.rundir(one.run_id).journal_path for one in self.standing.active)]
        return tuple(_size(path) for path in paths), self._longest_s() <= 0

    # -- the journal

    def _read(self) -> None:
        self.standing = fold_on(self.standing, self._journal.read_new())

    def _write(self, *entries: SweepEntry) -> None:
        """Synced when this returns. Raises OSError or ConfigError when it cannot be written."""
        if not self._journal.append(*entries):
            raise self._home.unusable(OSError(28, os.strerror(28)))
        self._read()


def params_text(trial: TrialState) -> str:
    """The parameters of a trial in one line."""
    seed = [] if trial.repeats is None else [f"seed={trial.seed}"]
    return " ".join([*(f"{name}={text}" for name, text in trial.params.items()), *seed])


def _end_message(spec: SweepSpec, trial: TrialState) -> str:
    value = "no value" if trial.value is None else f"{spec.metric} {trial.value:.6g}"
    why = "" if trial.reason is None else f": {trial.reason}"
    status = "" if trial.status is None else f" {trial.status.value},"
    return f"trial {trial.number} rung {len(trial.values) - 1}{status} {value}{why}"


def _trained_s(run: Run) -> float:
    return sum(session.elapsed_s or 0.0 for session in run.sessions)


def _check_advice(problem: str) -> str:
    return (
        f"the script did not continue from its checkpoint: {problem}. Start another sweep with a longer first rung "
        "(--rung MINUTES), with the script's option for a checkpoint (--resume-arg FLAG), or with --from-scratch: "
        "then each rung trains from the beginning"
    )


def _within(budget: Budget, left_s: float) -> Budget:
    """The budget with no more than this left."""
    return msgspec.structs.replace(budget, total_s=min(budget.total_s, budget.spent_s + budget.committed_s + left_s))


def _look_up(home: Home, index: Index, run_id: str, say: Callable[[str], None]) -> tuple[RunView | None, bool]:
    """A run as it is now, None where there is none; and whether a process holds it.

    Raises BusyError where it cannot be indexed just now.
    """
    rundir = home.rundir(run_id)
    if not rundir.spec_path.exists():
        return None, False
    is_held = indexing.refresh(home, index, rundir, say)
    view = index.get(run_id)
    if view is None and rundir.spec_path.exists():
        raise BusyError(f"run {run_id} cannot be indexed right now; try again.")
    return view, is_held


def _failure(home: Home, run: Run) -> str | None:
    """The last line of the traceback that the newest session left."""
    from backprop.store.files import last_lines, opened

    session = run.last_session
    if session is None or session.status is not Status.FAILED:
        return None
    path = home.rundir(run.spec.id).err_path(session.number)
    with opened(path.parent, path.name) as fd:
        text = "" if fd is None else last_lines(fd, _FAILURE_BYTES).data.decode(errors="replace")
    found = outcome.traceback_in(text)
    lines: Sequence[str] = found.lines if found is not None else text.splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), None)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _limits(asking: Asking) -> tuple[str, ...]:
    """The options that end a session."""
    step = () if asking.until_step is None else ("--until-step", str(asking.until_step))
    return ("--max-run-minutes", f"{asking.timebox_s / 60:.9g}", *step)


def _clock(at: datetime | None) -> str:
    return "" if at is None else f"{at.astimezone():%H:%M}"


def _now() -> datetime:
    return datetime.now(timezone.utc)
