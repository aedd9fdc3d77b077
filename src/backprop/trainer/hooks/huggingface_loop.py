"""One call of a Hugging Face `Trainer.train`: what is wanted of it between two steps.

    step ends ──> log ──> evaluate ──> save        what the Trainer does between two steps, as TrainerControl says;
                                                   after the last step of an epoch it does so twice

A stop ends the loop there, with a save. An evaluation that is due then, or going on, is put off: the checkpoint has the
random state from before it, and the next session begins with it (huggingface_resume.py).
"""
# ruff: noqa: SLF001  a checkpoint's random state and folder have no public name

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, contextmanager
from typing import Any, Iterator, Optional

from .. import ranks
from ..failsafe import guarded
from ..ranks import Agreement, Wish
from ..session import Session
from .huggingface_resume import HOOK, Continuation, random_state


class EvaluationCut(BaseException):
    """Ends an evaluation, because a stop is wanted. Not an Exception: nobody's `except Exception` is meant."""


class Loop:
    """A training that is going on."""

    def __init__(self, session: Session, trainer: Any, continuation: Continuation, ignore_keys: Any) -> None:
        """Touches nothing. ignore_keys: for evaluations, as `train` was told."""
        self.session = session
        self.trainer = trainer
        self.is_over = False  # stopped and saved
        self._continuation = continuation
        self._ignore_keys = ignore_keys
        self._loss_sum: Any = None  # a tensor, of the steps since the last log
        self._wants_save = False
        self._is_epoch_end_near = False  # the epoch's last step has ended, the epoch has not
        self._is_evaluation_due = False
        self._may_cut_evaluation = False
        self._random_state: Optional[str] = None  # the folder that has it as it was before an evaluation
        self._until_boundary_ends: Optional[ExitStack] = None
        self._saved: Optional[str] = None  # at this boundary

    def begin(self) -> None:
        """The Trainer is ready for the first step, and has told so to all callbacks."""
        self._may_cut_evaluation = True
        self._continuation.restore(self._ignore_keys)

    # -- what the callback hears

    @guarded(HOOK)
    def step_ended(self, state: Any, control: Any) -> None:
        """Ask for what is wanted. Comes before the Trainer logs, evaluates and saves."""
        self._may_cut_evaluation = False
        wish = self.session.at_step_end(state.global_step)
        # exact: its last step makes it epoch + n / n (line 1937)
        self._is_epoch_end_near = float(state.epoch).is_integer()
        if wish.stop:
            self.session.obey_stop()
            control.should_training_stop = True
            self._put_off_evaluation(control)
        self._wants_save = self._wants_save or wish.save or wish.stop
        if self._wants_save:
            # at the end of an epoch the Trainer may have to log and evaluate once more, and save after that
            control.should_save = not self._is_epoch_end_near

    @guarded(HOOK)
    def epoch_ended(self, control: Any) -> None:
        """Ask for what is wanted, after an epoch's last step. Comes before the Trainer logs, evaluates and saves."""
        self._is_epoch_end_near = False
        if self.session.is_stopping:
            self._put_off_evaluation(control)
        if self._wants_save:
            control.should_save = True

    def _put_off_evaluation(self, control: Any) -> None:
        self._is_evaluation_due = self._is_evaluation_due or control.should_evaluate
        control.should_evaluate = False

    @guarded(HOOK)
    def logged(self, state: Any, logs: dict[str, Any]) -> None:
        """Report metrics, but not the summary of a training that was stopped."""
        if not self.is_over:
            self.session.log(state.global_step, logs, total_steps=state.max_steps if state.max_steps > 0 else None)

    @guarded(HOOK)
    def prediction_step_ended(self) -> None:
        """End an evaluation when a stop is wanted. Raises EvaluationCut."""
        if self._may_cut_evaluation and _is_stop_agreed(self.session):
            raise EvaluationCut

    # -- between two steps

    @guarded(HOOK)
    def boundary_begins(self, loss_sum: Any, until_end: ExitStack) -> None:
        """The Trainer is about to log, evaluate and save, whatever of it is due."""
        self._loss_sum = loss_sum
        self._until_boundary_ends = until_end
        until_end.callback(self._forget_boundary)
        if self.trainer.control.should_evaluate:
            self._random_state = until_end.enter_context(random_state(self.trainer))
            self._may_cut_evaluation = True

    def _forget_boundary(self) -> None:
        self._until_boundary_ends = self._random_state = self._saved = None
        self._may_cut_evaluation = False

    @guarded(HOOK)
    def evaluation_was_cut(self) -> None:
        """Stop here, as if the evaluation had not begun."""
        control = self.trainer.control
        self.trainer._load_rng_state(self._random_state)
        self._may_cut_evaluation = False
        self.session.obey_stop()
        self._put_off_evaluation(control)
        self._wants_save = True
        control.should_training_stop = True
        control.should_save = not self._is_epoch_end_near

    @contextmanager
    def saving(self, trial: Any) -> Iterator[None]:
        """Within, the Trainer writes a checkpoint: with all it takes to continue, if it is us who want it."""
        trainer = self.trainer
        if self._until_boundary_ends is None:  # somebody saves on his own
            with self.session.saving():
                yield
            return
        # callbacks may change the folder after this: nothing may come between, until it is reported
        self._until_boundary_ends.enter_context(self.session.saving())
        is_weights_only = trainer.args.save_only_model
        # transformers itself cannot save the optimizer of a model that was sharded when loaded (line 633)
        can_save_all = not getattr(trainer, "is_distributed_loading_by_transformers", False)
        if self._wants_save and can_save_all:
            trainer.args.save_only_model = False
        try:
            yield
            if not trainer.args.save_only_model:
                folder = f"checkpoint-{trainer.state.global_step}"  # PREFIX_CHECKPOINT_DIR
                self._saved = os.path.join(trainer._get_output_dir(trial=trial), folder)
        finally:
            trainer.args.save_only_model = is_weights_only

    @guarded(HOOK)
    def boundary_ends(self) -> None:
        """Report what was saved, now that all callbacks have seen it."""
        if self._saved is None:
            return
        try:
            self._continuation.write_note(self._saved, self._loss_sum, is_evaluation_due=self._is_evaluation_due)
        finally:
            if ranks.world_size() > 1:  # each rank writes a part of it
                sys.modules["torch"].distributed.barrier()
        self.session.saved(self._saved, self.trainer.state.global_step)
        self._wants_save = False
        if self.session.is_stopping:
            self.is_over = True
            # at its end, the Trainer with save_total_limit=1 deletes all but the best (line 2024): not this time
            self.trainer.state.best_model_checkpoint = None


_agreement: Optional[Agreement] = None
_prediction_steps = 0  # so far in this process, that could be cut


def _is_stop_agreed(session: Session) -> bool:
    """Whether all ranks end the evaluation after this very step.

    As they agree on steps of the training: losses are gathered after every step of an evaluation, too.
    """
    global _agreement, _prediction_steps  # noqa: PLW0603
    wish = Wish(stop=session.should_stop())
    if ranks.world_size() == 1:
        return wish.stop
    if _agreement is None:
        _agreement = Agreement(os.path.join(session.run_dir, f"session-{session.number}.agreed-in-evaluation"))
    _prediction_steps += 1
    return _agreement.settle(_prediction_steps, wish).stop
