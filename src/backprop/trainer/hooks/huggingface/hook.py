"""Hugging Face `Trainer`: reports metrics and checkpoints, saves and stops at the end of a step, and resumes.

A callback among the Trainer's default ones is called at steps, logs and evaluations. Where there is no callback,
methods are wrapped: `train` (the loop), `_save_checkpoint` (a save), `_maybe_log_save_evaluate` (what is done between
two steps). loop.py drives a call of `train`; resume.py resumes it.
Written against transformers 4.46.3, 4.57.6 and 5.23.0; line numbers in comments are those of 5.23.0.
"""

from __future__ import annotations

import dataclasses
import functools
from contextlib import ExitStack
from typing import Any, Callable, Optional

from ...failsafe import guarded, is_off
from ...link import SupervisorLink, current
from ...parameters import report
from ..parsers.resume_options import PARAMETERS
from .loop import EvaluationCut, TrainerLoop
from .resume import HOOK, TrainerResume

_MADE = {"accelerator_config", "local_rank", "logging_dir", "run_name"}  # for this machine and moment, if not given

_loop: Optional[TrainerLoop] = None  # the call of `train` that is running
_train_calls = 0  # so far in this process


class LoopCallback:
    """The methods of our callback; TrainerCallback has the others."""

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if _loop is not None:
            _loop.epoch_began()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if _loop is not None:
            _loop.step_ended(state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if _loop is not None:
            _loop.epoch_ended(control)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:  # noqa: ARG002
        if _loop is not None:
            _loop.logged(state, logs or {})

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if _loop is not None:
            _loop.prediction_step_ended()

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        if _loop is not None:
            _loop.link.restart_step_timer()


BackpropCallback: Any = (
    None  # LoopCallback and TrainerCallback in one, importable, so that it can be pickled with its trainer
)


def hook(module: Any) -> None:
    """Called when `transformers.trainer` has been imported."""
    global BackpropCallback  # noqa: PLW0603  made when its base class is there
    BackpropCallback = type("BackpropCallback", (LoopCallback, module.TrainerCallback), {"__module__": __name__})
    trainer, handler = module.Trainer, module.CallbackHandler
    wrapped = [
        (trainer, "train", _around_train),
        (trainer, "_maybe_log_save_evaluate", _around_boundary),
        (trainer, "_save_checkpoint", _around_save),
        (handler, "on_train_begin", _after_train_begin),
    ]
    replacements = [(owner, name, around(getattr(owner, name))) for owner, name, around in wrapped]
    for owner, name, replacement in replacements:  # all or none: a missing method has raised above
        setattr(owner, name, replacement)
    # Trainer.__init__ adds these (line 586), also for subclasses in other packages
    module.DEFAULT_CALLBACKS.append(BackpropCallback)


def _of(trainer: Any) -> Optional[TrainerLoop]:
    """The loop of this trainer, if it is the one that is running."""
    return _loop if _loop is not None and _loop.trainer is trainer else None


def _around_train(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def train(self: Any, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        link = current()
        if link is None or is_off(HOOK):
            return original(self, resume_from_checkpoint, *args, **kwargs)
        with link.training(HOOK, "optimizer step", samples_losses=True) as is_ours:
            if not is_ours:
                return original(self, resume_from_checkpoint, *args, **kwargs)
            _report_arguments(self.args)
            return _train(original, self, link, resume_from_checkpoint, args, kwargs)

    return train


def _train(
    original: Callable[..., Any],
    trainer: Any,
    link: SupervisorLink,
    resume_from_checkpoint: Any,
    args: Any,
    kwargs: Any,
) -> Any:
    global _loop, _train_calls  # noqa: PLW0603  one at a time: link.training sees to it
    _train_calls += 1
    trial = args[0] if args else kwargs.get("trial")
    ignore_keys = args[1] if len(args) > 1 else kwargs.get("ignore_keys_for_eval")
    resume = TrainerResume(trainer, _train_calls)
    resume.begin(link, trial)
    # to the Trainer, None and False mean that nothing was chosen; True means the newest checkpoint, which may be
    # incomplete: the supervisor knows better. A path is the script's own choice, unless it is the offered one. A
    # hyperparameter search begins its trials itself
    if resume.was_handed_over(link, resume_from_checkpoint):
        resume_from_checkpoint = None
    if trial is not None:
        resume.begins_trial(link)
    elif not resume_from_checkpoint or resume_from_checkpoint is True:
        chosen = resume.choose(link, is_newest_wanted=bool(resume_from_checkpoint))
        resume_from_checkpoint = chosen or resume_from_checkpoint
    resume.begins_at(link, resume_from_checkpoint)
    _loop = TrainerLoop(link, trainer, resume, ignore_keys, is_trial=trial is not None)
    try:
        return original(trainer, resume_from_checkpoint, *args, **kwargs)
    except EvaluationCut:  # before the first step: there is nothing to save
        link.accept_stop()
    finally:
        _loop = None
        resume.clean_up()


@guarded(PARAMETERS)
def _report_arguments(arguments: Any) -> None:
    """Report TrainingArguments, in which None may have become False, an empty list, or a dict of nothing but zeros."""
    fields = {field.name: field.default for field in dataclasses.fields(arguments) if field.name not in _MADE}
    values = {name: getattr(arguments, name) for name in fields}
    empty = {name: values[name] for name, default in fields.items() if not (_is_set(values[name]) or _is_set(default))}
    report.configured(values, {**fields, **empty})


def _is_set(value: Any) -> bool:
    if isinstance(value, dict):
        return any(value.values())
    return bool(value) and value is not dataclasses.MISSING


def _after_train_begin(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def on_train_begin(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if _loop is None or _loop.trainer.callback_handler is not self:
            return original(self, args, state, control, **kwargs)
        _loop.is_placed()
        control = original(self, args, state, control, **kwargs)
        _loop.begin()
        return control

    return on_train_begin


def _around_boundary(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def maybe_log_save_evaluate(self: Any, tr_loss: Any, *args: Any, **kwargs: Any) -> Any:
        loop = _of(self)
        if loop is None:
            return original(self, tr_loss, *args, **kwargs)
        if loop.is_over:
            return None  # the epoch was interrupted: there is nothing more to log, evaluate or save
        with ExitStack() as until_end:
            loop.boundary_begins(tr_loss, until_end)
            try:
                original(self, tr_loss, *args, **kwargs)
            except EvaluationCut:
                loop.evaluation_was_cut()
            if loop.is_save_missing():
                try:
                    original(self, tr_loss, *args, **kwargs)  # only the save is due now
                except Exception as error:  # whatever it was: without us, nothing of this would have been called
                    if not loop.is_save_ours:
                        raise
                    loop.save_failed(error)
            loop.boundary_ends()
        return None

    return maybe_log_save_evaluate


def _around_save(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def save_checkpoint(self: Any, model: Any, trial: Any, *args: Any, **kwargs: Any) -> Any:
        loop = _of(self)
        if loop is None:
            return original(self, model, trial, *args, **kwargs)
        with loop.saving(trial):
            return original(self, model, trial, *args, **kwargs)

    return save_checkpoint
