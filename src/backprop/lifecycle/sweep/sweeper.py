"""Drives a sweep: looks at its runs, records what they came to, and starts what comes next.

`tick` is one step, and may be repeated at any time: what was asked for is in the journal before it is done, and what
was done is seen in the runs. driving.py ticks until nothing is left to do. Trials are started as a user would start
them, so each has its own supervisor and outlives the sweeper. What comes next is decided in planning.py.
"""

import os
from datetime import datetime, timezone
from typing import Protocol

from backprop import host
from backprop.errors import BackpropError, ExitCode
from backprop.lifecycle import catalog, requests, run_state
from backprop.lifecycle.sweep import observation, planning, sampler, trial_runs
from backprop.lifecycle.sweep.journal import (
    Asked,
    Began,
    Checked,
    Confirming,
    Ended,
    Finished,
    Made,
    NotPromoted,
    Promoted,
    SweepEntry,
    SweepJournal,
    SweepStopped,
)
from backprop.lifecycle.sweep.journal import read as read_journal
from backprop.lifecycle.sweep.rule import Budget, Finish, Promote, Repeat, StartTrial
from backprop.lifecycle.sweep.sampler import Proposal
from backprop.lifecycle.sweep.spec import SweepSpec, sweep_dir
from backprop.lifecycle.sweep.standing import (
    SAME_FAILURES,
    SLOW_START,
    Standing,
    TrialState,
    budget_of,
    conclude,
    fold,
    fold_on,
    run_trained_s,
)
from backprop.records import Run, RunView, Status
from backprop.store.home import Home
from backprop.store.index import Index

_TRIES = 5  # to start one session


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
        path = sweep_dir(home, spec.id).journal_path
        standing = fold(spec, read_journal(path))
        with home.changing():
            self._journal = SweepJournal(path)
        observation.own(home, standing, self._journal)
        self._runs: dict[int, Run] = {}  # of the active trials
        self._tries: dict[str, int] = {}  # request -> how often it was started in vain
        self.standing = fold(spec, ())
        self._read()

    def begin(self) -> None:
        """Go on with a sweep that was stopped, or that an error ended; nothing is to be done for one that finished."""
        if self.standing.finished is None or self.standing.finished.exit_code:
            self._write(_began())

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
        if observation.is_from_elsewhere(self.standing):  # what is written here is no heartbeat of that sweeper
            self._write(_began())
        with catalog.as_it_is(self._home, self._observer.event) as index:
            self._look(index)
            if self.standing.problem is not None:
                self._finish(_check_advice(self.standing.problem), ExitCode.CANNOT_RESUME)
            elif (failure := self.standing.same_failure) is not None:
                self._finish(f"trials fail with the same error: {failure}", ExitCode.SAME_FAILURE)
            elif self.standing.trained_without_metric >= SAME_FAILURES:
                self._finish(_no_metric(self._spec), ExitCode.NO_METRIC)
            else:
                self._start_what_is_due(index)
        self._observer.looked(self.standing, self.budget())

    def budget(self) -> Budget:
        """As it is by now."""
        return budget_of(self.standing, self._runs, self._spec.budget_s, _now())

    def _known_budget(self) -> Budget:
        """The same without what active sessions have used: what comes next depends on nothing but what has ended."""
        return budget_of(self.standing, self._runs, self._spec.budget_s)

    def _look(self, index: Index) -> None:
        """Bring the active trials in step with their runs; start what was asked for and has not begun."""
        for trial in self.standing.active:
            self._look_at(index, trial)
        self._runs = {one.number: self._runs[one.number] for one in self.standing.active if one.number in self._runs}

    def _look_at(self, index: Index, trial: TrialState) -> None:
        view, is_held = trial_runs.look_up(self._home, index, trial.run_id, self._observer.event)
        if view is None:
            if trial.is_made:
                seen = self._runs.get(trial.number)
                self._give_up(
                    trial, 0.0 if seen is None else run_trained_s(seen, _now()), "its run was removed", Status.FAILED
                )
            else:
                self._started(index, trial, trial_runs.make(self._home, self._spec, trial))
            return
        run = self._note(trial, view)
        if not run.status.is_final or is_held:  # if so, it is about to end, or to begin
            return
        if run.has_session_for(trial.last.request_id):
            self._conclude(index, trial, view)
        else:
            self._start_again(index, trial, run)

    def _note(self, trial: TrialState, view: RunView) -> Run:
        """Keep what is known of the run of a trial, and record that it was made."""
        self._runs[trial.number] = view.run
        if not trial.is_made:
            self._write(Made(at=_now(), trial=trial.number))
        return view.run

    def _conclude(self, index: Index, trial: TrialState, view: RunView) -> None:
        left_s = planning.left_for(self.standing, trial, observation.active_runs(self._home, self.standing), _now())
        facts = trial_runs.facts(self._home, index, self._spec, trial, view, left_s)
        entries = conclude(self._spec, self.standing, trial, facts, _now())
        if not entries:
            return
        before = self.standing
        self._write(*entries)
        changed = self.standing.trials[trial.number]
        if changed.is_active:
            self._observer.event(f"trial {trial.number} goes on: {changed.last.reason}")
            self._resume(index, changed)
        else:
            self._observer.event(_end_message(self._spec, changed))
            advice = start_advice(self.standing)
            if advice is not None and before.start is None:
                self._observer.event(advice)

    # -- what comes next

    def _start_what_is_due(self, index: Index) -> None:
        while not self._is_stop_asked() and (action := self._next()) is not None:
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

    def _is_stop_asked(self) -> bool:
        """Whether somebody has asked for a stop since: a start takes seconds."""
        self._read()
        return self.standing.is_stop_asked

    def _next(self) -> StartTrial | Promote | Finish | Repeat | None:
        has_proposals = self._spec.sampler != "grid" or sampler.propose(self.standing) is not None
        return planning.next_action(self.standing, self._known_budget(), _now(), has_proposals=has_proposals)

    def _end_search(self, reason: str) -> None:
        """The repeats come next, where some are wanted; else the end."""
        standing, confirm = self.standing, self._spec.confirm
        if standing.planned is None and confirm is not None:
            planned = planning.repeats(standing, self._known_budget(), _now())
            self._write(Confirming(at=_now(), planned=planned, reason=reason))
            if planned:
                count = len({one.trial for one in planned})
                self._observer.event(f"{reason}; repeating the best {count} with {confirm.seeds} seeds each")
                return
            self._observer.event(f"{reason}; nothing is left to repeat the best")
        if not any(trial.has_metric for trial in standing.trials):
            self._finish(f"{reason}; {_no_metric(self._spec)}", ExitCode.NO_METRIC)
        elif standing.best is None:
            self._finish(f"{reason}; no trial has a value of {self._spec.metric!r}", ExitCode.NO_METRIC)
        else:
            self._finish(reason, ExitCode.OK)

    def _finish(self, reason: str, code: ExitCode) -> None:
        if code != ExitCode.OK:
            self._stop_trials(reason)
        self._write(Finished(at=_now(), reason=reason, exit_code=int(code)))

    # -- start sessions

    def _start(self, index: Index, action: StartTrial | Repeat) -> None:
        number = len(self.standing.trials)
        if isinstance(action, Repeat):
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
                repeats=action.trial if isinstance(action, Repeat) else None,
                seed=seed,
                note=proposal.note,
                attrs=proposal.attrs,
            )
        )
        trial = self.standing.trials[number]
        self._observer.event(f"trial {number}: {params_text(trial)}" + (f" ({trial.note})" if trial.note else ""))
        self._started(index, trial, trial_runs.make(self._home, self._spec, trial))

    def _resume(self, index: Index, trial: TrialState) -> None:
        """Start the session that was asked for last."""
        done = trial_runs.resume(self._home, self._spec, trial)
        if done.code != ExitCode.NO_CHECKPOINT:
            self._started(index, trial, done)
            return
        reason = "it has no valid checkpoint to continue from"
        if trial.last.is_check:
            reason = f"it saved no valid checkpoint within {trial.last.timebox_s:g} s"
            self._write(Checked(at=_now(), trial=trial.number, problem=reason))
        run = self._runs.get(trial.number)
        self._write(
            NotPromoted(
                at=_now(),
                trial=trial.number,
                request_id=trial.last.request_id,
                reason=reason,
                trained_s=trial.trained_s if run is None else run_trained_s(run),
            )
        )
        self._observer.event(f"trial {trial.number}: {reason}")

    def _start_again(self, index: Index, trial: TrialState, run: Run) -> None:
        """A session was asked for, and has not begun: the sweeper was killed, or the run left the queue."""
        if trial.last.request_id in self.standing.stopped_ids:
            self._resume(index, trial)
        elif run.dequeued_by is not None:
            self._give_up(trial, run_trained_s(run), f"it left the queue: {run.reason}", Status.STOPPED)
        elif run.status is Status.REFUSED:
            self._give_up(trial, run_trained_s(run), run.reason or "refused", Status.FAILED)
        else:
            self._resume(index, trial)

    def _started(self, index: Index, trial: TrialState, done: requests.Called) -> None:
        """What came of the command that was to start a session. Raises BackpropError where no run could be made."""
        view, _ = trial_runs.look_up(self._home, index, trial.run_id, self._observer.event)
        if view is not None:
            self._note(trial, view)
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
            self._give_up(trial, run_trained_s(view.run), reason, Status.FAILED)

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
        self._write(SweepStopped(at=_now(), request_ids=tuple(one.last.request_id for one in active), reason=reason))
        asked = []
        for trial in active:
            try:
                run = run_state.look(self._home, self._home.rundir(trial.run_id).read_spec()).run
                answering = requests.request_stop(self._home, run, by="backprop sweep stop")
            except (FileNotFoundError, BackpropError):
                continue  # it has not begun, or has just ended
            asked.append((run, answering.grace_s + requests.STOP_MARGIN_S))
        return asked

    # -- the journal

    def _read(self) -> None:
        self.standing = fold_on(self.standing, self._journal.read_new())

    def _write(self, *entries: SweepEntry) -> None:
        """Synced when this returns. Raises OSError or ConfigError when it cannot be: the next tick decides anew."""
        if not self._journal.append(*entries):
            self._journal.drop_unwritten()
            raise self._home.unusable(OSError(28, os.strerror(28)))
        self._read()


def _began() -> Began:
    return Began(at=_now(), pid=os.getpid(), host=host.name())


def params_text(trial: TrialState) -> str:
    """The parameters of a trial in one line."""
    seed = [] if trial.repeats is None else [f"seed={trial.seed}"]
    return " ".join([*(f"{name}={text}" for name, text in trial.params.items()), *seed])


def start_advice(standing: Standing) -> str | None:
    """What to do where starts take much of the first rungs; None where they do not, or it is not known."""
    if standing.start is None:
        return None
    start_s, rung_s = standing.start
    if start_s <= SLOW_START * rung_s:
        return None
    longer = "a longer --rung" if standing.spec.rung_steps is None else "more --rung-steps"
    return (
        f"about {start_s:.2g} of the {rung_s:.2g} s of a first rung pass before the script begins to train; "
        f"with {longer}, less of the budget goes into starts"
    )


def _end_message(spec: SweepSpec, trial: TrialState) -> str:
    value = "no value" if trial.value is None else f"{spec.metric} {trial.value:.6g}"
    why = "" if trial.reason is None else f": {trial.reason}"
    status = "" if trial.status is None else f" {trial.status.value},"
    return f"trial {trial.number} rung {len(trial.values) - 1}{status} {value}{why}"


def _no_metric(spec: SweepSpec) -> str:
    steps = "" if spec.rung_steps is None else f" up to step {spec.rung_steps} (--rung-steps)"
    return f"no trial reported the metric {spec.metric!r} of the goal{steps}"


def _check_advice(problem: str) -> str:
    return (
        f"the script did not continue from its checkpoint: {problem}. Start another sweep with a longer first rung "
        "(--rung MINUTES), with the script's option for a checkpoint (--resume-arg FLAG), or with --from-scratch: "
        "then each rung trains from the beginning"
    )


def _now() -> datetime:
    return datetime.now(timezone.utc)
