"""LightGBM: every call of `train()`, by the script or by the scikit-learn classes.

Written against LightGBM 4.7. A call continues from the saved model by `init_model`: LightGBM's predictor then returns
exactly the scores that training had. The loop is made to begin in round 0 and runs over all rounds: see train_call.py.
lightgbm_replay.py takes the booster through those that are done.

Random forests cannot continue (https://github.com/lightgbm-org/LightGBM/issues/6143): they start over. So does a call
whose Dataset is already constructed and has freed its raw data, as one that another call has used. A call that was
finished needs no scores: its loop runs over a booster without trees, which then gets the model.
"""
# ruff: noqa: SLF001  there is no public way to read a Dataset's state, or to begin a call in round 0

from __future__ import annotations

import inspect
import weakref
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Iterator, Mapping, Optional, Sequence

from ...failsafe import guarded
from ...trainings.fingerprint import fingerprint
from . import train_call as boosting
from .lightgbm_replay import FIRST, ModelParameters, ReplayCallback, given, names_of
from .train_call import TrainCall

_LIBRARY = "lightgbm"
# library callbacks that depend only on evaluations, the number of the round, and these settings
_REPLAYED = {
    "_EarlyStoppingCallback": ("stopping_rounds", "first_metric_only", "min_delta"),
    "_RecordEvaluationCallback": (),
    "_ResetParameterCallback": ("kwargs",),
}
# parameters and arguments about how a training is observed or executed, not what is trained
_NOT_IDENTITY = ("params", "train_set", "valid_sets", "num_boost_round", "keep_training_booster")
_NOT_IDENTITY_PARAMS = ("num_iterations", "num_threads", "verbosity", "device_type", "metric_freq")
_rows: weakref.WeakKeyDictionary[Any, Any] = (
    weakref.WeakKeyDictionary()
)  # Dataset -> its content when it was first used
_LAST = 1 << 30  # order of a callback


def hook(engine: Any) -> None:
    """Hook the module lightgbm.engine, before anybody has imported `train` from it."""
    original = engine.train
    signature = inspect.signature(original)

    @wraps(original)
    def train(*args: Any, **kwargs: Any) -> Any:
        call = boosting.begin(_LIBRARY, "txt")
        if call is None:
            return original(*args, **kwargs)
        with call.link.training(_LIBRARY, "round") as is_ours:
            if not is_ours:  # a booster that is trained by a callback of another one
                return original(*args, **kwargs)
            try:
                arguments: dict[str, Any] = dict(signature.bind(*args, **kwargs).arguments)
            except TypeError:
                return original(*args, **kwargs)  # which raises the error
            callbacks = list(arguments.get("callbacks") or ())
            _identify(call, arguments, signature)
            if arguments.get("init_model") is None:  # otherwise the script itself has chosen where to begin
                _look_for_checkpoint(call, arguments)
            keeps_booster = arguments.get("keep_training_booster", False)
            arguments["keep_training_booster"] = True  # so that the model has the rounds after the best one
            after = _AfterRoundCallback(call, callbacks, engine)
            if call.saved is None:
                arguments["callbacks"] = [*callbacks, _ReportCallback(call), after]
                booster = original(**arguments)
                _ended(call, booster, after.own)
                return booster if keeps_booster else _freed(booster)
            skipped = [
                callback if _is_replayed(callback) else _SkippingCallback(call, callback, position - len(callbacks))
                for position, callback in enumerate(callbacks)
            ]
            for callback, attributes in zip((c for c in callbacks if not _is_replayed(c)), call.saved.callbacks):
                boosting.restore(callback, attributes)
            replay = ReplayCallback(call.saved, trains_on=not call.is_finished_earlier)
            arguments["callbacks"] = [replay, *skipped, _ReportCallback(call, replay), after]
            if call.is_finished_earlier and not keeps_booster:
                booster = original(**arguments)
                booster.model_from_string(call.saved.model.decode())
                booster.best_iteration, best_score = call.saved.ending
                booster.best_score.clear()  # keeps its type
                for name, scores in best_score.items():
                    booster.best_score[name].update(scores)
                return _freed(booster)
            arguments["init_model"] = engine.Booster(model_str=call.saved.model.decode())
            with _from_round_0(engine), _clean(arguments):
                booster = original(**arguments)
                _ended(call, booster, after.own)
                return booster if keeps_booster else _freed(booster)

    engine.train = train


@guarded(_LIBRARY)
def _identify(call: TrainCall, arguments: Mapping[str, Any], signature: inspect.Signature) -> None:
    params = dict(arguments["params"])
    rounds = arguments.get("num_boost_round", signature.parameters["num_boost_round"].default)
    call.total = given(params, "num_iterations", rounds)
    call.identify(
        {
            **params,
            **arguments,
            "callbacks": boosting.settings(arguments.get("callbacks") or (), _REPLAYED, _is_replayed),
            "init_model": arguments.get("init_model") is not None,
        },
        [*_NOT_IDENTITY, *(alias for name in _NOT_IDENTITY_PARAMS for alias in names_of(name))],
        [_content(dataset) for dataset in _datasets(arguments)],
    )


def _content(dataset: Any) -> Any:
    """What identifies a Dataset, as of its first use: training may free the raw data."""
    if dataset not in _rows:
        own = [_of_each_row(dataset, name) for name in ("label", "weight", "group", "init_score", "position")]
        subset = None
        if getattr(dataset, "used_indices", None) is not None:
            subset = [boosting.checksum(dataset.used_indices), _content(dataset.reference)]
        shape = None if dataset._handle is None else (dataset.num_data(), dataset.num_feature())
        features = dataset.data
        if hasattr(features, "indptr"):  # a sparse matrix
            features = [features.shape, *map(boosting.checksum, (features.data, features.indices, features.indptr))]
        _rows[dataset] = [boosting.numbers(fingerprint(features)), shape, own, subset, dict(dataset.params or {})]
    return _rows[dataset]


def _of_each_row(dataset: Any, name: str) -> Any:
    with suppress(Exception):  # missing in this version, or not an array
        return boosting.checksum(getattr(dataset, f"get_{name}")() if dataset._handle else getattr(dataset, name))
    return None


@guarded(_LIBRARY)
def _ended(call: TrainCall, booster: Any, callbacks: Sequence[Any]) -> None:
    ending = (booster.best_iteration, {data: dict(scores) for data, scores in booster.best_score.items()})
    call.ended(lambda: _text(booster).encode(), callbacks, ending)


def _freed(booster: Any) -> Any:
    """What `train` does with a booster that will not be trained any further."""
    return booster.model_from_string(booster.model_to_string()).free_dataset()


@guarded(_LIBRARY)
def _look_for_checkpoint(call: TrainCall, arguments: Mapping[str, Any]) -> None:
    call.look_for_checkpoint()
    if call.saved is None:
        return
    state = ModelParameters(call.saved.model.decode())
    datasets = _datasets(arguments)
    if call.is_finished_earlier and not arguments.get("keep_training_booster"):
        call.notify_finished_earlier()
    elif state.is_forest:
        call.start_over("LightGBM cannot add to a random forest")
    elif any(dataset._handle is not None and dataset.data is None for dataset in datasets):
        call.start_over("its Dataset has freed the raw data (free_raw_data=False keeps them)")
    elif any(dataset.init_score is not None for dataset in datasets):
        call.start_over("its Dataset has an init_score, which LightGBM would replace")
    else:
        doubt = (
            "" if state.is_exact else ", with other samples than without the interruption: see the guide to LightGBM"
        )
        call.notify(f"continues after round {call.done}{doubt}")


def _datasets(arguments: Mapping[str, Any]) -> list[Any]:
    valid = arguments.get("valid_sets") or []
    return [arguments["train_set"], *(valid if isinstance(valid, (list, tuple)) else [valid])]


@contextmanager
def _from_round_0(engine: Any) -> Iterator[None]:
    """Inside, the rounds of the initial model count as rounds of this call."""
    original = engine._InnerPredictor

    class Predictor(original):  # type: ignore[misc, valid-type]
        def current_iteration(self) -> int:
            return 0

    engine._InnerPredictor = Predictor
    try:
        yield
    finally:
        engine._InnerPredictor = original


@contextmanager
def _clean(arguments: Mapping[str, Any]) -> Iterator[None]:
    """Leave the Datasets as training from the beginning does, so that other calls can use them."""
    try:
        yield
    finally:
        for dataset in _datasets(arguments):
            dataset._predictor = None
            dataset.init_score = None
            if dataset._handle is not None:
                dataset.set_field("init_score", None)


class _SkippingCallback:
    """One of the user's callbacks, which is not called for rounds that are done."""

    def __init__(self, call: TrainCall, callback: Any, order: int) -> None:
        self._call = call
        self._callback = callback
        self.order = getattr(callback, "order", order)
        self.before_iteration = getattr(callback, "before_iteration", False)

    def __call__(self, env: Any) -> None:
        if env.iteration >= self._call.done:
            self._callback(env)


class _ReportCallback:
    """Reports a round. Runs first, because early stopping skips the callbacks after it."""

    before_iteration = False

    def __init__(self, call: TrainCall, replay: Optional[ReplayCallback] = None) -> None:
        self.order = FIRST  # an instance attribute: LightGBM sets it on each object that lacks it
        self._call = call
        self._replay = replay

    def __call__(self, env: Any) -> None:
        if env.iteration >= self._call.done:
            self._report(env)
        elif self._replay is not None and env.iteration == self._call.done - 1:
            self._replay.end(env.model)

    @guarded(_LIBRARY)
    def _report(self, env: Any) -> None:
        call = self._call
        call.total = env.end_iteration - env.begin_iteration
        results = [tuple(result) for result in env.evaluation_result_list or ()]
        call.evaluations.append(results)
        metrics = {f"{data}-{metric}": value for data, metric, value, *_ in results}
        call.log(env.iteration - env.begin_iteration + 1, metrics)


class _AfterRoundCallback:
    """Saves and stops after a round. Runs last: the other callbacks have seen the round that is saved."""

    before_iteration = False

    def __init__(self, call: TrainCall, callbacks: Sequence[Any], engine: Any) -> None:
        self.order = _LAST
        self._call = call
        self.own = [callback for callback in callbacks if not _is_replayed(callback)]
        self._end = engine.callback.EarlyStopException
        self._bagging_freq: Optional[int] = None  # not read yet

    def __call__(self, env: Any) -> None:
        if env.iteration >= self._call.done:
            is_over = self._is_to_stop(env)
        else:  # a callback of the user's had ended it here
            is_over = self._call.is_finished_earlier and env.iteration + 1 == self._call.done
        if is_over:
            # ends LightGBM's loop; the booster is not returned, because SupervisorLink.training ends the script
            raise self._end(env.iteration, env.evaluation_result_list or [])

    @guarded(_LIBRARY, otherwise=False)
    def _is_to_stop(self, env: Any) -> bool:
        if self._bagging_freq is None:
            self._bagging_freq = ModelParameters(_text(env.model)).bagging_freq or 1
        rounds = env.iteration - env.begin_iteration + 1
        if rounds % self._bagging_freq and rounds != self._call.total:
            return False  # the sample in use cannot be drawn again: finish its rounds first
        return self._call.round_ended(rounds, lambda: _text(env.model).encode(), self.own)


def _text(booster: Any) -> str:
    return str(booster.model_to_string(num_iteration=-1))


def _is_replayed(callback: Any) -> bool:
    return type(callback).__module__ == "lightgbm.callback" and type(callback).__name__ in _REPLAYED
