"""What comes next in a sweep, by its journal, its budget and the clock. Pure."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from backprop.lifecycle.sweep import rule
from backprop.lifecycle.sweep.rule import Budget, Finish, Promote, Repeat, StartTrial, Wait
from backprop.lifecycle.sweep.spec import SweepSpec
from backprop.lifecycle.sweep.standing import Standing, TrialState, budget_of, run_trained_s
from backprop.records import Run, Status

CONFIRMED_SHARE = 1 / 3  # of the budget, to repeat the best trials


def next_action(
    standing: Standing, budget: Budget, now: datetime, *, has_proposals: bool
) -> StartTrial | Promote | Finish | Repeat | None:
    """What to start; None: nothing before a session ends."""
    spec, rules = standing.spec, standing.rules
    if standing.planned is not None:
        if standing.planned:
            return standing.planned[0] if len(standing.active) < spec.parallel else None
        return None if standing.active else Finish(reason="all repeats are trained")
    needs_check = not (standing.is_checked or spec.from_scratch)
    if needs_check and standing.active:
        return None
    longest_s = _longest_s(spec, now)
    if longest_s < rule.LEAST_SHARE * rules.duration_s(0):
        return (
            None
            if standing.active
            else Finish(reason=f"no session would end before {spec.until and f'{spec.until.astimezone():%H:%M}'}")
        )
    of_search = msgspec.structs.replace(budget, total_s=_given_s(standing))
    within = _within(of_search, longest_s * spec.parallel)
    action = rule.decide(rules, standing.candidates, within, has_proposals=has_proposals)
    if isinstance(action, Wait):
        return None
    if isinstance(action, Finish):
        return action
    timebox_s, until_step = min(action.timebox_s, longest_s), action.until_step
    if isinstance(action, StartTrial) and needs_check:
        timebox_s /= 2  # the other half shows whether it continues
        until_step = until_step and until_step // 2
    return msgspec.structs.replace(action, timebox_s=timebox_s, until_step=until_step)


def repeats(standing: Standing, budget: Budget, now: datetime) -> tuple[Repeat, ...]:
    """What is trained once more when the search is over; empty where nothing is wanted, or left for it."""
    spec, confirm = standing.spec, standing.spec.confirm
    if confirm is None:
        return ()
    return rule.repeats(
        standing.rules,
        standing.candidates,
        _within(budget, _longest_s(spec, now) * spec.parallel),
        top=confirm.top,
        seeds=confirm.seeds,
        trained_s=max((_length_s(standing, trial) for trial in standing.ranked[: confirm.top]), default=0.0),
    )


def left_for(standing: Standing, trial: TrialState, runs: Mapping[int, Run], now: datetime) -> float:
    """What another session of an active trial may take instead of its newest: of the budget, and until --until.

    runs: of the active trials that have one.
    """
    run = runs.get(trial.number)
    trained_s = trial.trained_s if run is None else max(trial.trained_s, run_trained_s(run))
    idle = msgspec.structs.replace(trial, is_active=False, trained_s=trained_s)
    others = msgspec.structs.replace(
        standing, trials=tuple(idle if one.number == trial.number else one for one in standing.trials)
    )
    planned_s = sum(one.timebox_s for one in standing.planned or ())
    return min(budget_of(others, runs, _given_s(standing)).left_s - planned_s, _longest_s(standing.spec, now))


def is_over(spec: SweepSpec, now: datetime) -> bool:
    """Whether --until has come."""
    return _longest_s(spec, now) <= 0


def _given_s(standing: Standing) -> float:
    """The budget of the search, until that is over; then all of it."""
    is_kept = standing.spec.confirm is not None and standing.planned is None
    return standing.spec.budget_s * (1 - CONFIRMED_SHARE if is_kept else 1)


def _longest_s(spec: SweepSpec, now: datetime) -> float:
    """How long a session may take by the clock."""
    return float("inf") if spec.until is None else (spec.until - now).total_seconds()


def _length_s(standing: Standing, trial: TrialState) -> float:
    """How long the same training may take: of one that completed early, as long as it might have taken."""
    rules = standing.rules
    if rules.rung_steps is not None:
        pace_s = trial.for_rule(rules).pace_s
        return rules.duration_s(len(trial.values) - 1, pace_s) if rules.is_anew else trial.trained_s
    rungs_s = sum(rules.duration_s(rung) for rung in range(len(trial.values)))
    return rungs_s if trial.status is Status.COMPLETED else trial.trained_s


def _within(budget: Budget, left_s: float) -> Budget:
    """The budget with no more than this left."""
    return msgspec.structs.replace(budget, total_s=min(budget.total_s, budget.spent_s + budget.committed_s + left_s))
