"""Who trains next in a sweep: asynchronous successive halving within a budget. Pure.

A rung is one session of a trial; rung k lasts `eta` times as long as the one before, or ends at `eta` times its step. A
trial is promoted as soon as it is among the best 1/eta of those that finished its rung, so no slot waits for a
straggler. Source: Li et al., A System for Massively Parallel Hyperparameter Tuning (ASHA), MLSys 2020, algorithm 2.

Beyond that algorithm, the last part of the budget trains the best trial on, rather than start trials that nothing is
left for, and a trial that was passed over is promoted later, when nothing better is left.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from backprop.lifecycle.significance import Verdict, judge, with_lost_runs
from backprop.records import Goal, Record, StoredRecord, in_minutes

LEAST_SHARE = 0.5  # of the first rung: a shorter session would tell nothing
_SPARE = 2.0  # the timebox of a promoted trial that is to end at a step: so many times what it is expected to take
_SLOW_START_S = 10.0  # plus this, or a first rung if that is shorter: a start may take seconds longer than the last one


class Rules(Record, frozen=True):
    """How a sweep halves."""

    goal: Goal
    rung_s: float  # of the first rung; where rungs end at a step, the most that it may take
    eta: float  # above 1
    max_rungs: int
    parallel: int
    rung_steps: int | None = None  # the step that the first rung ends at; None: rungs end by time
    usual_s: float | None = None  # what so many steps took in most trials; None: not known, or rungs end by time
    is_anew: bool = False  # each rung trains from the beginning

    def until_step(self, rung: int) -> int | None:
        """The step that a rung, counted from 0, ends at; None: it ends by time."""
        return None if self.rung_steps is None else round(self.rung_steps * self.eta**rung)

    def size(self, rung: int) -> float:
        """How many times as much as in the first rung is trained in this one."""
        was_trained = self.rung_steps is not None and rung > 0 and not self.is_anew
        return self.eta**rung - (self.eta ** (rung - 1) if was_trained else 0.0)

    def duration_s(self, rung: int, pace_s: float | None = None) -> float:
        """How long a rung lasts, or may be expected to. pace_s: see `Trial`."""
        return (pace_s or self.usual_s or self.rung_s) * self.size(rung)

    def timebox_s(self, rung: int, pace_s: float | None = None) -> float:
        """What a session of this rung may take."""
        if self.rung_steps is None:
            return self.duration_s(rung)
        if rung == 0:
            return self.rung_s
        spare_s = _SPARE * self.duration_s(rung, pace_s) + min(_SLOW_START_S, self.rung_s)
        return min(spare_s, self.rung_s * self.size(rung))

    def order(self, value: float | None) -> float:
        """Smaller is better; None is worst."""
        if value is None or math.isnan(value):
            return math.inf
        return -value if self.goal is Goal.MAX else value


class Trial(Record, frozen=True):
    """One choice of parameters, as far as it was trained."""

    number: int
    values: tuple[float | None, ...] = ()  # after each finished rung; None: failed, not finite, or not reported
    active_rung: int | None = None  # queued or training
    can_resume: bool = True  # False: it completed or failed, or its checkpoint is gone
    pace_s: float | None = None  # for as many steps as the first rung has; None: not known, or rungs end by time

    @property
    def value(self) -> float | None:
        """After its last finished rung."""
        return self.values[-1] if self.values else None


class Budget(Record, frozen=True):
    """Seconds of training of all runs of a sweep."""

    total_s: float
    spent_s: float = 0.0  # by sessions that have ended
    committed_s: float = 0.0  # to those that are queued or training: their timeboxes

    @property
    def left_s(self) -> float:
        """What may still be given away."""
        return self.total_s - self.spent_s - self.committed_s


class StartTrial(Record, frozen=True):
    """Train new parameters for the first rung."""

    timebox_s: float
    until_step: int | None = None  # where rungs end at a step


class Promote(Record, frozen=True):
    """Train a trial on for another rung."""

    trial: int
    rung: int
    timebox_s: float
    reason: str
    until_step: int | None = None


class Wait(Record, frozen=True):
    """Nothing to start before a session ends."""


class Finish(Record, frozen=True):
    """Nothing to start any more, and nothing is active."""

    reason: str


Action = StartTrial | Promote | Wait | Finish


def decide(rules: Rules, trials: Sequence[Trial], budget: Budget, *, has_proposals: bool) -> Action:
    """What to do next. To be called again after each action, until it says Wait or Finish.

    has_proposals: whether there are parameters that no trial has yet; a grid has an end.
    """
    active = sum(trial.active_rung is not None for trial in trials)
    if active >= rules.parallel:
        return Wait()
    if budget.left_s < LEAST_SHARE * rules.duration_s(0):
        return Wait() if active else Finish(reason="the budget is used up")
    chosen = _among_the_best(rules, trials)
    if chosen is not None:
        return _promotion(rules, chosen, budget, f"among the best 1/{rules.eta:g} of its rung")
    best = next((trial for trial in ranked(rules, trials) if _can_continue(rules, trial)), None)
    if best is not None and _is_last_part(rules, best, budget):
        return _promotion(rules, best, budget, "the last part of the budget trains the best trial on")
    if has_proposals:
        return StartTrial(timebox_s=min(rules.timebox_s(0), budget.left_s), until_step=rules.until_step(0))
    if best is not None:
        return _promotion(rules, best, budget, "the best that is left")
    return Wait() if active else Finish(reason="every trial was trained as far as possible")


def ranked(rules: Rules, trials: Sequence[Trial]) -> list[Trial]:
    """The trials that have a value, best first; between equals the earlier one."""
    return sorted(
        (trial for trial in trials if trial.value is not None),
        key=lambda trial: (rules.order(trial.value), trial.number),
    )


def _among_the_best(rules: Rules, trials: Sequence[Trial]) -> Trial | None:
    """The trial to promote by the halving, from the highest rung that has one."""
    for rung in reversed(range(rules.max_rungs - 1)):
        done = [trial for trial in trials if len(trial.values) > rung]
        done.sort(key=lambda trial: (rules.order(trial.values[rung]), trial.number))
        for trial in done[: int(len(done) / rules.eta)]:
            if len(trial.values) == rung + 1 and _can_continue(rules, trial):
                return trial
    return None


def _can_continue(rules: Rules, trial: Trial) -> bool:
    return (
        trial.can_resume
        and trial.active_rung is None
        and trial.value is not None
        and len(trial.values) < rules.max_rungs
    )


def _is_last_part(rules: Rules, best: Trial, budget: Budget) -> bool:
    """Whether another new trial would take what the best trial's next rung needs: that gets at most 1/eta of it all."""
    kept_s = min(rules.duration_s(len(best.values), best.pace_s), budget.total_s / rules.eta)
    return budget.left_s - rules.duration_s(0) < kept_s


def _promotion(rules: Rules, trial: Trial, budget: Budget, reason: str) -> Promote:
    rung = len(trial.values)
    if budget.left_s < rules.duration_s(rung, trial.pace_s):
        reason = f"{reason} · shortened to the {in_minutes(budget.left_s)} that are left"
    return Promote(
        trial=trial.number,
        rung=rung,
        timebox_s=min(rules.timebox_s(rung, trial.pace_s), budget.left_s),
        reason=reason,
        until_step=rules.until_step(rung),
    )


class Repeat(StoredRecord, frozen=True):
    """A trial to be trained anew with a seed, when the search is over."""

    trial: int
    seed: int
    timebox_s: float
    until_step: int | None = None  # where rungs are counted in steps


def repeats(
    rules: Rules, trials: Sequence[Trial], budget: Budget, *, top: int, seeds: int, trained_s: float
) -> tuple[Repeat, ...]:
    """The best trials, each with the seeds 1, 2, ...: all for equally long. Empty if the budget is too small for that.

    trained_s: how long the one of them that was trained longest was; none is repeated for longer. Where rungs end at a
    step, all are trained to the same step: that of the highest of their rungs, or as far as the budget allows.
    """
    best = ranked(rules, trials)[:top]
    if not best or not trained_s:
        return ()
    share_s = budget.left_s / (len(best) * seeds)
    length_s = min(trained_s, share_s)
    if length_s < LEAST_SHARE * rules.duration_s(0):
        return ()
    steps = rules.until_step(max(len(trial.values) for trial in best) - 1)
    return tuple(
        Repeat(
            trial=trial.number,
            seed=seed,
            timebox_s=length_s if steps is None else share_s,
            until_step=None if steps is None else max(1, int(steps * length_s / trained_s)),
        )
        for seed in range(1, seeds + 1)
        for trial in best
    )


class Repeated(Record, frozen=True):
    """A trial's values over seeds."""

    trial: int
    values: Mapping[int, float | None]  # by seed, of those that have ended; None: it failed

    @property
    def finite(self) -> list[float]:
        """Those that there are."""
        return [value for value in self.values.values() if value is not None]

    @property
    def mean(self) -> float | None:
        """None without a value."""
        return fmean(self.finite) if self.finite else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation; None below two values."""
        return stdev(self.finite) if len(self.finite) > 1 else None


def ranked_repeats(rules: Rules, repeated: Sequence[Repeated]) -> list[Repeated]:
    """Best mean first; a trial of which a seed failed comes after those of which none did."""
    return sorted(repeated, key=lambda one: (len(one.finite) < len(one.values), rules.order(one.mean), one.trial))


def ties(rules: Rules, repeated: Sequence[Repeated]) -> list[int]:
    """The trials that the repeats do not tell from the best, by the same test as `backprop verdict`; best first."""
    values = [{str(seed): value for seed, value in one.values.items() if value is not None} for one in repeated]
    lost = [len(one.values) - len(one.finite) for one in repeated]
    judgements = judge(values[0], values[1:], is_max=rules.goal is Goal.MAX, margin=0.0) if values else []
    found = []
    for one, judgement, lost_here in zip(repeated[1:], judgements, lost[1:], strict=True):
        fair = with_lost_runs(judgement, baseline_lost=lost[0], candidate_lost=lost_here)
        if fair.verdict in {Verdict.TIE, Verdict.UNDECIDED}:
            found.append(one.trial)
    return found
