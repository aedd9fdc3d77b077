"""The position in the training data of a Keras fit, and how to return to it.

Keras draws the order of the data when it makes an iterator, or when the first batch is taken from it. So a position is
the random states of both moments and the number of batches taken since. With `steps_per_epoch`, one iterator is used
for several epochs; without it, each epoch makes its own: trainers/epoch_iterator.py, `_enumerate_iterator`.
"""

from __future__ import annotations

from typing import Any, Callable

from . import state


class DataPosition:
    """Observes how an EpochIterator makes its iterators, or moves one to a saved position."""

    def __init__(self) -> None:
        self._made: Any = None  # random states when the current iterator was made
        self._began: Any = None  # and before its first batch was taken, if that was later
        self._taken = 0
        self._watched: Any = None

    def took(self, count: int) -> None:
        """`count` batches were taken from the iterator."""
        self._taken += count

    def place(self) -> dict[str, Any]:
        """The position, for a checkpoint."""
        return {"made": self._made, "began": self._began, "taken": self._taken}

    def watch(self, epochs: Any) -> None:
        """Called before an epoch begins. epochs: the EpochIterator."""
        if self._watched is not epochs:
            self._watched = epochs
            make = epochs._get_iterator  # noqa: SLF001  all backends make their iterators here

            def remember_and_make() -> Any:
                self._made, self._began, self._taken = state.random_states(), None, 0
                return make()

            epochs._get_iterator = remember_and_make  # noqa: SLF001
        if self._made is not None and self._taken == 0:
            self._began = state.random_states()

    def reopen(self, epochs: Any, original: Callable[[Any], Any], place: dict[str, Any], batches: int) -> Any:
        """Iterate over an epoch from the step whose last batch has the 1-based number `batches`.

        original: EpochIterator.__iter__. That step is repeated, so that the loop has one to begin with. Raises
        ValueError if there is less data.
        """
        state.put_back_random(place["made"])
        if epochs.steps_per_epoch is not None:
            iterator = epochs._current_iterator = iter(epochs._get_iterator())  # noqa: SLF001
            if place["began"] is not None:
                state.put_back_random(place["began"])
                self._began = place["began"]
            epochs._steps_seen = place["taken"] - batches  # noqa: SLF001
            for _ in range(place["taken"] - batches):
                _take(iterator)
        opened = original(epochs)
        at_once = epochs.steps_per_execution
        for _ in range((batches - 1) // at_once):
            try:
                _, _, data = next(opened)
            except StopIteration:
                raise ValueError("there is less data than when the checkpoint was saved") from None
            if not isinstance(data, list):  # JAX and TensorFlow pass their iterator; PyTorch passes batches
                for _ in range(at_once):
                    _take(data)
        self._taken = place["taken"] - at_once
        return opened


def _take(iterator: Any) -> None:
    try:
        next(iterator)
    except StopIteration:
        raise ValueError("there is less data than when the checkpoint was saved") from None
