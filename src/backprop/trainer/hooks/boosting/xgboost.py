"""XGBoost: every call of `train()`, by the script or by the scikit-learn classes.

Written against XGBoost 3.2; `xgboost.training.train` and `CallbackContainer`, which are hooked, exist since 1.3.

Not exact with sampling (`subsample`, `colsample_*`, DART): XGBoost keeps its random state in a thread-local engine and
in the column sampler, which can neither be saved nor set (src/learner.cc, `GlobalRandom().seed(ctx_.seed)` when a
booster is configured; src/common/random.h, `ColumnSampler`; https://github.com/dmlc/xgboost/issues/10324). By itself it
would draw the samples of the first rounds again; here the seed is changed instead.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from contextlib import suppress
from functools import wraps
from typing import Any, Mapping, Optional, Sequence

from ...failsafe import guarded
from . import train_call as boosting
from .train_call import TrainCall

_LIBRARY = "xgboost"
# library callbacks that depend only on evaluations and on these settings
_REPLAYED = {
    "EarlyStopping": ("rounds", "metric_name", "data", "save_best", "_min_delta"),
    "LearningRateScheduler": (),
}
_SAMPLING = ("subsample", "colsample_bytree", "colsample_bylevel", "colsample_bynode")
_SEED = ("seed", "random_state")
# arguments about how a training is observed or executed, not what is trained
_NOT_IDENTITY = (
    *("params", "dtrain", "evals_result", "num_boost_round", "verbose_eval"),
    *("nthread", "n_jobs", "verbosity", "silent", "device", "gpu_id", "predictor", "validate_parameters"),
)
_ROWS_SAMPLED = 64
_PRIME = 1_000_003  # keeps the seeds of neighbouring rounds far apart

_begun: Optional[TrainCall] = None  # a call of train() whose loop has not begun yet


def hook(training: Any) -> None:
    """Hook the module xgboost.training, before anybody has imported `train` from it."""
    original = training.train
    signature = _by_position(inspect.signature(original))

    @wraps(original)
    def train(*args: Any, **kwargs: Any) -> Any:
        global _begun  # noqa: PLW0603  the callback container is created deep inside
        call = boosting.begin(_LIBRARY, "ubj")
        if call is None:
            return original(*args, **kwargs)
        with call.link.training(_LIBRARY, "round") as is_ours:
            if not is_ours:  # a booster that is trained by a callback of another one
                return original(*args, **kwargs)
            _begun = call
            try:
                continued = _continued(call, signature, args, kwargs)
                return original(*args, **kwargs) if continued is None else original(**continued)
            finally:
                _begun = None

    training.train = train
    training.CallbackContainer = _container(training.CallbackContainer)


def _by_position(signature: inspect.Signature) -> inspect.Signature:
    """The same, where any argument may be given by position: XGBoost warns of that, and takes it."""
    parameters = [
        one.replace(kind=one.POSITIONAL_OR_KEYWORD) if one.kind is one.KEYWORD_ONLY else one
        for one in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters)


@guarded(_LIBRARY)
def _continued(call: TrainCall, signature: Any, args: Any, kwargs: Any) -> Optional[dict[str, Any]]:
    """The arguments of a call that continues; None for a call that begins as it is."""
    arguments: dict[str, Any] = dict(signature.bind(*args, **kwargs).arguments)
    call.total = arguments.get("num_boost_round", signature.parameters["num_boost_round"].default)
    is_begun = arguments.get("xgb_model") is not None
    evals = [pair for pair in arguments.get("evals") or () if len(pair) == 2]
    call.identify(
        {
            **dict(arguments["params"]),
            **arguments,
            "callbacks": boosting.settings(arguments.get("callbacks") or (), _REPLAYED, _is_replayed),
            "evals": [str(name) for _, name in evals],
            "xgb_model": is_begun,
        },
        _NOT_IDENTITY,
        [_content(each) for each in (arguments["dtrain"], *(data for data, _ in evals))],
    )
    if is_begun:
        return None  # the script itself has chosen where to begin
    call.look_for_checkpoint()
    if call.saved is None:
        return None
    if call.is_finished_earlier:
        call.notify_finished_earlier()
        return {**arguments, "xgb_model": bytearray(call.saved.model)}
    doubt = ""
    if _samples(dict(arguments["params"])):
        doubt = ", with other samples than without the interruption: XGBoost does not save its random state"
        arguments["params"] = _with_moved_seed(arguments["params"], call.done)
    call.notify(f"continues after round {call.done}{doubt}")
    return {**arguments, "xgb_model": bytearray(call.saved.model)}


def _content(data: Any) -> Any:
    """What identifies a DMatrix: its shape, and checksums of all labels and of a few rows."""
    features: Any = None
    with suppress(Exception):  # some kinds give no access to rows
        if hasattr(data, "ref"):  # a QuantileDMatrix
            features = [boosting.checksum(part) for part in data.get_quantile_cut()]
        else:
            count = data.num_row()
            rows = sorted({row * (count - 1) // (_ROWS_SAMPLED - 1) for row in range(_ROWS_SAMPLED)})
            sample = data.slice(rows, allow_groups=True).get_data()
            features = [boosting.checksum(part) for part in (sample.data, sample.indices, sample.indptr)]
    own = [_of_each_row(data, name) for name in ("get_label", "get_weight", "get_base_margin", "get_group")]
    return [(data.num_row(), data.num_col()), data.feature_names, data.feature_types, features, own]


def _of_each_row(data: Any, getter: str) -> Any:
    with suppress(Exception):  # not set, or not available in this version
        return boosting.checksum(getattr(data, getter)())
    return None


def _samples(params: Mapping[str, Any]) -> bool:
    if params.get("booster") == "dart":
        return not params.get("seed_per_iteration")
    return any(params.get(name) not in {None, 1} for name in _SAMPLING)


def _with_moved_seed(params: Any, rounds: int) -> Any:
    if not isinstance(params, dict):
        return params
    seed = next((params[name] for name in _SEED if params.get(name) is not None), 0)
    others = {name: value for name, value in params.items() if name not in _SEED}
    return {**others, "seed": (int(seed) + rounds * _PRIME) % (1 << 31)}


def _is_replayed(callback: Any) -> bool:
    return type(callback).__module__ == "xgboost.callback" and type(callback).__name__ in _REPLAYED


def _own(callbacks: Sequence[Any]) -> list[Any]:
    """The user's callbacks, whose attributes are saved."""
    return [callback for callback in callbacks if not _is_replayed(callback)]


@guarded(_LIBRARY)
def _ended(call: Optional[TrainCall], model: Any, callbacks: Sequence[Any]) -> None:
    if call is not None:
        call.ended(lambda: bytes(model.save_raw("ubj")), _own(callbacks))


def _container(base: Any) -> Any:
    """A subclass of XGBoost's callback container, which its loop calls before and after training and each round."""

    class Container(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            global _begun  # noqa: PLW0603
            super().__init__(*args, **kwargs)
            self._call, _begun = _begun, None
            self._replayed: list[Any] = []

        def before_training(self, model: Any) -> Any:
            call = self._call
            if call is None or call.saved is None:
                return super().before_training(model)
            model.num_boosted_rounds = lambda: 0  # the round where EarlyStopping begins
            try:
                given = super().before_training(model)
            finally:
                del model.num_boosted_rounds
            self._replayed = [callback for callback in self.callbacks if _is_replayed(callback)]
            for callback, attributes in zip(_own(self.callbacks), call.saved.callbacks):
                boosting.restore(callback, attributes)
            given.update = lambda *_, **__: None  # no training until the first round that is missing
            return given

        def before_iteration(self, model: Any, epoch: int, dtrain: Any, evals: Any) -> bool:
            call = self._call
            if call is not None and epoch < call.done:
                return any(callback.before_iteration(model, epoch, self.history) for callback in self._replayed)
            vars(model).pop("update", None)
            return bool(super().before_iteration(model, epoch, dtrain, evals))

        def after_iteration(self, model: Any, epoch: int, dtrain: Any, evals: Any) -> bool:
            call = self._call
            if call is not None and epoch < call.done:
                for data, metric, value in call.evaluations[epoch]:
                    self.history.setdefault(data, OrderedDict()).setdefault(metric, []).append(value)
                is_over = any(callback.after_iteration(model, epoch, self.history) for callback in self._replayed)
                return is_over or (call.is_finished_earlier and epoch + 1 == call.done)
            is_over = bool(super().after_iteration(model, epoch, dtrain, evals))
            return is_over if call is None else self._round_ended(call, model, epoch + 1) or is_over

        @guarded(_LIBRARY, otherwise=False)
        def _round_ended(self, call: TrainCall, model: Any, rounds: int) -> bool:
            evaluation = [
                (data, metric, values[-1])
                for data, metrics in self.history.items()
                for metric, values in metrics.items()
            ]
            call.evaluations.append(evaluation)
            call.log(rounds, {f"{data}-{metric}": value for data, metric, value in evaluation})
            return call.round_ended(rounds, lambda: bytes(model.save_raw("ubj")), _own(self.callbacks))

        def after_training(self, model: Any) -> Any:
            vars(model).pop("update", None)
            _ended(self._call, model, self.callbacks)
            return super().after_training(model)

    return Container
