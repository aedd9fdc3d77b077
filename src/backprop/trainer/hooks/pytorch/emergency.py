"""What is saved for a script that did not answer a stop: weights and optimizer state of what it was training.

The file is what `torch.load` (with its safe defaults) gives as

    {"format": "backprop-emergency", "step": 1234,
     "models": [{"class": "Net", "state_dict": ...}],
     "optimizers": [{"class": "AdamW", "state_dict": ..., "parameters": [...]}],   # those of no model, in order
     "random": {"python": ..., "numpy": ..., "torch": ..., "cuda": ...}}

It is no format of the script's own: a person can load it, and nothing resumes from it unasked.
"""

from __future__ import annotations

import gc
import sys
import threading
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any, Callable, Iterator

from ... import atomic_files, distributed, rng_state

_STEP_PATIENCE_S = 5.0  # no step of an optimizer takes as long, unless it hangs


class UnsaveableError(Exception):
    """No process alone can save this."""


class StepPause:
    """Makes other threads wait between two steps of their optimizers, so that what is copied is of one step."""

    def __init__(self, step: Any, *parked: Any) -> None:
        """step: the code object of whatever makes a step. parked: of what is done within, before or after all of it."""
        self._step = step
        self._parked = {type(self).wait.__code__, *parked}
        self._one_at_a_time = threading.Lock()
        self._is_over = threading.Event()
        self._is_over.set()

    def wait(self) -> None:
        """Called by every thread right before it makes a step."""
        if not self._is_over.is_set():
            self._is_over.wait()

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Within, no other thread makes a step. False: one is in the middle of a step, and does not come out of it.

        Waits for another thread that holds them. The caller makes no step within.
        """
        with self._one_at_a_time:
            self._is_over.clear()
            try:
                give_up_at = monotonic() + _STEP_PATIENCE_S
                while (is_stepping := self._is_another_stepping()) and monotonic() < give_up_at:
                    sleep(0.002)
                yield not is_stepping
            finally:
                self._is_over.set()

    def _is_another_stepping(self) -> bool:
        # asked of the stacks: a step that failed leaves no trace there, and steps cost nothing more than they did
        own = threading.get_ident()
        frames = sys._current_frames()  # noqa: SLF001  documented
        return any(self._is_within(frame) for thread, frame in frames.items() if thread != own)

    def _is_within(self, frame: Any) -> bool:
        while frame is not None:
            if frame.f_code in self._parked:
                return False
            if frame.f_code is self._step:
                return True
            frame = frame.f_back
        return False


def find_models(optimizers: list[Any]) -> list[Any]:
    """The living modules that hold what these optimizers train, outermost only, the largest first."""
    module_type = sys.modules["torch"].nn.Module
    trained = {id(parameter) for optimizer in optimizers for parameter in _parameters(optimizer)}
    # by type(), not isinstance(): a proxy's __class__ may run code of the user's
    modules = [thing for thing in gc.get_objects() if issubclass(type(thing), module_type)]
    modules = [module for module in modules if "_modules" in module.__dict__]  # else it is still being made
    inner = {id(child) for module in modules for child in module.__dict__["_modules"].values()}
    sizes = {}
    for module in modules:
        if id(module) not in inner:
            size = sum(id(parameter) in trained for parameter in module.parameters())
            if size:
                sizes[id(module)] = size
    return sorted((module for module in modules if id(module) in sizes), key=lambda module: -sizes[id(module)])


def save(path: str, write: Callable[[Any, Any], None], step: int, optimizers: list[Any], models: list[Any]) -> None:
    """Write the file, whole or not at all.

    write: torch.save as it was before anybody wrapped it. Raises UnsaveableError, and whatever state_dict() raises.
    """
    if distributed.world_size() > 1 and _is_sharded(optimizers, models):
        raise UnsaveableError("this process has only its share of the model")
    held = {id(parameter) for model in models for parameter in model.parameters()}
    content = {
        "format": "backprop-emergency",
        "step": step,
        "models": [{"class": type(model).__name__, "state_dict": model.state_dict()} for model in models],
        "optimizers": [
            {
                "class": type(optimizer).__name__,
                "state_dict": optimizer.state_dict(),
                "parameters": [p.detach() for p in _parameters(optimizer) if id(p) not in held],
            }
            for optimizer in optimizers
        ],
        "random": random_states(),
    }
    with atomic_files.whole(path) as file:
        write(content, file)


def random_states() -> dict[str, Any]:
    """Those of all generators that this process has loaded, as plain values and tensors."""
    states = rng_state.take()
    del states["generators"]
    if "numpy" in states:
        kind, keys, *rest = states["numpy"]
        states["numpy"] = (kind, keys.tolist(), *rest)  # torch.load takes no arrays unless told to trust the file
    return states


def _parameters(optimizer: Any) -> list[Any]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _is_sharded(optimizers: list[Any], models: list[Any]) -> bool:
    # FSDP's state_dict() is a collective operation: the others will not take part in it
    kinds = {type(module).__name__ for model in models for module in model.modules()}
    tensors = {type(parameter).__name__ for optimizer in optimizers for parameter in _parameters(optimizer)}
    return "FullyShardedDataParallel" in kinds or "DTensor" in tensors
