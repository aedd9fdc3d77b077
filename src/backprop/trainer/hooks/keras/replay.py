"""How a fit gets back to the state after the last batch of its checkpoint: Keras's loop repeats it without training."""

from __future__ import annotations

from typing import Any, Callable, Optional

from ...failsafe import notify_user
from . import state
from .data_position import DataPosition


class Replay:
    """The checkpoint that a fit continues from, until its state is restored."""

    def __init__(self, saved: dict[str, Any], model: Any, name: str) -> None:
        """saved: the content of the checkpoint. name: of the fit, for messages."""
        self.saved = saved
        self._model = model
        self._name = name
        self._train_function: Any = None

    def is_possible(self, steps: Optional[int]) -> bool:
        """Whether the model and its data have the shape of the saved ones; the user is told if not.

        steps: batches of an epoch, where known.
        """
        saved, model = self.saved, self._model
        if model.built and state.shapes(model) != saved["shapes"]:
            notify_user(f"{self._name} is trained from scratch: its model has other shapes than the checkpoint's")
            return False
        if saved["steps"] != steps and not saved["is_done"]:
            notify_user(
                f"an epoch has {steps} steps, and had {saved['steps']} before: the model is trained from scratch"
            )
            return False
        return model.built or not saved["is_done"]

    def restore(self, callback_states: state.CallbackStates) -> None:
        """Set the model, its callbacks and the random generators to what was saved."""
        state.sync_variables(self._model)
        state.assign(self._model, self.saved["weights"], self.saved["metrics"])
        callback_states.restore(self.saved["callbacks"])
        self._model.stop_training = self.saved["stop_training"]
        state.put_back_random(self.saved["random"])

    def open(self, epochs: Any, original: Callable[[Any], Any], position: DataPosition) -> Any:
        """The epoch's data from its last batch that was done, which is not trained again.

        epochs: an EpochIterator; original: its __iter__.
        """
        opened = position.reopen(epochs, original, self.saved["place"], self.saved["batches"])
        self._train_function, self._model.train_function = self._model.train_function, self._not_train
        return opened

    def close(self) -> None:
        """That batch was repeated: those that follow are trained."""
        self._model.train_function = self._train_function

    def _not_train(self, *given: Any) -> Any:
        """The train function for the batch that is repeated. given: arguments of the backend's train function."""
        data = given[-1]
        if not isinstance(data, list):
            batch = None
            for _ in range(self._model.steps_per_execution):
                batch = next(data, batch)  # the last step of an epoch may have fewer
            # TensorFlow builds model, metrics and optimizer in the first step: backend/tensorflow/trainer.py,
            # _maybe_symbolic_build. What is built already is left alone.
            self._model._symbolic_build(data_batch=batch)  # noqa: SLF001
        logs = dict(self.saved["logs"])
        return (logs, given[0]) if len(given) == 2 else logs  # JAX passes and returns the model's state
