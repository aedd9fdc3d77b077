"""How much each parameter of a sweep matters for its goal: shares that add up to 1. Pure.

Of all trials the value of the first rung, which all have, counts. With Optuna it is PED-ANOVA (Watanabe et al., IJCAI
2023), which asks what tells the best trials from the others. Without, the share of the variance of the values' ranks
that a parameter alone explains: the square of Spearman's correlation (1904) for numbers, of Fisher's correlation ratio
(1925) for words. Neither sees what only several parameters together explain.
"""

import importlib.util
from collections.abc import Mapping, Sequence
from statistics import fmean

from backprop.lifecycle.sweep import sampler
from backprop.lifecycle.sweep.space import Parameter
from backprop.lifecycle.sweep.standing import Standing, TrialState

LEAST_TRIALS = 10  # with fewer it would be chance


def importances(standing: Standing) -> dict[str, float] | None:
    """Share by parameter, greatest first; None where too few trials have a value, or there is one parameter."""
    parameters = standing.spec.parameters
    trials = [trial for trial in standing.searched if trial.values and trial.values[0] is not None]
    values = [trial.values[0] for trial in trials if trial.values[0] is not None]
    if len(parameters) < 2 or len(values) < LEAST_TRIALS or len(set(values)) == 1:
        return None
    if importlib.util.find_spec("optuna") is not None:
        found = sampler.importances(standing.spec, trials, values)
    else:
        found = by_ranks({one.name: _column(one, trials) for one in parameters}, values)
    return shares(found)


def _column(parameter: Parameter, trials: Sequence[TrialState]) -> list[float | str]:
    texts = [trial.params[parameter.name] for trial in trials]
    return list(texts) if parameter.choices else [float(text) for text in texts]


def shares(found: Mapping[str, float]) -> dict[str, float] | None:
    """The same as shares that add up to 1, greatest first; None where nothing matters."""
    total = sum(found.values())
    if not total > 0.0:
        return None
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return {name: round(share / total, 3) for name, share in ordered}


def by_ranks(columns: Mapping[str, Sequence[float | str]], values: Sequence[float]) -> dict[str, float]:
    """The share of the variance of the values' ranks that each column alone explains. All have the same length."""
    ranks = _ranks(values)
    return {name: _explained(column, ranks) for name, column in columns.items()}


def _explained(column: Sequence[float | str], ranks: Sequence[float]) -> float:
    mean = fmean(ranks)
    total = sum((rank - mean) ** 2 for rank in ranks)
    numbers = [value for value in column if not isinstance(value, str)]
    if len(numbers) < len(column):
        groups: dict[float | str, list[float]] = {value: [] for value in column}
        for value, rank in zip(column, ranks, strict=True):
            groups[value].append(rank)
        if len(groups) == len(column):
            return 0.0  # a text of its own for each, such as a folder, would explain everything
        return sum(len(some) * (fmean(some) - mean) ** 2 for some in groups.values()) / total
    others = _ranks(numbers)
    spread = sum((other - mean) ** 2 for other in others)
    common = sum((rank - mean) * (other - mean) for rank, other in zip(ranks, others, strict=True))
    return common**2 / (total * spread) if spread else 0.0


def _ranks(values: Sequence[float]) -> list[float]:
    """From 1; equals share the mean of theirs."""
    ordered = sorted(values)
    places: dict[float, list[int]] = {}
    for place, value in enumerate(ordered, start=1):
        places.setdefault(value, []).append(place)
    return [fmean(places[value]) for value in values]
