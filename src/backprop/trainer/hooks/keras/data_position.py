"""The training data of a Keras fit: how its order came about, and how to come back to a place in it.

Keras draws the order when it makes an iterator, or when the first batch is taken from it; so the random states of both
moments and the number of batches taken since are a place in the data. With `steps_per_epoch` one iterator is used over
several epochs; without, each epoch makes its own: trainers/epoch_iterator.py, `_enumerate_iterator`.
"""

from __future__ import annotations

from typing import Any, Callable

from . import state


class DataPosition:
    """Looks on as an EpochIterator makes its iterators, or puts it to a place where another one was."""

    def __init__(self) -> None:
        self._made: Any = None  # random states when the present iterator was made
        self._began: Any = None  # and when its first batch was about to be taken, if that was another time
        self._taken = 0
        self._watched: Any = None

    def took(self, count: int) -> None:
        """So many batches were taken from the iterator."""
        self._taken += count

    def place(self) -> dict[str, Any]:
        """Where we are."""
        return {"made": self._made, "began": self._began, "taken": self._taken}

    def watch(self, epochs: Any) -> None:
        """An epoch is about to begin. epochs: the EpochIterator."""
        if self._watched is not epochs:
            self._watched = epochs
            make = epochs._get_iterator  # noqa: SLF001  the one place where all backends make one

            def remember_and_make() -> Any:
                self._made, self._began, self._taken = state.random_states(), None, 0
                return make()

            epochs._get_iterator = remember_and_make  # noqa: SLF001
        if self._made is not None and self._taken == 0:
            self._began = state.random_states()

    def reopen(self, epochs: Any, original: Callable[[Any], Any], place: dict[str, Any], batches: int) -> Any:
        """An epoch that is iterated from before the step whose last batch is number `batches`, counted from one.

        original: EpochIterator.__iter__. That one step is given once more, so that the loop has something to begin
        with. Raises ValueError if the data ends before.
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
            if not isinstance(data, list):  # JAX and TensorFlow hand their iterator on; PyTorch what it gave
                for _ in range(at_once):
                    _take(data)
        self._taken = place["taken"] - at_once
        return opened


def _take(iterator: Any) -> None:
    try:
        next(iterator)
    except StopIteration:
        raise ValueError("there is less data than when the checkpoint was saved") from None
