"""Drives one call of a Hugging Face `Trainer.train`: saves and stops between two steps.

    step ends ──> log ──> evaluate ──> save        what the Trainer does between two steps, as TrainerControl says;
                                                   after the last step of an epoch it does so twice

A requested checkpoint that the Trainer does not save by itself is saved after all that; if saving fails, training
continues without it. A stop ends the loop there, after a save. An evaluation that is due or running then is postponed:
the checkpoint has the random state from before it, and the next session begins with it (resume.py).
"""
# ruff: noqa: SLF001  a checkpoint's random state and folder have no public name

from __future__ import annotations

import os
import shutil
import sys
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any, Callable, Iterator, Optional

from ... import distributed
from ...failsafe import guarded, notify_user
from ...link import SupervisorLink
from ...step_agreement import Agreement, StepRequest
from .resume import HOOK, TrainerResume, random_state, replace_once

WORTH_SAVING_S = 1.0  # a shorter training is simply repeated


class EvaluationCut(BaseException):
    """Ends an evaluation because of a stop. Not an Exception, so that no `except Exception` catches it."""


class TrainerLoop:
    """A training that is running."""

    def __init__(
        self,
        link: SupervisorLink,
        trainer: Any,
        resume: TrainerResume,
        ignore_keys: Any,
        *,
        is_trial: bool = False,
    ) -> None:
        """Touches nothing.

        ignore_keys: for evaluations, as passed to `train`. is_trial: of a search, and never resumed.
        """
        self.link = link
        self.trainer = trainer
        self.is_over = False  # it was stopped, and saved if possible; or nothing was left to train
        self.is_save_ours = False  # the save at this boundary is only ours
        self._resume = resume
        self._ignore_keys = ignore_keys
        self._loss_sum: Any = None  # a tensor, of the steps since the last log
        self._wants_save = False
        self._is_epoch_end_near = False  # between the end of an epoch's last step and that of the epoch
        self._is_epoch_over = False  # since the last step
        self._is_end_worth_saving = not is_trial
        self._began = 0.0
        self._saved_step: Optional[int] = None
        self._is_evaluation_due = False
        self._may_cut_evaluation = False
        self._random_state: Optional[str] = None  # folder with the random state from before an evaluation
        self._until_boundary_ends: Optional[ExitStack] = None
        # at this boundary
        self._saved: Optional[str] = None
        self._error: Optional[Exception] = None
        self._new_folder: Optional[str] = None  # that exists only because of us

    def is_placed(self) -> None:
        """The Trainer has computed where to begin, and is about to call all callbacks."""
        self._resume.is_placed()

    def begin(self) -> None:
        """The Trainer has called all callbacks, and is ready for the first step."""
        self._may_cut_evaluation = True
        self.is_over = self._resume.restore(self._ignore_keys)
        self._began = monotonic()
        if self.is_over:  # what the Trainer prints of it is of its last step
            state = self.trainer.state
            self.link.steps.log(state.global_step, {}, _total_steps(state))

    # -- called by the callback

    def epoch_began(self) -> None:
        """Called before the Trainer gets an epoch's first batch."""
        self._resume.epoch_began()

    @guarded(HOOK)
    def step_ended(self, state: Any, control: Any) -> None:
        """Read the requests of the supervisor. Called before the Trainer logs, evaluates and saves."""
        self._may_cut_evaluation = self._is_epoch_over = False
        self._resume.step_ended()
        request = self.link.at_step_end(state.global_step, total_steps=_total_steps(state))
        # exact: its last step makes it epoch + n / n (line 1937)
        self._is_epoch_end_near = float(state.epoch).is_integer()
        if request.stop:
            self.link.accept_stop()
            control.should_training_stop = True
            self._put_off_evaluation(control)
        self._wants_save = self._wants_save or request.save or request.stop

    @guarded(HOOK)
    def epoch_ended(self, control: Any) -> None:
        """Called after an epoch's last step, before the Trainer logs, evaluates and saves."""
        self._is_epoch_end_near = False
        if not self.is_over:  # otherwise it was interrupted
            self._resume.epoch_ended()
        self._is_epoch_over = True
        if self.link.is_stopping:
            self._put_off_evaluation(control)

    def _put_off_evaluation(self, control: Any) -> None:
        self._is_evaluation_due = self._is_evaluation_due or control.should_evaluate
        control.should_evaluate = False

    @guarded(HOOK)
    def logged(self, state: Any, logs: dict[str, Any]) -> None:
        """Report metrics, but not the summary of a training that was stopped."""
        if not self.is_over:
            self.link.steps.log(state.global_step, logs, _total_steps(state))

    @guarded(HOOK)
    def prediction_step_ended(self) -> None:
        """End an evaluation if a stop is requested. Raises EvaluationCut."""
        if self._may_cut_evaluation and _is_stop_agreed(self.link):
            raise EvaluationCut

    # -- between two steps

    @guarded(HOOK)
    def boundary_begins(self, loss_sum: Any, until_end: ExitStack) -> None:
        """The Trainer is about to log, evaluate and save what is due."""
        self._loss_sum = loss_sum
        self._until_boundary_ends = until_end
        until_end.callback(self._forget_boundary)
        if self.trainer.control.should_evaluate:
            self._random_state = until_end.enter_context(random_state(self.trainer))
            self._may_cut_evaluation = True

    def _forget_boundary(self) -> None:
        self._until_boundary_ends = self._random_state = self._saved = self._error = self._new_folder = None
        self._may_cut_evaluation = self.is_save_ours = False

    @guarded(HOOK)
    def evaluation_was_cut(self) -> None:
        """Stop here, as if the evaluation had not begun."""
        control = self.trainer.control
        self.trainer._load_rng_state(self._random_state)
        self._may_cut_evaluation = False
        self.link.accept_stop()
        self._put_off_evaluation(control)
        self._wants_save = True
        control.should_training_stop = True

    @guarded(HOOK, otherwise=False)
    def is_save_missing(self) -> bool:
        """Whether a save is needed that the Trainer has not made; if so, only that is made due."""
        # at the end of an epoch the Trainer may have to log and evaluate once more, and save after that
        self._wants_save = self._wants_save or self._is_end_missing()
        if not self._wants_save or self._saved is not None or self._is_epoch_end_near:
            return False
        control = self.trainer.control
        self.is_save_ours = (
            not control.should_save
        )  # its own save is still due if the evaluation before it was interrupted
        control.should_save = True
        control.should_log = control.should_evaluate = False
        return True

    def _is_end_missing(self) -> bool:
        """Whether training has ended, and its result is not saved: the script may be stopped in what follows."""
        trainer = self.trainer
        if not (self._is_end_worth_saving and self._is_epoch_over and trainer.control.should_training_stop):
            return False
        if self.link.is_stopping or self._saved_step == trainer.state.global_step:
            return False
        # ranks may have begun at different times, but must agree
        return distributed.world_size() > 1 or monotonic() - self._began >= WORTH_SAVING_S

    def _is_finished(self) -> bool:
        """Whether no step is missing: all are done, or early stopping, not the supervisor, has ended training."""
        state = self.trainer.state
        if state.global_step >= state.max_steps:
            return True
        kinds = {kind.__name__ for each in self.trainer.callback_handler.callbacks for kind in type(each).__mro__}
        is_stopped_early = self.trainer.control.should_training_stop and not self.link.is_stopping
        return is_stopped_early and "EarlyStoppingCallback" in kinds

    def save_failed(self, error: Exception) -> None:
        """Our own save has failed: continue without it."""
        self._error = error
        self.trainer.control.should_save = False

    @contextmanager
    def saving(self, trial: Any) -> Iterator[None]:
        """Inside, the Trainer writes a checkpoint; a complete one, to resume from, if we need it."""
        trainer = self.trainer
        if self._until_boundary_ends is None:  # a save by the script itself
            with self.link.saving():
                yield
            return
        # callbacks may change the folder afterwards: interrupts are deferred until it is reported
        self._until_boundary_ends.enter_context(self.link.saving())
        # PREFIX_CHECKPOINT_DIR
        folder = os.path.join(trainer._get_output_dir(trial=trial), f"checkpoint-{trainer.state.global_step}")
        if self.is_save_ours and not os.path.exists(folder):
            self._new_folder = folder
        is_weights_only = trainer.args.save_only_model
        # transformers itself cannot save the optimizer of a model that was sharded when loaded (line 633)
        can_save_all = not getattr(trainer, "is_distributed_loading_by_transformers", False)
        if self._wants_save and can_save_all:
            trainer.args.save_only_model = False
            if self.is_save_ours and _group() is not None:
                self._raise_after_barrier(self._until_boundary_ends)
        try:
            yield
            if not trainer.args.save_only_model:
                self._saved = folder
        finally:
            trainer.args.save_only_model = is_weights_only

    def _raise_after_barrier(self, until_end: ExitStack) -> None:
        """Postpone an exception in saving weights until no other rank waits at a barrier (line 3380).

        It is raised before old checkpoints are deleted in favour of this one.
        """
        raised = []

        def save_model(original: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
            try:
                original(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  whatever it was: it is raised below
                raised.append(error)

        def save_optimizer(original: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
            if raised:
                raise raised[0]
            original(*args, **kwargs)

        replace_once(self.trainer, "save_model", save_model, until_end)
        replace_once(self.trainer, "_save_optimizer_and_scheduler", save_optimizer, until_end)

    @guarded(HOOK)
    def boundary_ends(self) -> None:
        """Report the checkpoint, now that all callbacks have seen it; or tell the user that saving has failed."""
        if self._saved is None and not self.is_save_ours:
            return
        is_finished = self._is_finished()
        if self._saved is not None and self._error is None:
            try:
                self._resume.write_note(
                    self._saved, self._loss_sum, is_evaluation_due=self._is_evaluation_due, is_finished=is_finished
                )
            except OSError as error:
                self._error = error
        is_whole = self._saved is not None and self._error is None
        if _is_true_everywhere(is_whole):  # each rank writes a part of it
            self._saved_step = self.trainer.state.global_step
            self.link.report_checkpoint(str(self._saved), self._saved_step)
            self._resume.saved(str(self._saved), is_finished=is_finished)
        else:
            self._forgo_save()
        self._wants_save = False
        if self.link.is_stopping:
            self.is_over = True
            # at its end, the Trainer with save_total_limit=1 deletes all but the best (line 2024): not this time
            self.trainer.state.best_model_checkpoint = None

    def _forgo_save(self) -> None:
        self.link.skip_save()
        error = self._error
        if error is not None:
            reason = str(error).strip().partition("\n")[0]
            notify_user(f"no checkpoint at step {self.trainer.state.global_step}: {type(error).__name__}: {reason}")
        # the script and the Trainer would take an incomplete checkpoint for the newest
        if self._new_folder is not None and self.trainer.args.should_save:
            shutil.rmtree(self._new_folder, ignore_errors=True)


def _total_steps(state: Any) -> Optional[int]:
    return state.max_steps if state.max_steps > 0 else None


def _group() -> Any:
    """torch.distributed, when there is a process group."""
    dist = sys.modules["torch"].distributed
    return dist if dist.is_available() and dist.is_initialized() else None


def _is_true_everywhere(is_true: bool) -> bool:  # noqa: FBT001  its only argument
    """Whether it is true on all ranks. A collective operation: every rank must call it."""
    dist = _group()
    if dist is None:
        return is_true
    answers = [False] * dist.get_world_size()
    dist.all_gather_object(answers, is_true)
    return all(answers)


_agreement: Optional[Agreement] = None
_prediction_steps = 0  # steps of evaluations that may be interrupted, so far in this process


def _is_stop_agreed(link: SupervisorLink) -> bool:
    """Whether all ranks end the evaluation after this step.

    They agree as in training, because losses are gathered after every step of an evaluation, too.
    """
    global _agreement, _prediction_steps  # noqa: PLW0603
    request = StepRequest(stop=link.should_stop())
    if distributed.world_size() == 1:
        return request.stop
    if _agreement is None:
        _agreement = Agreement(os.path.join(link.run_dir, f"session-{link.session_number}.agreed-in-evaluation"))
    _prediction_steps += 1
    return _agreement.agree(_prediction_steps, request).stop
