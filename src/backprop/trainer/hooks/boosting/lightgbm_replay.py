"""Takes a new LightGBM booster, which has the saved trees, through the rounds that are done.

LightGBM does not save its random state. For bagging and `feature_fraction` it is reproduced: their generators draw as
often as they would have, in rounds that grow no tree and use two features only (a thirtieth of a round's time, measured
with 60,000 rows of 50 features). Draws for nodes (`feature_fraction_bynode`, `extra_trees`), for gradients (GOSS,
quantised training) and for the trees that DART drops cannot be reproduced: those generators start over, as they do
without us (https://github.com/lightgbm-org/LightGBM/issues/6610).
"""
# ruff: noqa: SLF001  LightGBM's aliases of parameters are private

from __future__ import annotations

import sys
from typing import Any, Mapping

from .train_call import SavedCall

FIRST = -(1 << 30)  # order of a callback
_NEVER = 1e300  # no split has such a gain
_ALL = 1 - 1e-12  # all features, but still drawn at random


class ModelParameters:
    """The parameters that a model was trained with, from its text format."""

    def __init__(self, text: str) -> None:
        parameters = text.rpartition("\nparameters:")[2]
        self._values = dict(
            line.strip("[]").split(": ", 1) for line in parameters.splitlines() if line.startswith("[") and ": " in line
        )

    def number(self, name: str, otherwise: float) -> float:
        """The value of a parameter, to six digits."""
        try:
            return float(self._values[name])
        except (KeyError, ValueError):
            return otherwise

    @property
    def is_forest(self) -> bool:
        """Whether it is a random forest, whose trees do not build on one another."""
        return self._values.get("boosting") == "rf"

    @property
    def bagging_freq(self) -> int:
        """Rounds between two draws of a sample of rows; 0 if there is no bagging."""
        shares = ("bagging_fraction", "pos_bagging_fraction", "neg_bagging_fraction")
        return int(self.number("bagging_freq", 0)) if any(self.number(name, 1) < 1 for name in shares) else 0

    @property
    def samples_features(self) -> bool:
        """Whether each tree sees some of the features only."""
        return self.number("feature_fraction", 1) < 1

    @property
    def is_exact(self) -> bool:
        """Whether its random state can be reproduced."""
        return (
            self._values.get("boosting", "gbdt") == "gbdt"
            and self._values.get("data_sample_strategy", "bagging") == "bagging"
            and self.number("feature_fraction_bynode", 1) >= 1
            and not self.number("extra_trees", 0)
            and not self.number("use_quantized_grad", 0)
            and not self._values.get("forcedsplits_filename")
        )


class ReplayCallback:
    """A callback before each round, which suppresses training in rounds that are done. The first round is 0."""

    before_iteration = True

    def __init__(self, saved: SavedCall, *, trains_on: bool) -> None:
        """trains_on: whether rounds are missing, so that random states matter."""
        self.order = FIRST
        self._saved = saved
        self._trains_on = trains_on
        self._state = ModelParameters(saved.model.decode())
        self._resets = 0  # of parameters, by schedules

    def __call__(self, env: Any) -> None:
        """As LightGBM calls it: wraps the booster before round 0, then only notes the round."""
        if env.iteration == 0:
            self._begin(env.model, env.params)
        self._round = env.iteration

    def _begin(self, booster: Any, params: Mapping[str, Any]) -> None:
        self._params = dict(booster.params)
        self._given = {
            name: given(params, name, otherwise)
            for name, otherwise in (("feature_fraction", 1.0), ("min_gain_to_split", 0.0), ("verbosity", 1))
        }
        self._given["feature_fraction_seed"] = int(self._state.number("feature_fraction_seed", 2))
        if self._needs_draws:
            aside = {"feature_fraction": 1e-9, "min_gain_to_split": _NEVER, "verbosity": -1}
            booster.reset_parameter({**aside, "feature_fraction_seed": self._given["feature_fraction_seed"] ^ 1})
        self._reset, self._update = booster.reset_parameter, booster.update
        booster.reset_parameter = self._count_reset
        booster.update = self._draw
        booster.eval_train = lambda *_: []
        booster.eval_valid = self._evaluations

    @property
    def _needs_draws(self) -> bool:
        return (
            self._trains_on and self._state.is_exact and bool(self._state.bagging_freq or self._state.samples_features)
        )

    def _count_reset(self, params: Mapping[str, Any]) -> Any:
        self._resets += 1
        self._params.update(params)
        return self._reset(params)

    def _draw(self, *args: Any, **kwargs: Any) -> bool:
        """Replaces a round's training: draws a sample of rows if that round did."""
        freq = self._state.bagging_freq
        if self._needs_draws and freq and self._round % freq == 0:
            self._update(*args, **kwargs)
        return False

    def _evaluations(self, *_: Any) -> list[Any]:
        results = self._saved.evaluations[self._round]
        kind = getattr(sys.modules["lightgbm.basic"], "EvalResult", None)  # since 4.7; tuples before
        return [tuple(result) if kind is None else kind(*result) for result in results]

    def end(self, booster: Any) -> None:
        """After the last round that is done: the booster trains from now on."""
        for name in ("reset_parameter", "update", "eval_train", "eval_valid"):
            del vars(booster)[name]
        if not self._needs_draws:
            return
        # without feature sampling, the last two features stay in use unless all are drawn once: ColSampler::SetConfig
        if not self._state.samples_features:
            booster.reset_parameter({"feature_fraction": _ALL})
        # a changed seed restarts its generator, which draws once, as for a new booster
        booster.reset_parameter(self._given)
        if self._state.samples_features:
            # each tree and each change of a parameter draws once
            for _ in range(self._resets + self._saved.rounds * booster.num_model_per_iteration()):
                booster.reset_parameter({"verbosity": self._given["verbosity"]})
        booster.params = self._params


def given(params: Mapping[str, Any], name: str, otherwise: Any) -> Any:
    """The value of a parameter that was passed under any of its names."""
    return next((params[alias] for alias in names_of(name) if params.get(alias) is not None), otherwise)


def names_of(parameter: str) -> tuple[str, ...]:
    """All names of a parameter, the main one first."""
    return (parameter, *sorted(sys.modules["lightgbm.basic"]._ConfigAliases.get(parameter)))
