"""Drives one training by Lightning's Trainer: reports, saves, stops and resumes.

Everything happens at one point of the loop: after a batch and its optimizer step, before what Lightning does between
batches (validation, schedulers, the end of an epoch). A resumed training does that first. Lightning has no hook at this
point, so methods of this trainer's loops are replaced, on the objects, while the training runs.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import warnings
from time import monotonic
from typing import Any, Callable, Optional

from ... import rng_state
from ...atomic_files import FOLDER, publish
from ...distributed import world_size
from ...failsafe import guarded, notify_user
from ...link import SupervisorLink
from .checkpoint_files import at_once, is_in, is_late, remove
from .position import KEY, FitMark, LoopPosition, is_over

WORTH_SAVING_S = 1.0  # a shorter training is simply repeated
_KEPT = 2  # of our own checkpoints: the newest, and one more in case it is damaged


class FitDriver:
    """Exists from on_train_start until the training ends."""

    def __init__(
        self,
        link: SupervisorLink,
        trainer: Any,
        callback: Any,
        mark: FitMark,
        resumed: Optional[LoopPosition],
        path: Optional[str],
    ) -> None:
        """mark: of this call of fit(). resumed, path: our entry in the checkpoint to resume from, and its path."""
        self._link = link
        self._trainer = trainer
        self._callback = callback
        self._mark = mark
        self._began = monotonic()
        self._first_step = trainer.global_step
        self._resumed = resumed
        self._is_order_new = False  # the order of an epoch's data must be drawn again
        self._first: Any = None  # random states before the epoch's first batch was drawn
        self._step = trainer.global_step
        self._total_steps = _total_steps(trainer)
        self._saving: Optional[_CheckpointMoment] = None  # what our checkpoint that is being saved holds
        self._validating: Optional[_CheckpointMoment] = None  # the start of the validation that is running
        self._saved = [path for path in [path] if path and is_in(path, self._folder())]
        if resumed is not None:
            # we handle that
            warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
        _share_sigterm(link)
        self._replaced: list[tuple[Any, str]] = []
        loop = trainer.fit_loop.epoch_loop
        self._replace(loop, "on_run_start", self._begin_data)
        self._replace(loop, "advance", self._advance)
        self._replace(loop.val_loop, "run", self._validate)
        self._replace(trainer, "save_checkpoint", self._save_of_script)
        self._replace(trainer._logger_connector, "log_metrics", self._log)  # noqa: SLF001

    def _replace(self, holder: Any, name: str, mine: Callable[..., Any]) -> None:
        original = getattr(holder, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            # inside lr_find during training (FineTuneLearningRateFinder in its docs) our callback is not among them
            if not any(callback is self._callback for callback in self._trainer.callbacks):
                return original(*args, **kwargs)
            return mine(original, *args, **kwargs)

        setattr(holder, name, call)
        self._replaced.append((holder, name))

    def leave(self) -> None:
        """Restore the methods that were replaced."""
        for holder, name in self._replaced:
            vars(holder).pop(name, None)
        self._replaced.clear()

    # -- the loop

    def epoch_begins(self) -> None:
        """Called before a new epoch begins."""
        resumed = self._resumed
        if resumed is None or resumed.is_after_batch:
            return
        self._resumed = None
        resumed.begin_epoch(self._trainer)
        resumed.begin_order(self._trainer)
        self._is_order_new = True

    def _begin_data(self, original: Callable[..., Any], fetcher: Any) -> None:
        original(fetcher)
        if self._trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0:
            # resuming after an epoch's last batch, Lightning begins the next one without calling its hooks
            self.epoch_begins()
        if self._is_order_new:
            self._is_order_new = False
            iter(fetcher)  # Lightning began the data before the random states were restored
        if self._resumed is not None:
            self._resumed.begin_data(self._trainer, self._leave_if_wished)
            if not self._resumed.is_after_batch:
                self._go_on(self._resumed)

    def _leave_if_wished(self) -> None:
        """Stop while batches are skipped: nothing is lost, because the checkpoint exists."""
        if world_size() == 1 and self._link.should_stop():
            self._stop()

    def _go_on(self, resumed: LoopPosition) -> None:
        self._resumed = None
        self._first = resumed.go_on(self._trainer)
        # while restarting, Lightning steps no schedulers that need a metric (fit_loop.py, on_advance_end), because it
        # has none: they are restored here. The loop's setter does not always set
        self._trainer.fit_loop._restarting = False  # noqa: SLF001

    def _advance(self, original: Callable[..., Any], fetcher: Any) -> None:
        loops = self._trainer.fit_loop, self._trainer.fit_loop.epoch_loop
        if self._resumed is not None and self._resumed.is_after_batch:
            # this batch was done; what Lightning does after a batch follows
            self._go_on(self._resumed)
            loops[1].val_loop.restarting = False
            return
        if loops[1].batch_progress.current.ready == 0:
            self._first = rng_state.take()
        original(fetcher)
        self._after_batch()

    def _after_batch(self) -> None:
        step = self._trainer.global_step
        # with gradient accumulation a batch is not always a step; but after SIGTERM Lightning ends here
        is_left = world_size() == 1 and self._is_terminated()
        if step == self._step and not is_left:
            return
        self._step = step
        request = self._link.at_step_end(step, total_steps=self._total_steps)
        if request.stop or request.save:
            self._report(step, {})
        if self._is_last():
            return
        if request.save or request.stop or is_left:
            self._save(_CheckpointMoment(self._trainer, self._first))
        if request.stop:
            self._stop()

    def _is_last(self) -> bool:
        """Whether only the last validation is missing: fit() would not resume from here (fit_loop.done)."""
        return bool(0 <= self._trainer.max_steps <= self._step)

    def _is_terminated(self) -> bool:
        """Whether SIGTERM came, after which Lightning ends after this batch."""
        return bool(getattr(self._trainer, "received_sigterm", False))

    def _stop(self) -> None:
        # by exception, as Lightning itself ends after SIGTERM: trainer.should_stop would first validate, and end the
        # epoch and the training, with all hooks, logs and checkpoints of a training that is complete
        self._link.accept_stop()
        self._link.end_script()

    # -- validation

    def _validate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if world_size() > 1:
            return original(*args, **kwargs)  # each rank validates at its own pace: they agree at the next step
        self._validating = _CheckpointMoment(self._trainer, self._first, is_before_validation=True)
        try:
            return original(*args, **kwargs)
        finally:
            self._validating = None
            self._link.restart_step_timer()

    def validation_batch_ended(self) -> None:
        """A stop interrupts the validation: the checkpoint is from its start."""
        moment = self._validating
        if moment is None or not (self._link.should_stop() or self._is_terminated()):
            return
        if self._is_last() or not moment.is_still_so(self._trainer):
            return
        self._save(moment)
        if self._link.should_stop():
            self._stop()
        self._validating = None

    # -- checkpoints

    def complete(self, checkpoint: dict[str, Any]) -> None:
        """Add our entry to any checkpoint, on all ranks."""
        moment = self._saving
        if moment is not None and moment.loops is not None:
            checkpoint["loops"]["fit_loop"] = moment.loops
        state = LoopPosition.take(self._trainer, self._first) if moment is None else moment.state
        checkpoint[KEY] = LoopPosition.entry(self._trainer, self._mark, state, is_after_batch=moment is not None)

    def _folder(self) -> str:
        root = str(self._trainer.default_root_dir)
        # a folder for each run, because two may train in one folder; remote files cannot be renamed
        return os.path.join(os.getcwd() if "://" in root else root, FOLDER, self._link.run_id)

    @guarded("the end of a training by Lightning")
    def training_ended(self) -> None:
        """Save the result, unless it is quick to train again: the script may be stopped in what follows."""
        trainer = self._trainer
        if trainer.global_step == self._first_step or getattr(trainer, "fast_dev_run", False):
            return
        # ranks may have begun at different times, but must agree
        if world_size() > 1 or monotonic() - self._began >= WORTH_SAVING_S:
            self._step = trainer.global_step
            self._save(None)

    def _save(self, moment: Optional[_CheckpointMoment]) -> None:
        """Save through the Trainer, on all ranks. The final name is given to a complete checkpoint only.

        moment: the state to save; None for the current one, when training has ended.
        """
        training = self._mark.training
        name = f"step-{self._step:08}.ckpt" if training is None else f"{training.name}-step-{self._step:08}.ckpt"
        path = os.path.join(self._folder(), name)
        self._saving = moment
        try:
            with self._link.saving(), at_once(self._trainer.strategy):
                type(self._trainer).save_checkpoint(self._trainer, f"{path}.new", weights_only=False)
                if self._trainer.is_global_zero:
                    publish(f"{path}.new", path)
                self._trainer.strategy.barrier("backprop")
                self._link.report_checkpoint(path, self._step)
                self._remember(path)
        except Exception as error:  # noqa: BLE001  a full disk, or a model that cannot be saved: training continues
            notify_user(f"no checkpoint at step {self._step}: {type(error).__name__}: {error}")
            return
        finally:
            self._saving = None
        if path not in self._saved:
            self._saved.append(path)
        if self._trainer.is_global_zero:
            self._forget()

    @guarded("old checkpoints of Lightning")
    def _forget(self) -> None:
        while len(self._saved) > _KEPT:
            remove(self._saved.pop(0))

    def _save_of_script(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Report what the script saves, by ModelCheckpoint or itself."""
        with self._link.saving():
            original(*args, **kwargs)
            path = str(args[0] if args else kwargs["filepath"])
            is_weights_only = args[1] if len(args) > 1 else kwargs.get("weights_only")
            # lr_find and scale_batch_size save temporary files with hidden names
            is_hidden = os.path.basename(path).startswith(".")
            if not (is_weights_only or is_hidden or is_late(self._trainer.strategy) or "://" in path):
                self._link.report_checkpoint(path, self._trainer.global_step)
                self._remember(path)

    def _remember(self, path: str) -> None:
        if self._mark.training is not None:
            self._mark.training.saved(path, self._trainer.global_step, is_finished=is_over(self._trainer))

    # -- metrics

    def _log(self, original: Callable[..., Any], metrics: Any, step: Optional[int] = None) -> None:
        original(metrics, step)
        if metrics and step is None:  # with a step: batches of a validation, which have their own count
            self._report(self._trainer.global_step, {"epoch": self._trainer.current_epoch, **metrics})

    def _report(self, step: int, metrics: dict[str, Any]) -> None:
        self._link.steps.log(step, metrics, self._total_steps)


class _CheckpointMoment:
    """The state right after a batch, for a checkpoint."""

    def __init__(self, trainer: Any, first: Any, *, is_before_validation: bool = False) -> None:
        """is_before_validation: the checkpoint may be saved later, during the validation."""
        self.state = LoopPosition.take(trainer, first)
        self.loops = trainer.fit_loop.state_dict() if is_before_validation else None
        self._sums = _sums(trainer) if is_before_validation else None

    def is_still_so(self, trainer: Any) -> bool:
        """Whether the weights are unchanged: some callbacks validate with other weights (WeightAveraging)."""
        return self._sums is not None and bool(self._sums == _sums(trainer))


@guarded("stops during Lightning's validation")
def _sums(trainer: Any) -> list[float]:
    torch = sys.modules["torch"]
    with torch.no_grad():
        sums = [weight.sum(dtype=torch.float64) for weight in trainer.lightning_module.parameters()]
    return [float(each) for each in sums]


@guarded("the number of steps to come")
def _total_steps(trainer: Any) -> Optional[int]:
    steps = trainer.estimated_stepping_batches
    return int(steps) if math.isfinite(steps) and steps > 0 else None


@guarded("SIGTERM in Lightning")
def _share_sigterm(link: SupervisorLink) -> None:
    """Leave the first SIGTERM to Lightning, which ends after the batch.

    It takes our handler for the user's, and calls it after its own (signal_connector.py); ours would end the process
    if no stop was requested before.
    """
    handlers = getattr(signal.getsignal(signal.SIGTERM), "signal_handlers", [])
    ours = link.interrupts._terminate  # noqa: SLF001

    def only_second(number: int, frame: Any) -> None:
        if link.interrupts.is_interrupted:
            ours(number, frame)

    handlers[:] = [only_second if handler == ours else handler for handler in handlers]
