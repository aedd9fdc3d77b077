"""One `fit` of a script: what is done at its events, so that it stops after a batch and resumes there.

A checkpoint is always saved after a batch, never between epochs, so that there is one way to resume: the fit begins the
epoch again, skips the data of all batches that were done but the last, and gives that one to Keras's loop, with a train
function that does not train. Then everything is restored to the state right after that batch. The loop sees no
difference, and callbacks are not called for the batch again.

A checkpoint holds the identity of its fit (trainings/identity.py), and only that fit continues from it, in whatever
process and order the script makes its fits. In a resumed script, fits that were finished get their final state if they
took long enough for it to be saved, and are trained again otherwise.
"""

from __future__ import annotations

import json
import os
from time import monotonic
from typing import Any, Callable, Mapping, Optional

from ... import distributed
from ...atomic_files import FOLDER
from ...channel import as_number
from ...failsafe import guarded, is_off, notify_user
from ...link import SupervisorLink
from ...trainings import finished, registry
from ...trainings.registry import Training
from . import state
from . import state_file as statefile
from .data_position import DataPosition
from .identity import identity_of
from .replay import Replay

HOOK = "keras"
FORMAT = "backprop keras 1"
LOG_EVERY_S = 0.2
WORTH_KEEPING_S = finished.WORTH_KEEPING_S
SAVE_AGAIN_S = 30.0  # after a save that failed


class FitSequence:
    """All fits of this process, in order."""

    def __init__(self, link: SupervisorLink) -> None:
        self.link = link
        self.folder = os.path.join(os.getcwd(), FOLDER, link.run_id)
        self.step = 0  # batches trained by all fits so far
        self._fits = 0
        self._is_looked_for = False
        self._is_offered = False  # the offered checkpoint stores the identity of its fit
        self._chosen: Any = None

    def begin(self, model: Any, given: Mapping[str, Any]) -> Fit:
        """The next fit. given: its arguments, by name."""
        number, self._fits = self._fits, self._fits + 1
        offered = self.link.resume_from
        if offered is not None and not offered.endswith(".npz"):
            offered = None  # not one of ours
        self.link.announce_inspection(may_be_ours=offered is not None)
        training = registry.of(self.link).begin(identity_of(model, given, self.link.resume_from), model)
        path = offered
        if not self._is_looked_for:
            self._is_looked_for = True
            about = _read(offered, has_arrays=False)
            if about is not None and "training" not in about:  # of an earlier version, which only counted fits
                self._chosen = _read(offered)
            self._is_offered = about is not None and "training" in about
        chosen, resumed = self._chosen, None
        if chosen is not None:
            if number == chosen["fit"]:
                resumed = chosen
                self._chosen = None
            elif number < chosen["fit"]:
                path = os.path.join(os.path.dirname(str(offered)), f"fit-{number + 1}-end.npz")
                resumed = _read(path)
        else:
            offered = offered if self._is_offered else None
            path = training.choose(f"fit {number + 1}", offered, _stored, or_else="is trained from scratch")
            resumed = _read(path)
        if resumed is not None and resumed["initial_epoch"] != given.get("initial_epoch", 0):
            resumed = None  # the script itself has chosen where to begin
        if resumed is not None and resumed["is_done"] and not _is_of_same_data(resumed, training):
            notify_user(f"fit {number + 1} is trained from scratch: its data have changed")
            resumed = None
        self.link.set_resume_source(None if resumed is None else path)
        return Fit(self, model, number, given, resumed, training)

    @property
    def is_behind(self) -> bool:
        """Whether a checkpoint that only counts fits is of a later one: nothing is saved before that one begins."""
        return self._chosen is not None


def _stored(path: str) -> Any:
    """What a checkpoint stores of its training, or None."""
    return (_read(path, has_arrays=False) or {}).get("training")


def _is_of_same_data(saved: dict[str, Any], training: Training) -> bool:
    stored = saved.get("training")
    return stored is None or stored["identity"]["data"] == training.identity.data


def _read(path: Optional[str], *, has_arrays: bool = True) -> Any:
    """The content of a checkpoint; None if it is not ours."""
    if path is None or not os.path.isfile(path):
        return None
    try:
        tree = statefile.read(path, has_arrays=has_arrays)
    except ValueError:
        return None
    return tree if isinstance(tree, dict) and tree.get("format") == FORMAT else None


class Fit:
    """One call of `fit`. Its methods are called at Keras's events, in the order in which they are defined."""

    def __init__(
        self,
        fits: FitSequence,
        model: Any,
        number: int,
        given: Mapping[str, Any],
        resumed: Optional[dict[str, Any]],
        training: Training,
    ) -> None:
        self.is_replaying = False  # the loop is about to repeat the last batch that was done
        self.awaits_data = False  # the next iterator that Keras makes is for the epoch
        self._fits_of_process = fits
        self._link = fits.link
        self._model = model
        self._number = number
        self._initial_epoch = given.get("initial_epoch", 0)
        self._epochs = given.get("epochs", 1)
        self._training = training
        self._took_s = 0.0 if resumed is None else resumed.get("took_s", 0.0)  # in earlier sessions
        self._replay = None if resumed is None else Replay(resumed, model, f"fit {number + 1}")
        self._began = monotonic()
        self._callbacks: Any = None  # the CallbackList of this fit
        self._callback_states: Any = None
        self._data_position = DataPosition()
        self._first_step = fits.step
        self._steps: Optional[int] = None  # batches per epoch, if known
        self._epoch = 0
        self._batches = 0  # of this epoch
        self._model_begins_at: Any = None  # the epoch that the model itself wants to begin with
        self._log_at = 0.0
        self._save_at = 0.0
        self._last: Any = None  # logs, random states and position after an epoch's last batch
        self._before_validation: Any = None  # a checkpoint without the weights
        self._is_cut = False  # a validation was interrupted

    def listens_to(self, callbacks: Any) -> bool:
        """Whether this CallbackList belongs to this fit: the first one that trains does."""
        if self._callbacks is None and not is_off(HOOK):
            self._callbacks = callbacks
        return self._callbacks is callbacks and not is_off(HOOK)

    # -- beginning

    @guarded(HOOK)
    def train_begins(self) -> None:
        """Before callbacks are told that training begins."""
        self._steps = self._callbacks.params.get("steps")
        self._model_begins_at = self._model._initial_epoch  # noqa: SLF001  set by Keras's BackupAndRestore
        if self._replay is not None and not self._replay.is_possible(self._steps):
            self._replay = None
        if self._replay is not None:
            for callback in self._callbacks.callbacks:
                if type(callback).__name__ == "CSVLogger":
                    callback.append = True  # otherwise it would overwrite its file

    def train_began(self) -> None:
        """After callbacks were told. From now on, failing to restore is an error: half of a state is useless."""
        self._callback_states = state.CallbackStates(self._callbacks.callbacks)
        replay = self._replay
        if replay is None:
            self._fits_of_process.step += self._earlier_steps()
            return
        saved = replay.saved
        self._first_step, self._fits_of_process.step = saved["first_step"], saved["step"]
        self._model._initial_epoch = saved["epoch"]  # noqa: SLF001
        if saved["is_done"] and self._epochs > saved["epochs"]:  # more epochs are requested than before
            replay.restore(self._callback_states)
            self._replay = None
            self._model.stop_training = False
        elif saved["is_done"]:
            self._model._initial_epoch = self._epochs  # noqa: SLF001

    def _earlier_steps(self) -> int:
        """Batches of an earlier session, where Keras's BackupAndRestore goes on after its last epoch."""
        begins_at: int = self._model._initial_epoch or self._initial_epoch  # noqa: SLF001
        earlier: int = max(0, begins_at - self._initial_epoch)
        return earlier * (self._steps or 0)

    def epoch_began(self, epoch: int) -> None:
        """Before Keras opens the epoch's data."""
        self._epoch, self._batches = epoch, 0
        self._last = self._before_validation = None
        self.awaits_data = True
        self._link.restart_step_timer()

    def open(self, epochs: Any, original: Callable[[Any], Any]) -> Any:
        """The epoch's data, from the batch to continue with. epochs: an EpochIterator; original: its __iter__."""
        self.awaits_data = False
        self._watch(epochs)
        if self._replay is None:
            return original(epochs)
        opened = self._replay.open(epochs, original, self._data_position)
        self.is_replaying = True
        return opened

    @guarded(HOOK)
    def _watch(self, epochs: Any) -> None:
        self._data_position.watch(epochs)

    def replayed(self) -> None:
        """After the batch was repeated: everything is restored to the state right after it."""
        replay, self._replay = self._replay, None
        assert replay is not None  # noqa: S101  for the type checker
        self.is_replaying = False
        replay.close()
        self._batches = replay.saved["batches"]
        self._data_position.took(self._model.steps_per_execution)
        replay.restore(self._callback_states)
        self._note_last(replay.saved["logs"])
        self._link.restart_step_timer()

    # -- training

    def batch_ended(self, batch: int, logs: Any) -> None:
        """After a batch was trained. batch: its 0-based number in the epoch; of several at once, the last one's."""
        self._fits_of_process.step += batch + 1 - self._batches
        self._batches = batch + 1
        self._data_position.took(self._model.steps_per_execution)
        request = self._link.at_step_end(self._fits_of_process.step, total_steps=self._total_steps)
        is_wanted = request.stop or (request.save and monotonic() >= self._save_at)
        if is_wanted or monotonic() >= self._log_at:
            self._log_at = monotonic() + LOG_EVERY_S
            self._log(logs)
        if is_wanted:
            self._save_now(logs)
        if request.stop:
            self._stop()
        self._note_last(logs)

    @guarded(HOOK)
    def _log(self, logs: Any) -> None:
        metrics = {**(logs or {}), "epoch": self._epoch}
        self._link.steps.log(self._fits_of_process.step, metrics, self._total_steps)

    @property
    def _total_steps(self) -> Optional[int]:
        """Batches of all fits of the process, this one included; None if an epoch's number of batches is not known."""
        if self._steps is None:
            return None
        return int(self._first_step + (self._epochs - self._initial_epoch) * self._steps)

    def _flush(self) -> None:
        """Wait until callbacks that run asynchronously have seen this batch."""
        flush = getattr(self._callbacks, "_flush_futures", None)
        if flush is not None:
            flush()

    @guarded(HOOK)
    def _note_last(self, logs: Any) -> None:
        if self._batches == self._steps:
            self._last = (logs, state.random_states(), self._data_position.place())

    @guarded(HOOK)
    def _save_now(self, logs: Any) -> None:
        self._flush()
        state.sync_variables(self._model)
        self._save(self._checkpoint(logs))

    def _stop(self) -> None:
        self._link.accept_stop()
        self._link.end_script()

    @guarded(HOOK)
    def validation_begins(self) -> None:
        """Before metrics are reset: their values now go into the checkpoint if the validation is interrupted."""
        if self._last is not None and self._before_validation is None:
            self._flush()
            state.sync_variables(self._model)
            logs, random, place = self._last
            self._before_validation = {**self._checkpoint(logs), "random": random, "place": place}

    @guarded(HOOK)
    def validation_batch_ended(self) -> None:
        """A stop interrupts a long validation.

        Keras then runs to the end of the validation without the rest of its data, so that callbacks that change weights
        for it (SwapEMAWeights) change them back.
        """
        if self._before_validation is not None and distributed.world_size() == 1 and self._link.should_stop():
            self._model.stop_evaluating = self._is_cut = True

    def epoch_ends(self) -> None:
        """Before callbacks are told that an epoch ends. Stops here if its validation was interrupted."""
        if self._is_cut:
            self._save(self._before_validation)
            self._stop()

    def epoch_ended(self, epoch: int, logs: Any) -> None:
        """After callbacks were told."""
        self._epoch = epoch
        self._log(logs)
        self._link.restart_step_timer()

    # -- ending

    def ended(self) -> None:
        """Keras's fit has ended by itself."""
        if is_off(HOOK) or self._callback_states is None:
            return
        if self._replay is not None:  # an earlier session had finished it, and Keras's loop had nothing to do
            self._replay.restore(self._callback_states)
        elif self._took() >= WORTH_KEEPING_S:
            self._keep_end()

    def _took(self) -> float:
        return self._took_s + monotonic() - self._began

    @guarded(HOOK)
    def _keep_end(self) -> None:
        state.sync_variables(self._model)
        done = {**self._checkpoint({}), "is_done": True, "epoch": self._epoch + 1, "batches": 0}
        self._save(done, finished.name(f"fit-{self._training.name}", self._took(), ".npz"))

    def leave(self) -> None:
        """Clean up, however it ended."""
        if self._callbacks is not None:
            self._model._initial_epoch = self._model_begins_at  # noqa: SLF001

    # -- saving

    def _checkpoint(self, logs: Any) -> dict[str, Any]:
        """A checkpoint after this batch, except for the weights. Call `state.sync_variables` before."""
        numbers = {name: as_number(value) for name, value in (logs or {}).items()}
        return {
            "format": FORMAT,
            "fit": self._number,
            "is_done": False,
            "took_s": self._took(),
            "initial_epoch": self._initial_epoch,
            "epochs": self._epochs,
            "steps": self._steps,
            "first_step": self._first_step,
            "step": self._fits_of_process.step,
            "epoch": self._epoch,
            "batches": self._batches,
            "logs": {name: number for name, number in numbers.items() if number is not None},
            "stop_training": bool(self._model.stop_training),
            "shapes": state.shapes(self._model),
            "metrics": state.metrics(self._model),
            "callbacks": self._callback_states.capture(),
            "place": self._data_position.place(),
            "random": state.random_states(),
        }

    def _save(self, checkpoint: dict[str, Any], name: Optional[str] = None) -> None:
        if self._fits_of_process.is_behind or distributed.rank() != 0:
            return
        step = checkpoint["step"]
        path = os.path.join(self._fits_of_process.folder, name or f"step-{step:06}-{self._training.name}.npz")
        try:
            with self._link.saving():
                os.makedirs(self._fits_of_process.folder, exist_ok=True)
                is_done = checkpoint["is_done"]
                stored = json.loads(json.dumps(self._training.stored(is_finished=is_done)))
                content = {**checkpoint, "training": stored, "weights": state.weights(self._model)}
                statefile.write(path, content)
                self._link.report_checkpoint(path, step)
                self._training.saved(path, step, is_finished=is_done)
            if is_done:
                finished.keep_within_bounds(path, self._link.resume_from)
        except OSError as error:  # usually a full disk; later ones may fit again
            notify_user(f"no checkpoint at step {step}: {error}")
            self._save_at = monotonic() + SAVE_AGAIN_S
