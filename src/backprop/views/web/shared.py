"""What many pages are told of single runs: made once for each change, by whoever asks first."""

import threading
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Told(NamedTuple):
    """What is said of a run."""

    key: bytes  # all of it but the time that passes by itself
    text: bytes


class Shared(Generic[T]):
    """One thing a run. May be asked by many threads: those that ask for what is being made wait for it."""

    def __init__(self, max_kept: int) -> None:
        self._max_kept = max_kept
        self._made: dict[str, tuple[int, T]] = {}  # number of the beat that it was made at, or before a later one
        self._makers: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, run_id: str, changed_at: int, beat: int, make: Callable[[], T]) -> T:
        """What was made since the run changed, else what `make` gives now.

        changed_at, beat: numbers of the beat at which the run may have changed, and of the one that is now.
        """
        with self._lock:
            if run_id not in self._makers and len(self._makers) >= self._max_kept:
                self._made.clear()
                self._makers.clear()
            maker = self._makers.setdefault(run_id, threading.Lock())
        with maker:
            known = self._made.get(run_id)
            if known is not None and known[0] >= changed_at:
                return known[1]
            made = make()
            self._made[run_id] = beat, made
            return made
