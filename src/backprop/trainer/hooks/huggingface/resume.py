"""What the Trainer's checkpoints lack for an exact resume: stored in a file beside them, the note, and restored.

The Trainer restores weights, optimizer, schedule, random state and its position in the data. It does not restore the
sums of the losses since its last log and since the beginning (line 1647): the next log would be the mean of fewer
steps, and the final `train_loss` that of the last session. An evaluation that a stop has postponed must be made. The
position in the data is computed from the step and the length of an epoch (line 1756), which streaming data does not
have; and the batches to skip are drawn with other random numbers than before.
"""
# ruff: noqa: SLF001  a checkpoint's random state and the losses have no public name

from __future__ import annotations

import glob
import json
import os
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from typing import Any, Callable, Iterator, Optional

from ... import distributed, rng_state
from ...atomic_files import atomic_write
from ...failsafe import guarded, notify_user
from ...link import SupervisorLink
from ...trainings import registry
from .identity import TRIAL, identity_of

HOOK = "transformers"
_STATE = "trainer_state.json"  # TRAINER_STATE_NAME
_NOTE = "backprop_state_{rank}.json"
_EPOCH = "backprop_epoch"  # in a checkpoint: the random states at the beginning of its epoch


class _ResumeStep(int):
    """The step to resume from. The Trainer divides it by the steps of an epoch to get the epoch and the step in it."""

    position: Optional[tuple[int, int]] = None  # saved epoch and step in it; None: computed by division

    def __floordiv__(self, steps_per_epoch: int) -> int:
        epoch, steps = divmod(int(self), steps_per_epoch) if self.position is None else self.position
        self.position = (epoch + steps // steps_per_epoch, steps % steps_per_epoch)
        return self.position[0]

    def __mod__(self, steps_per_epoch: int) -> int:
        return int(self) % steps_per_epoch if self.position is None else self.position[1] % steps_per_epoch


class TrainerResume:
    """Resumes one call of `train`."""

    def __init__(self, trainer: Any, number: int) -> None:
        """Touches nothing. number: 1-based number of the call of `train` in this process."""
        self._trainer = trainer
        self._number = number
        self._checkpoint: Optional[str] = None
        self._first_step = 0  # the sums have only losses of later steps
        self._earlier_s = 0.0  # trained in earlier sessions
        self._began_at = 0.0
        self._epoch = 0  # the current one
        self._epoch_steps = 0  # done in it
        self._epoch_random: Optional[dict[str, Any]] = None  # random states at its start
        self._training: Optional[registry.Training] = None
        self._until_end = ExitStack()

    @guarded(registry.HOOK)
    def begin(self, link: SupervisorLink, trial: Any) -> None:
        """Determine which training this is."""
        trainer = self._trainer
        link.announce_inspection(may_be_ours=_is_trainers(link.resume_from))
        identity = identity_of(trainer, trial, link.resume_from)
        self._training = registry.of(link).begin(identity, None if trainer.model_init else trainer.model)

    @guarded(HOOK, otherwise=False)
    def was_handed_over(self, link: SupervisorLink, named: Any) -> bool:
        """Whether the script's path is the offered checkpoint, and that stores its training."""
        return self._training is not None and link.is_offered(named) and _stored(os.fspath(named)) is not None

    @guarded(HOOK)
    def choose(self, link: SupervisorLink, *, is_newest_wanted: bool) -> Optional[str]:
        """The checkpoint to continue from: the offered one if it is of this training, or another, or None.

        is_newest_wanted: whether the Trainer takes the newest checkpoint if this returns None.
        """
        if self._training is None:
            return None
        or_else = "takes the newest in its output_dir" if is_newest_wanted else "starts over"
        path: Optional[str] = self._training.agreed(lambda: self._choice(link.resume_from, or_else))
        if path is not None and path == link.resume_from:
            link.resume_from = None  # once: a later call of `train` is another training
        return path

    def _choice(self, offered: Optional[str], or_else: str) -> Optional[str]:
        assert self._training is not None  # noqa: S101  for the type checker
        if not _is_trainers(offered):
            offered = None
        if offered is not None and _stored(offered) is None and self._fits(offered):
            return offered
        return self._training.choose("train()", offered, _stored, or_else=or_else)

    @guarded(HOOK)
    def begins_trial(self, link: SupervisorLink) -> None:
        """A search begins its trials itself, with new arguments for each: none continues from an earlier one."""
        offered = link.resume_from
        stored = _stored(offered) if offered is not None and _is_trainers(offered) else None
        if stored is not None and TRIAL in stored["identity"]["parts"]:
            link.resume_from = None
            notify_user(f"hyperparameter_search starts each trial from the beginning: none continues from {offered}")

    @guarded(HOOK)
    def begins_at(self, link: SupervisorLink, resume_from_checkpoint: Any) -> None:
        """Called with the argument that `train` finally gets."""
        if resume_from_checkpoint is True:  # as the Trainer will (line 1556)
            folder = self._trainer.args.output_dir
            resume_from_checkpoint = sys.modules["transformers.trainer_utils"].get_last_checkpoint(folder)
        self._checkpoint = resume_from_checkpoint or None
        link.set_resume_source(self._checkpoint)
        if self._checkpoint is not None:
            position = _read_note(self._checkpoint).get("position")

            def load_callback_state(original: Callable[..., Any]) -> None:
                original()
                state = self._trainer.state
                state.global_step = place = _ResumeStep(state.global_step)
                place.position = None if position is None else tuple(position)

            # called between the loading of the step and its division
            replace_once(self._trainer, "_load_callback_state", load_callback_state, self._until_end)

    @guarded(HOOK)
    def is_placed(self) -> None:
        """The Trainer has computed where in the data to begin."""
        state = self._trainer.state
        self._epoch, self._epoch_steps = getattr(state.global_step, "position", None) or (0, 0)
        state.global_step = int(state.global_step)

    @guarded(HOOK)
    def epoch_began(self) -> None:
        """Restore the random states of the epoch's start, so that the same batches are drawn and skipped."""
        if self._epoch_steps and self._checkpoint is not None:
            folder = os.path.join(self._checkpoint, _EPOCH)
            if os.path.isdir(folder):  # otherwise it was saved without us
                # of the class: the instance's method may be replaced for its next call, which comes after those batches
                type(self._trainer)._load_rng_state(self._trainer, folder)
        self._epoch_random = rng_state.take()

    def step_ended(self) -> None:
        """A step of this epoch was done."""
        self._epoch_steps += 1

    def epoch_ended(self) -> None:
        """An epoch has ended, and the next one has not begun."""
        self._epoch, self._epoch_steps, self._epoch_random = self._epoch + 1, 0, None

    def _fits(self, path: str) -> bool:
        """Whether a checkpoint that stores no identity belongs to this call."""
        number = _first_note(path).get("train_call")
        if number is not None:  # more reliable than its folder, which may be new each time, or shared
            return bool(number == self._number)
        output_dir = os.path.realpath(self._trainer.args.output_dir)
        return os.path.realpath(path).startswith(os.path.join(output_dir, ""))

    def restore(self, ignore_keys: Any) -> bool:
        """Restore what the checkpoint lacks. Called when the Trainer is ready for its first step.

        Returns whether the training had ended, and no more steps are requested now: then no step is done. ignore_keys:
        for evaluations. Raises what an evaluation raises.
        """
        self._first_step = self._trainer.state.global_step
        self._began_at = time.monotonic()
        if self._checkpoint is None:
            return False
        note = _read_note(self._checkpoint)
        self._carry_loss(note)
        self._carry_mean_loss(note)
        if note.get("is_evaluation_due"):
            self._evaluate(self._checkpoint, ignore_keys)
        return self._is_over(note)

    @guarded(HOOK, otherwise=False)
    def _is_over(self, note: dict[str, Any]) -> bool:
        state = self._trainer.state
        if not note.get("is_finished") or state.global_step < state.max_steps != note.get("max_steps"):
            return False
        self._trainer._load_rng_state(self._checkpoint)

        # whether another epoch begins depends on where the last one ended; if one does, it gets no batches
        def get_batch_samples(*_: Any, **__: Any) -> tuple[list[Any], None]:
            self._trainer.control.should_training_stop = True
            return [], None

        replace_once(self._trainer, "get_batch_samples", get_batch_samples, self._until_end)
        return True

    @guarded(HOOK)
    def _carry_loss(self, note: dict[str, Any]) -> None:
        """Restore the sum of the losses since the last log."""
        loss_sum = note.get("loss_sum")
        if loss_sum is None:
            return
        self._trainer._globalstep_last_logged = note["last_logged_step"]
        if hasattr(self._trainer, "_tr_loss"):
            self._trainer._tr_loss += loss_sum
            return

        # until 4.5x the sum is a local variable of the loop: add it to the first loss
        def training_step(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            loss = original(*args, **kwargs)
            return loss.new_tensor(loss_sum, dtype=sys.modules["torch"].float32) + loss

        replace_once(self._trainer, "training_step", training_step, self._until_end)

    @guarded(HOOK)
    def _carry_mean_loss(self, note: dict[str, Any]) -> None:
        """Make the final `train_loss` and the speed those of all sessions, as without an interruption."""
        if "total_loss" not in note:
            return
        trainer = self._trainer
        trainer._total_loss_scalar = note["total_loss"]
        self._first_step, self._earlier_s = note["first_step"], note["trained_s"]

        def finalize(original: Callable[..., Any], trial: Any, num_train_samples: Any, start_time: float) -> Any:
            trainer._initial_global_step = self._first_step
            return original(trial, num_train_samples, start_time - self._earlier_s)

        if hasattr(trainer, "_finalize_training"):  # until 4.5x the sum is divided by all steps anyway
            replace_once(trainer, "_finalize_training", finalize, self._until_end)

    def _evaluate(self, checkpoint: str, ignore_keys: Any) -> None:
        """Make the evaluation that was due at the checkpoint, with its random state; continue with the one after it."""
        trainer = self._trainer
        trainer._load_rng_state(checkpoint)
        metrics = trainer._evaluate(None, ignore_keys)
        # part of _save_checkpoint until 4.46: there a checkpoint that was evaluated later is never the best
        determine = getattr(trainer, "_determine_best_metric", None)
        if determine is not None and determine(metrics=metrics, trial=None):
            trainer.state.best_model_checkpoint = checkpoint
        folder = self._until_end.enter_context(random_state(trainer))
        # the Trainer restores the checkpoint's random state after it has skipped batches (line 1872)
        replace_once(trainer, "_load_rng_state", lambda original, _checkpoint: original(folder), self._until_end)

    def clean_up(self) -> None:
        """Undo all replacements: the call of `train` has ended."""
        self._until_end.close()

    def write_note(self, checkpoint: str, loss_sum: Any, *, is_evaluation_due: bool, is_finished: bool) -> None:
        """Write the note beside a checkpoint, on every rank. Raises OSError.

        loss_sum: a tensor of one item, the sum since the last log. is_finished: no step is missing.
        """
        self._save_epoch_random(checkpoint)
        note = {
            "train_call": self._number,
            "position": self._position(),
            "training": None if self._training is None else self._training.stored(is_finished=is_finished),
            "is_finished": is_finished,
            "max_steps": self._trainer.state.max_steps,
            "loss_sum": float(loss_sum.item()),
            "last_logged_step": self._trainer._globalstep_last_logged,
            "total_loss": self._trainer._total_loss_scalar,
            "first_step": self._first_step,
            "trained_s": self._earlier_s + time.monotonic() - self._began_at,
            "is_evaluation_due": is_evaluation_due,
        }
        with atomic_write(os.path.join(checkpoint, _NOTE.format(rank=distributed.rank()))) as file:
            file.write(json.dumps(note).encode())

    def _position(self) -> tuple[int, int]:
        """The epoch to train next, and the number of its steps that were done."""
        is_left = self._trainer.control.should_epoch_stop  # because a callback wants it
        return (self._epoch + 1, 0) if is_left else (self._epoch, self._epoch_steps)

    def _save_epoch_random(self, checkpoint: str) -> None:
        if self._epoch_random is None:
            return
        folder = os.path.join(checkpoint, _EPOCH)
        os.makedirs(folder, exist_ok=True)
        now = rng_state.take()
        rng_state.put_back(self._epoch_random)
        try:
            self._trainer._save_rng_state(folder)
        finally:
            rng_state.put_back(now)

    def saved(self, checkpoint: str, *, is_finished: bool) -> None:
        """A checkpoint of this training was reported."""
        if self._training is not None:
            self._training.saved(checkpoint, self._trainer.state.global_step, is_finished=is_finished)


def _is_trainers(checkpoint: Optional[str]) -> bool:
    return checkpoint is not None and os.path.isfile(os.path.join(checkpoint, _STATE))


def replace_once(trainer: Any, name: str, replacement: Callable[..., Any], until_end: ExitStack) -> None:
    """Replace the trainer's next call of one of its methods by `replacement`, which gets the method as first argument.

    until_end: when it ends, a method that was not called is restored.
    """
    method, own = getattr(trainer, name), vars(trainer).get(name)

    def restore() -> None:
        if own is None:
            vars(trainer).pop(name, None)
        else:
            setattr(trainer, name, own)

    def call(*args: Any, **kwargs: Any) -> Any:
        restore()
        return replacement(method, *args, **kwargs)

    setattr(trainer, name, call)
    until_end.callback(restore)


def _first_note(checkpoint: str) -> dict[str, Any]:
    """Rank 0's note of a checkpoint, on all ranks; empty if it was saved without us."""
    notes = sorted(glob.glob(os.path.join(glob.escape(checkpoint), _NOTE.format(rank="*"))))
    if not notes:
        return {}
    with open(notes[0], encoding="utf-8") as file:
        note: dict[str, Any] = json.load(file)
    return note


def _stored(checkpoint: str) -> Any:
    """What a checkpoint stores of its training, or None."""
    return _first_note(checkpoint).get("training")


@guarded(HOOK, otherwise={})
def _read_note(checkpoint: str) -> dict[str, Any]:
    """The note of a checkpoint by this rank; empty if it was saved without us."""
    try:
        with open(os.path.join(checkpoint, _NOTE.format(rank=distributed.rank())), encoding="utf-8") as file:
            note: dict[str, Any] = json.load(file)
    except FileNotFoundError:
        return {}
    return note


@contextmanager
def random_state(trainer: Any) -> Iterator[str]:
    """A temporary folder from which the Trainer can load its current random state."""
    folder = tempfile.mkdtemp(prefix="backprop-")
    try:
        trainer._save_rng_state(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
