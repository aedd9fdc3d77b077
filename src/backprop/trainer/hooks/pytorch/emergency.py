"""Saves weights and optimizer states for a script that did not react to a stop.

`torch.load`, with its safe defaults, loads the file as

    {"format": "backprop-emergency", "step": 1234,
     "models": [{"class": "Net", "state_dict": ...}],
     "optimizers": [{"class": "AdamW", "state_dict": ..., "parameters": [...]}],   # those of no model, in order
     "random": {"python": ..., "numpy": ..., "torch": ..., "cuda": ...}}

The script does not know this format: users can load it, and nothing resumes from it by itself.
"""

from __future__ import annotations

import gc
import sys
import threading
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any, Callable, Iterator

from ... import atomic_files, distributed, rng_state
from ...thread_frames import thread_frames

_STEP_PATIENCE_S = 5.0  # no optimizer step takes as long, unless it hangs


class UnsaveableError(Exception):
    """A single process cannot save this."""


class StepPause:
    """Makes other threads wait between two optimizer steps, so that everything that is saved is of one step."""

    def __init__(self, step: Any, *parked: Any) -> None:
        """step: code object of the function that makes a step. parked: of functions in it that run before or after."""
        self._step = step
        self._parked = {type(self).wait.__code__, *parked}
        self._one_at_a_time = threading.Lock()
        self._is_over = threading.Event()
        self._is_over.set()

    def wait(self) -> None:
        """Called in every thread right before a step."""
        if not self._is_over.is_set():
            self._is_over.wait()

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Inside, no other thread makes a step. Yields False if one is in the middle of a step, and does not end it.

        Blocks while another thread is inside. The caller makes no step inside.
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
        # from the stacks: that works after a step has failed, too, and adds no cost to steps
        own = threading.get_ident()
        return any(self._is_within(frame) for thread, frame in thread_frames().items() if thread != own)

    def _is_within(self, frame: Any) -> bool:
        while frame is not None:
            if frame.f_code in self._parked:
                return False
            if frame.f_code is self._step:
                return True
            frame = frame.f_back
        return False


def find_models(optimizers: list[Any]) -> list[Any]:
    """The outermost modules that have parameters of these optimizers, the largest first."""
    module_type = sys.modules["torch"].nn.Module
    trained = {id(parameter) for optimizer in optimizers for parameter in _parameters(optimizer)}
    # type(), not isinstance(): the __class__ of a proxy may run the user's code
    modules = [thing for thing in gc.get_objects() if issubclass(type(thing), module_type)]
    modules = [
        module for module in modules if "_modules" in module.__dict__
    ]  # otherwise its constructor is still running
    inner = {id(child) for module in modules for child in module.__dict__["_modules"].values()}
    sizes = {}
    for module in modules:
        if id(module) not in inner:
            size = sum(id(parameter) in trained for parameter in module.parameters())
            if size:
                sizes[id(module)] = size
    return sorted((module for module in modules if id(module) in sizes), key=lambda module: -sizes[id(module)])


def save(path: str, write: Callable[[Any, Any], None], step: int, optimizers: list[Any], models: list[Any]) -> None:
    """Write the file atomically.

    write: the original torch.save. Raises UnsaveableError, and whatever state_dict() raises.
    """
    if distributed.world_size() > 1 and _is_sharded(optimizers, models):
        raise UnsaveableError("this process has only its shard of the model")
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
    with atomic_files.atomic_write(path) as file:
        write(content, file)


def random_states() -> dict[str, Any]:
    """The states of all global generators, as plain values and tensors."""
    # a script may be ending by a KeyboardInterrupt, which an import makes CPython forget
    states = rng_state.take(may_import=False)
    del states["generators"]
    if "numpy" in states:
        kind, keys, *rest = states["numpy"]
        states["numpy"] = (kind, keys.tolist(), *rest)  # torch.load refuses arrays by default
    return states


def _parameters(optimizer: Any) -> list[Any]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _is_sharded(optimizers: list[Any], models: list[Any]) -> bool:
    # FSDP's state_dict() is a collective operation, in which the other ranks would not take part
    kinds = {type(module).__name__ for model in models for module in model.modules()}
    tensors = {type(parameter).__name__ for optimizer in optimizers for parameter in _parameters(optimizer)}
    return "FullyShardedDataParallel" in kinds or "DTensor" in tensors
