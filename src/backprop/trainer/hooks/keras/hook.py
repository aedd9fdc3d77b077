"""Keras 3: `fit` stops after a batch, saves and resumes exactly, with PyTorch, JAX and TensorFlow.

Three of Keras's methods are wrapped: `fit` of the backend's trainer (around the loop), the events of CallbackList
(inside it), and `EpochIterator.__iter__` (which gives the loop its data). A callback in the user's list would not do:
one that observes every batch makes CallbackList call all of them synchronously (callbacks/callback_list.py,
`_configure_async_dispatch`), which slows JAX down.

What is done at these events: fit.py. The content of a checkpoint: state.py.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any, Callable, Optional

from ...failsafe import guarded, is_off
from ...link import current
from .fit import Fit, FitSequence

HOOK = "keras"

_fit: Optional[Fit] = None  # the one that is running


def hook(module: Any) -> None:
    """Wrap. module: keras.src.models.model, which has just been imported, and with it the trainer of the backend."""
    link = current()
    if link is None:
        return
    iterator = sys.modules["keras.src.trainers.epoch_iterator"].EpochIterator
    callbacks = sys.modules["keras.src.callbacks.callback_list"].CallbackList
    if "__iter__" not in vars(iterator):
        raise RuntimeError("Keras is too old: its loops get their data in another way")
    fits = FitSequence(link)
    module.Trainer.fit = _around_fit(module.Trainer.fit, fits)
    iterator.__iter__ = _around_iter(iterator.__iter__)
    for name, around in _EVENTS.items():
        setattr(callbacks, name, _around_event(getattr(callbacks, name), around))


def _around_fit(original: Callable[..., Any], fits: FitSequence) -> Callable[..., Any]:
    @functools.wraps(original)
    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        global _fit  # noqa: PLW0603  link.training lets only one through at a time
        if is_off(HOOK):
            return original(self, *args, **kwargs)
        with fits.link.training(HOOK, "batch") as is_ours:
            if not is_ours:
                return original(self, *args, **kwargs)
            _fit = running = _begin(fits, self, original, args, kwargs)
            try:
                history = original(self, *args, **kwargs)
                if running is not None:
                    running.ended()
                return history
            finally:
                _fit = None
                if running is not None:
                    running.leave()

    return fit


@guarded(HOOK)
def _begin(fits: FitSequence, model: Any, original: Any, args: Any, kwargs: Any) -> Optional[Fit]:
    try:
        given = inspect.signature(original).bind(model, *args, **kwargs).arguments
    except TypeError:  # an error in the script, which Keras will raise
        return None
    return fits.begin(model, given)


def _around_iter(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    @functools.wraps(original)
    def iterate(self: Any) -> Any:
        running = _fit
        if running is None or not running.awaits_data:
            return original(self)
        return running.open(self, original)

    return iterate


def _around_event(original: Callable[..., Any], around: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def event(self: Any, *args: Any, **kwargs: Any) -> Any:
        running = _fit
        if running is None or not running.listens_to(self):
            return original(self, *args, **kwargs)
        return around(running, lambda: original(self, *args, **kwargs), *args, **kwargs)

    return event


def _train_begin(fit: Fit, next_handler: Callable[[], None], logs: Any = None) -> None:  # noqa: ARG001
    fit.train_begins()
    next_handler()
    fit.train_began()


def _epoch_begin(fit: Fit, next_handler: Callable[[], None], epoch: int, logs: Any = None) -> None:  # noqa: ARG001
    next_handler()
    fit.epoch_began(epoch)


def _train_batch_begin(fit: Fit, next_handler: Callable[[], None], batch: int, logs: Any = None) -> None:  # noqa: ARG001
    if not fit.is_replaying:
        next_handler()


def _train_batch_end(fit: Fit, next_handler: Callable[[], None], batch: int, logs: Any = None) -> None:
    if fit.is_replaying:
        fit.replayed()
    else:
        next_handler()
        fit.batch_ended(batch, logs)


def _test_begin(fit: Fit, next_handler: Callable[[], None], logs: Any = None) -> None:  # noqa: ARG001
    fit.validation_begins()
    next_handler()


def _test_batch_end(fit: Fit, next_handler: Callable[[], None], batch: int, logs: Any = None) -> None:  # noqa: ARG001
    next_handler()
    fit.validation_batch_ended()


def _epoch_end(fit: Fit, next_handler: Callable[[], None], epoch: int, logs: Any = None) -> None:
    fit.epoch_ends()
    next_handler()
    fit.epoch_ended(epoch, logs)


_EVENTS: dict[str, Callable[..., None]] = {
    "on_train_begin": _train_begin,
    "on_epoch_begin": _epoch_begin,
    "on_train_batch_begin": _train_batch_begin,
    "on_train_batch_end": _train_batch_end,
    "on_test_begin": _test_begin,
    "on_test_batch_end": _test_batch_end,
    "on_epoch_end": _epoch_end,
}
