"""Proposes the parameters of the next trial, from all that is known of the others.

`random` and `grid` need no library. The others are Optuna's. A study lives in memory for one proposal: it is rebuilt
from the journal, so that a proposal depends on the seed and on what the journal holds, and a killed sweeper loses none.
"""

import random
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from backprop.errors import UsageError
from backprop.lifecycle import optional_dependency
from backprop.lifecycle.sweep.journal import Added
from backprop.lifecycle.sweep.space import Parameter, grid
from backprop.lifecycle.sweep.spec import SweepSpec
from backprop.lifecycle.sweep.standing import Standing, TrialState
from backprop.records import Goal, Status
from backprop.store.output.protocol import json_safe

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

SAMPLERS = ("tpe", "random", "grid", "gp", "cmaes")
_EXTRAS = {"tpe": "sweep", "gp": "gp", "cmaes": "sweep"}  # of pyproject.toml: those of Optuna, and what they need
_WARM_UP = 10  # trials at random, before a model proposes any


class Proposal(NamedTuple):
    """The parameters of a trial, as they are passed to the script."""

    params: Mapping[str, str]
    source: str
    attrs: Mapping[str, Any] = {}  # what the sampler wants to find with the trial later
    note: str | None = None


def check(sampler: str, parameters: Sequence[Parameter]) -> None:
    """Raise UsageError where the sampler cannot be used: a library is missing, or it cannot search these parameters."""
    if sampler == "grid":
        grid(parameters)
    if sampler in _EXTRAS:
        try:
            _import_libraries(sampler)
        except ImportError as error:
            raise optional_dependency.missing(_EXTRAS[sampler], error) from error
    if sampler == "cmaes" and sum(not one.choices for one in parameters) < 2:
        raise UsageError("--sampler cmaes needs at least two ranges of numbers; use tpe.")


def _import_libraries(sampler: str) -> None:
    """Optuna, and what it imports itself only when it proposes."""
    import optuna  # noqa: F401

    if sampler == "cmaes":
        import cmaes  # noqa: F401
    if sampler == "gp":
        import scipy  # noqa: F401
        import torch  # noqa: F401


def propose(standing: Standing) -> Proposal | None:
    """The next trial: what a user added, else what the sampler proposes; None: nothing is left to try.

    Depends on nothing but the journal and the seed.
    """
    if standing.added:
        return _added(standing, standing.added[0])
    spec = standing.spec
    number = len(standing.trials)
    if spec.sampler == "grid":
        taken = {tuple(sorted(trial.params.items())) for trial in standing.searched}
        free = (one for one in grid(spec.parameters) if tuple(sorted(one.items())) not in taken)
        found = next(free, None)
        return None if found is None else Proposal(params=found, source="grid")
    if spec.sampler == "random":
        return _random(spec, number)
    return _of_optuna(standing, number)


def _added(standing: Standing, added: Added) -> Proposal:
    """What a user added, with what the sampler proposes for the parameters that were left open."""
    spec, params = standing.spec, added.params
    if len(params) < len(spec.parameters):
        others = propose(msgspec.structs.replace(standing, added=())) or _random(spec, len(standing.trials))
        params = {**others.params, **params}
    return Proposal(params=params, source="added", note=added.note)


def _random(spec: SweepSpec, number: int) -> Proposal:
    rng = random.Random(f"{spec.seed} {number}")  # noqa: S311  no secret
    return Proposal(params={one.name: one.sample(rng) for one in spec.parameters}, source="random")


def _of_optuna(standing: Standing, number: int) -> Proposal:
    import optuna

    spec = standing.spec
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its experimental parts
        sampler = _sampler(spec, number)
        study = optuna.create_study(direction="maximize" if spec.goal is Goal.MAX else "minimize", sampler=sampler)
        space = {one.name: _distribution(one) for one in spec.parameters}
        study.add_trials([_frozen(spec, trial, space) for trial in standing.searched])
        trial = study.ask(space)
        found = trial.study._storage.get_trial(trial._trial_id)  # noqa: SLF001  its attributes have no other way out
    texts = {one.name: one.text(value) if not one.choices else value for one, value in _pairs(spec, trial.params)}
    return Proposal(params=texts, source=spec.sampler, attrs=json_safe(found.system_attrs))


def _pairs(spec: SweepSpec, params: Mapping[str, Any]) -> list[tuple[Parameter, Any]]:
    return [(one, params[one.name]) for one in spec.parameters]


def _sampler(spec: SweepSpec, number: int) -> "BaseSampler":
    """Seeded for one proposal: another one of the same sweep draws other numbers."""
    import optuna

    seed = random.Random(f"{spec.seed} {number}").randrange(2**31)  # noqa: S311
    if spec.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=_WARM_UP)
    if spec.sampler == "cmaes":
        return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=1)
    return optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=_WARM_UP, multivariate=True, group=False, constant_liar=spec.parallel > 1
    )


def _distribution(parameter: Parameter) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.choices:
        return CategoricalDistribution(parameter.choices)
    if parameter.is_integer:
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.is_log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.is_log)


def importances(spec: SweepSpec, trials: Sequence[TrialState], values: Sequence[float]) -> dict[str, float]:
    """How much each parameter matters, by Optuna's PED-ANOVA. values: of the trials. Raises ImportError."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = {one.name: _distribution(one) for one in spec.parameters}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its experimental parts
        study = optuna.create_study(direction="maximize" if spec.goal is Goal.MAX else "minimize")
        study.add_trials(
            [
                optuna.trial.create_trial(value=value, params=_typed(spec, trial), distributions=dict(space))
                for trial, value in zip(trials, values, strict=True)
            ]
        )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _typed(spec: SweepSpec, trial: TrialState) -> dict[str, Any]:
    """The parameters of a trial as Optuna knows them."""
    kinds = {one.name: one for one in spec.parameters}
    return {
        name: text if kinds[name].choices else int(float(text)) if kinds[name].is_integer else float(text)
        for name, text in trial.params.items()
        if name in kinds
    }


def _frozen(spec: SweepSpec, trial: TrialState, space: "Mapping[str, BaseDistribution]") -> "FrozenTrial":
    """A trial as Optuna knows it: complete after the last rung, else pruned where it stands.

    gp and cmaes learn from values alone, whatever the rung: they are given that of the first, which all have.
    """
    import optuna
    from optuna.trial import TrialState as State

    values = {rung: value for rung, value in enumerate(trial.values) if value is not None}
    state, value = State.RUNNING, None
    if spec.sampler in {"gp", "cmaes"} and values:
        state, value = State.COMPLETE, values[min(values)]
    elif not trial.is_active and trial.values:
        is_whole = len(trial.values) == spec.max_rungs or trial.status is Status.COMPLETED
        value = trial.value if is_whole else None
        state = State.FAIL if trial.value is None else State.COMPLETE if is_whole else State.PRUNED
    elif values:  # promoted, and training again
        state = State.PRUNED
    return optuna.trial.create_trial(
        state=state,
        value=value,
        params=_typed(spec, trial),
        distributions=dict(space),
        system_attrs=dict(trial.attrs),
        intermediate_values=values,
    )
