"""python -m bench.sweeps.simulation [--seeds N]: the same searches on made-up trainings, by a clock of their own.

The decisions are the real ones: the sweep's rule, journal and sampler, and Optuna's study. What a training comes to is
a formula, and how long it takes is given. So it shows what a sweep is worth at any cost of a start, whatever else the
machine does.
"""

import argparse
import heapq
import math
import statistics
import warnings
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from typing import Any

import numpy as np

from backprop.lifecycle.sweep import rule, sampler
from backprop.lifecycle.sweep.journal import Asked, Ended, Promoted
from backprop.lifecycle.sweep.space import parse_parameters
from backprop.lifecycle.sweep.spec import SweepSpec
from backprop.lifecycle.sweep.standing import fold, fold_on
from backprop.records import Goal, Status
from bench.sweeps.tasks import ETA, RUNGS, WORKERS

NAMES = tuple(f"p{number}" for number in range(6))
EVALUATIONS = 27  # of a whole training
BUDGETS = (6, 20)  # whole trainings
STARTS = (0.02, 0.1, 0.2, 0.4)  # of a whole training
NOISE = 0.01
_LONG_S = 1e9


class World:
    """Trainings whose lowest loss is 0.1, at parameters between 0 and 1 that differ between seeds."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.seed = seed
        self._optimum = random.uniform(0.1, 0.9, len(NAMES))
        weights = random.exponential(1, len(NAMES))
        self._weights = 4 * weights / weights.sum()

    def final(self, values: list[float]) -> float:
        """What a training with these parameters comes to."""
        return 0.1 + float((self._weights * (np.array(values) - self._optimum) ** 2).sum())

    def loss(self, values: list[float], evaluation: int) -> float:
        """After so many evaluations of it. The first parameter also says how soon it comes down."""
        pace = 10 * math.exp(2 * (values[0] - 0.5))
        noise = np.random.default_rng([self.seed, evaluation, *(int(value * 1e6) for value in values)]).normal()
        return self.final(values) + 2 * math.exp(-pace * evaluation / EVALUATIONS) + NOISE * float(noise)

    def lowest(self, values: list[float], evaluations: int) -> float:
        return min(self.loss(values, evaluation) for evaluation in range(1, evaluations + 1))


def sweep(world: World, budget: float, start: float) -> float:
    """What the choice of `backprop sweep` comes to."""
    spec = SweepSpec(
        id="simulate",
        name="simulation",
        script="train.py",
        cwd="/",
        created_at=_NOW,
        user="nobody",
        metric="loss",
        goal=Goal.MIN,
        parameters=parse_parameters([f"{name}=0.0..1.0" for name in NAMES]),
        budget_s=_LONG_S,
        rung_s=_LONG_S,
        rung_steps=round(EVALUATIONS / ETA ** (RUNGS - 1)),
        parallel=WORKERS,
        eta=ETA,
        max_rungs=RUNGS,
        sampler="tpe",
        seed=world.seed,
    )
    standing, now = fold(spec, ()), 0.0
    sessions: list[tuple[float, int, int, int]] = []  # end, trial, rung, evaluations by then
    tried: list[list[float]] = []
    while True:
        while len(sessions) < WORKERS:
            action = rule.decide(standing.rules, standing.candidates, rule.Budget(total_s=_LONG_S), has_proposals=True)
            if isinstance(action, rule.StartTrial):
                proposal = sampler.propose(standing)
                assert proposal is not None  # only a grid has an end
                number, rung, before = len(tried), 0, 0
                tried.append([float(proposal.params[name]) for name in NAMES])
                entry: Any = Asked(
                    at=_NOW,
                    trial=number,
                    run_id="",
                    params=proposal.params,
                    source="tpe",
                    timebox_s=1,
                    attrs=proposal.attrs,
                )
            elif isinstance(action, rule.Promote):
                number, rung, before = action.trial, action.rung, spec.rules.until_step(action.rung - 1) or 0
                entry = Promoted(at=_NOW, trial=number, rung=rung, request_id="", timebox_s=1, reason="")
            else:
                break
            standing = fold_on(standing, [entry])
            until = action.until_step or 0
            # the first trial is started twice, to see whether it continues
            length = start * (2 if not standing.trials[1:] and rung == 0 else 1) + (until - before) / EVALUATIONS
            heapq.heappush(sessions, (now + length, number, rung, until))
        now, number, rung, until = heapq.heappop(sessions)
        if now > budget / WORKERS:
            return world.final(tried[standing.best.number]) if standing.best else math.inf
        ended = Ended(
            at=_NOW,
            trial=number,
            rung=rung,
            status=Status.TIMEBOXED,
            value=world.lowest(tried[number], until),
            has_metric=True,
            can_resume=True,
            trained_s=1.0,
        )
        standing = fold_on(standing, [ended])


def optuna_search(world: World, budget: float, start: float, *, is_tpe: bool, is_halving: bool) -> float:
    """The same of Optuna, whose workers start once."""
    import optuna

    samplers, pruners = optuna.samplers, optuna.pruners
    study = optuna.create_study(
        sampler=samplers.TPESampler(seed=world.seed, constant_liar=True)
        if is_tpe
        else samplers.RandomSampler(seed=world.seed),
        pruner=pruners.SuccessiveHalvingPruner(min_resource=EVALUATIONS // ETA ** (RUNGS - 1), reduction_factor=ETA)
        if is_halving
        else pruners.NopPruner(),
    )
    found: dict[int, tuple[float, list[float]]] = {}  # lowest loss so far, parameters
    evaluations: list[tuple[float, int, int, Any]] = []  # end, trial, number

    def begin(now: float) -> None:
        trial = study.ask()
        found[trial.number] = math.inf, [trial.suggest_float(name, 0, 1) for name in NAMES]
        heapq.heappush(evaluations, (now + 1 / EVALUATIONS, trial.number, 1, trial))

    for _ in range(WORKERS):
        begin(start)
    while True:
        now, number, evaluation, trial = heapq.heappop(evaluations)
        if now > budget / WORKERS:
            return world.final(min(found.values())[1])
        lowest, values = found[number]
        loss = world.loss(values, evaluation)
        found[number] = min(lowest, loss), values
        trial.report(loss, evaluation)
        if evaluation == EVALUATIONS:
            study.tell(trial, found[number][0])
            begin(now)
        elif trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            begin(now)
        else:
            heapq.heappush(evaluations, (now + 1 / EVALUATIONS, number, evaluation + 1, trial))


METHODS: dict[str, Callable[[World, float, float], float]] = {
    "backprop": sweep,
    "random": partial(optuna_search, is_tpe=False, is_halving=False),
    "tpe": partial(optuna_search, is_tpe=True, is_halving=False),
    "optuna-asha": partial(optuna_search, is_tpe=True, is_halving=True),
}
_NOW = datetime.now(timezone.utc)


def main() -> None:
    import optuna

    parser = argparse.ArgumentParser(prog="python -m bench.sweeps.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=30)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")  # of Optuna's experimental parts
    print(f"| budget, in whole trainings | a start, of a whole training | {' | '.join(METHODS)} |")
    print(f"|{' --- |' * (2 + len(METHODS))}", flush=True)
    for budget in BUDGETS:
        for start in STARTS:
            losses = {
                name: [search(World(seed), budget, start) for seed in range(arguments.seeds)]
                for name, search in METHODS.items()
            }
            ours = losses["backprop"]
            cells = [
                f"{statistics.median(theirs):.3f}"
                + ("" if theirs is ours else f" ({sum(a < b for a, b in zip(ours, theirs, strict=True))})")
                for theirs in losses.values()
            ]
            print(f"| {budget} | {start:.0%} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
