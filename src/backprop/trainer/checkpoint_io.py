"""The file format of the public API's checkpoints: a script's state is captured, written, read and restored.

A state is a dict. Its values are objects with `state_dict()` and `load_state_dict()` (models, optimizers, schedulers),
random generators, dicts, lists or tuples of these, or anything that can be pickled.
"""

from __future__ import annotations

import os
import pickle
import sys
from importlib import import_module
from typing import Any, Iterator, MutableMapping

from . import atomic_files, rng_state

FORMAT = "backprop-1"  # stored in each file


class NotOursError(ValueError):
    """A file that was not written by `backprop.save` or `backprop.loop`."""


def is_stateful(value: Any) -> bool:
    """Whether this has `state_dict()` and `load_state_dict()`."""
    return hasattr(value, "state_dict") and hasattr(value, "load_state_dict") and not isinstance(value, type)


def take(value: Any) -> Any:
    """The state of a value, to be pickled. May share memory with the value: write it before anything changes."""
    if is_stateful(value):
        return value.state_dict()
    if rng_state.is_generator(value):
        return rng_state.state_of(value)
    if isinstance(value, dict):
        return {key: take(item) for key, item in value.items()}
    if type(value) in {list, tuple}:
        return type(value)(take(item) for item in value)
    return value


def generators(value: Any) -> Iterator[Any]:
    """The random generators in a value, in the same order each time."""
    if rng_state.is_generator(value):
        yield value
    elif isinstance(value, dict) or type(value) in {list, tuple}:
        for item in value.values() if isinstance(value, dict) else value:
            yield from generators(item)


def check(state: dict[str, Any]) -> None:
    """Raise TypeError if a value cannot be pickled: better now than at the end of the timebox."""
    for key, value in state.items():
        if is_stateful(value) or rng_state.is_generator(value) or hasattr(value, "dtype"):
            continue
        if isinstance(value, dict):
            check(value)
        elif type(value) not in {int, float, str, bool, bytes}:
            try:
                pickle.dumps(take(value))
            except Exception as error:
                raise TypeError(f"state[{key!r}] cannot be saved: {error}") from error


def restore(state: MutableMapping[str, Any], saved: dict[str, Any]) -> None:
    """Restore a state, in place.

    Arrays, tensors, dicts and lists are changed in place if possible, so that other references to them see the change;
    values that cannot be changed are replaced in their dict.
    """
    for key, item in saved.items():
        state[key] = _restored(state[key], item) if key in state else item


def _restored(live: Any, saved: Any) -> Any:
    """The value to use from now on: the live one, restored in place, or the saved one."""
    if is_stateful(live):
        live.load_state_dict(saved)
        return live
    if rng_state.is_generator(live):
        rng_state.put_state(live, saved)
        return live
    if isinstance(live, dict) and isinstance(saved, dict):
        for key in [key for key in live if key not in saved]:
            del live[key]
        restore(live, saved)
        return live
    if type(live) in {list, tuple} and type(saved) is type(live):
        items = [_restored(old, new) for old, new in zip(live, saved)] + list(saved[len(live) :])
        if isinstance(live, tuple):
            return tuple(items)
        live[:] = items
        return live
    return _overwritten(live, saved)


def _overwritten(live: Any, saved: Any) -> Any:
    """The live array or tensor with the saved content, if they are of the same kind; otherwise the saved value."""
    if type(live) is not type(saved) or getattr(live, "shape", None) != getattr(saved, "shape", ()):
        return saved
    if getattr(live, "dtype", None) != getattr(saved, "dtype", ()):
        return saved
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and isinstance(live, numpy.ndarray) and live.flags.writeable and live.dtype != object:
        live[...] = saved
        return live
    if torch is not None and isinstance(live, torch.Tensor):
        with torch.no_grad():
            live.copy_(saved)
        return live
    return saved


def suffix() -> str:
    """The suffix of new checkpoint files."""
    return ".pt" if _has_torch() else ".pkl"


def write(path: str, payload: dict[str, Any]) -> None:
    """Write a file atomically and to the disk. Raises OSError, and whatever pickling raises."""
    with atomic_files.atomic_write(path) as file:
        _dump({"format": FORMAT, **payload}, file)


def read(path: str) -> dict[str, Any]:
    """The content of a file, with tensors on the CPU. It is unpickled: read only files that are trusted.

    Raises OSError, NotOursError, and whatever unpickling raises.
    """
    if not os.path.isfile(path) or not path.endswith((".pt", ".pkl")):
        raise NotOursError(f"{path} was not saved by backprop.save or backprop.loop")
    if path.endswith(".pt"):
        payload = import_module("torch").load(path, map_location="cpu", weights_only=False)
    else:
        with open(path, "rb") as file:
            payload = pickle.load(file)  # noqa: S301  see the docstring
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise NotOursError(f"{path} was not saved by backprop.save or backprop.loop")
    return payload


def _dump(payload: dict[str, Any], file: Any) -> None:
    if _has_torch():
        sys.modules["torch"].save(payload, file)
    else:
        pickle.dump(payload, file, protocol=pickle.HIGHEST_PROTOCOL)


def _has_torch() -> bool:
    return hasattr(sys.modules.get("torch"), "save")
