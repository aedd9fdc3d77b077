"""Ultralytics: an interrupted training continues from its `last.pt`, by Ultralytics' own `resume`.

Its epochs are reported as steps. Its saves are noticed like those of any script (saved_files/). A file beside
`last.pt` stores which training saved it: it cannot be stored in the checkpoint, because `resume` reads its arguments
from there, and checks them.
Written against ultralytics 8.4.190.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from typing import Any, Callable, Optional

from ..atomic_files import atomic_write
from ..failsafe import guarded, is_off, notify_user
from ..link import SupervisorLink, current
from ..trainings import registry
from ..trainings.identity import identify

_HOOK = "Ultralytics"
_NOTE = "backprop_training.json"
# arguments about how a training is observed and saved, not what is trained
_WATCHING = ("cache", "exist_ok", "mode", "plots", "resume", "save", "save_dir", "save_period", "show", "val")


def hook(module: Any) -> None:
    """Called when `ultralytics.engine.model` has been imported."""
    module.Model.train = _around_train(module.Model.train)


def _around_train(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def train(self: Any, trainer: Any = None, **kwargs: Any) -> Any:
        link = current()
        # `data` may be a list: then there is a training for each, and Ultralytics cannot resume them
        is_several = isinstance(kwargs.get("data"), (list, tuple))
        if link is not None and link.owner is None:
            _report_epochs(link, self.callbacks)
        if link is None or link.owner is not None or kwargs.get("resume") or is_several or is_off(_HOOK):
            return original(self, trainer, **kwargs)
        training = _begin(link, self, trainer, kwargs)
        if training is None:
            return original(self, trainer, **kwargs)
        path = _choose(link, training)
        if path is not None:
            kwargs["resume"] = path
        callbacks = self.callbacks["on_model_save"]
        callbacks.append(note := _note_saves(training))
        try:
            return original(self, trainer, **kwargs)
        except BaseException:
            link.cancel_resume()
            raise
        finally:
            callbacks.remove(note)

    return train


@guarded(_HOOK)
def _report_epochs(link: SupervisorLink, callbacks: dict[str, list[Any]]) -> None:
    """Report epochs as steps, whichever call of `train` makes them."""

    @guarded(_HOOK)
    def started(trainer: Any) -> None:
        link.steps.count_as("epoch", trainer, _epochs_done)

    @guarded(_HOOK)
    def ended(trainer: Any) -> None:
        link.steps.count(_epochs_done(trainer), trainer.epochs)

    for event, report in (("on_train_start", started), ("on_fit_epoch_end", ended)):
        if not any(getattr(one, "__wrapped__", one).__module__ == __name__ for one in callbacks[event]):
            callbacks[event].append(report)


def _epochs_done(trainer: Any) -> int:
    """Epochs that are trained; its last evaluation calls itself one more."""
    return int(min(trainer.epoch + 1, trainer.epochs))


@guarded(registry.HOOK)
def _begin(link: SupervisorLink, model: Any, trainer: Any, kwargs: Any) -> Optional[registry.Training]:
    arguments = {**model.overrides, **kwargs, "trainer": getattr(trainer, "__qualname__", None)}
    identity = identify(
        "ultralytics",
        "train",
        arguments,
        ignored=_WATCHING,
        model=f"{model.task} {model.model.yaml}",
        # the weights of a model from a .yaml are drawn again when training begins
        weights=list(model.model.named_parameters()) if model.ckpt else None,
        is_pretrained=bool(model.ckpt),
        offered=link.resume_from,
    )
    return registry.of(link).begin(identity, model)


@guarded(_HOOK)
def _choose(link: SupervisorLink, training: registry.Training) -> Optional[str]:
    offered = link.resume_from
    is_known = offered is not None and _stored(offered) is not None
    link.announce_inspection(may_be_ours=is_known)
    path = training.choose("train()", offered if is_known else None, _stored)
    if path is not None and path == offered:
        link.resume_from = None  # once: a later call is another training
    if path is not None and _is_stripped(path):
        notify_user(
            f"train() starts over: the training of {path} had ended, and Ultralytics has removed its optimizer state"
        )
        path = None
    link.set_resume_source(path)
    return path


def _is_stripped(path: str) -> bool:
    """Whether training had ended (`strip_optimizer`): `resume` refuses such a checkpoint."""
    saved: Any = sys.modules["torch"].load(path, map_location="cpu", weights_only=False)
    return bool(saved["epoch"] < 0)


def _note_saves(training: registry.Training) -> Callable[[Any], None]:
    """A callback that gets the BaseTrainer when it has saved."""

    @guarded(_HOOK)
    def saved(trainer: Any) -> None:
        stored = json.loads(json.dumps(training.stored()))
        path = os.path.abspath(trainer.last)
        if _stored(path) != stored:
            with atomic_write(_note(path)) as file:
                file.write(json.dumps(stored).encode())
        training.saved(path, trainer.epoch + 1)

    return saved


def _note(checkpoint: str) -> str:
    return os.path.join(os.path.dirname(checkpoint), _NOTE)


def _stored(checkpoint: str) -> Any:
    """What is stored of the training that saved a checkpoint; None if nothing is."""
    try:
        with open(_note(checkpoint), encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
