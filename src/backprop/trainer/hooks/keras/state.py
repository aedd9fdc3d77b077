"""What makes up a Keras model in training, and the callbacks beside it, as plain data and arrays: see state_file.py.

Keras's own trainer for JAX is a pure function of four lists of variables (backend/jax/trainer.py, `_get_jax_state`):
they are the whole state of a model, seed generators included, whatever the backend. Beside them there are PyTorch's
buffers, and the generator that random functions without a seed share.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from ... import rng_state
from .state_file import NotPlainDataError, encode, later

_NOT_STATE = {"params", "_model", "model"}  # of a callback: what Keras gives it


def random_states() -> dict[str, Any]:
    """The random states of this process, as plain data and arrays."""
    states = rng_state.take()
    if "torch" in states:
        states["torch"] = states["torch"].numpy()
    states["cuda"] = [state.numpy() for state in states.get("cuda", ())]
    return states


def put_back_random(states: dict[str, Any]) -> None:
    """Make the random states what they were."""
    states = dict(states)
    if (torch := sys.modules.get("torch")) is not None and "torch" in states:
        states["torch"] = torch.from_numpy(states["torch"])
        states["cuda"] = [torch.from_numpy(state) for state in states["cuda"]]
    rng_state.put_back(states)


def sync_variables(model: Any) -> None:
    """Put values back into the variables, where JAX keeps them elsewhere during an epoch."""
    sync = getattr(model, "jax_state_sync", None)
    if sync is not None:
        sync()


def shapes(model: Any) -> list[Any]:
    """What tells one model from another: shapes and types of its variables, in their order."""
    return [[list(variable.shape), str(variable.dtype)] for variable in model.variables]


def weights(model: Any) -> dict[str, Any]:
    """All of a settled model but its metrics; arrays are read when they are written."""
    shared = _shared_seed()
    return {
        "model": [_value(variable) for variable in model.variables],
        "optimizer": [_value(variable) for variable in _optimizer_variables(model)],
        "buffers": [_content(buffer) for buffer in _buffers(model)],
        "seed": [] if shared is None else [_value(shared.state)],
    }


def metrics(model: Any) -> list[Any]:
    """The metrics' running state, copied."""
    return [_value(variable)() for variable in model.metrics_variables]


def _value(variable: Any) -> Any:
    # variable.numpy() does not know PyTorch's bfloat16
    return later(lambda: sys.modules["keras.src.backend"].convert_to_numpy(variable.value))


def _content(buffer: Any) -> Any:
    return later(lambda: buffer.detach().cpu().numpy())


def assign(model: Any, saved: dict[str, Any], running: list[Any]) -> None:
    """Set a settled model to what was saved. Raises ValueError, before anything is set, if it is another one.

    saved: what `weights` gave; running: what `metrics` gave.
    """
    if model.built and getattr(model, "optimizer", None) is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    groups = [(list(model.variables), saved["model"]), (_optimizer_variables(model), saved["optimizer"])]
    if len(model.metrics_variables) == len(running):  # TensorFlow makes most of them in the first step
        groups.append((model.metrics_variables, running))
    if any([tuple(v.shape) for v in variables] != [value.shape for value in values] for variables, values in groups):
        raise ValueError("the checkpoint is of a model, an optimizer or metrics of another shape")
    pairs = [pair for variables, values in groups for pair in zip(variables, values)]
    for variable, value in pairs:
        variable.assign(value)
    for buffer, value in zip(_buffers(model), saved["buffers"]):
        buffer.copy_(sys.modules["torch"].as_tensor(value))
    if saved["seed"]:
        sys.modules["keras.src.random.seed_generator"].global_seed_generator().state.assign(saved["seed"][0])


def _optimizer_variables(model: Any) -> list[Any]:
    optimizer = getattr(model, "optimizer", None)
    return [] if optimizer is None else list(optimizer.variables)


def _buffers(model: Any) -> list[Any]:
    """Of PyTorch modules inside a model: Keras does not count them among its variables."""
    return list(model.buffers()) if hasattr(model, "buffers") else []


def _shared_seed() -> Any:
    state = sys.modules["keras.src.backend.common.global_state"]
    return state.get_global_attribute("global_seed_generator")


class CallbackStates:
    """What callbacks have learnt since training began: attributes that are plain data or arrays, and have changed.

    Attributes that have not changed are the script's settings, and stay as the script sets them.
    """

    def __init__(self, callbacks: list[Any]) -> None:
        """To be made when they have all been told that training begins."""
        self._callbacks = callbacks
        self._before = [_plain_attributes(callback) for callback in callbacks]

    def capture(self) -> list[Any]:
        """One entry a callback: its class's name and what has changed, copied."""
        return [
            [
                type(callback).__name__,
                {
                    name: _copied(value)
                    for name, (mark, value) in _plain_attributes(callback).items()
                    if name not in before or before[name][0] != mark
                },
            ]
            for callback, before in zip(self._callbacks, self._before)
        ]

    def restore(self, saved: list[Any]) -> None:
        """Give back to each callback what was captured; to those alone that are still at their place in the list."""
        for callback, (name, attributes) in zip(self._callbacks, saved):
            if type(callback).__name__ == name:
                vars(callback).update(attributes)


def _plain_attributes(callback: Any) -> dict[str, tuple[Any, Any]]:
    """Attribute -> what tells whether it has changed, and its value."""
    found = {}
    for name, value in getattr(callback, "__dict__", {}).items():
        arrays: list[Any] = []
        try:
            text = json.dumps(encode(value, arrays))
        except NotPlainDataError:
            continue
        # an array is the same as long as it is the same object: data that a callback holds may be large
        if name not in _NOT_STATE:
            found[name] = ((text, [id(array) for array in arrays]), value)
    return found


def _copied(value: Any) -> Any:
    if type(value) in {list, tuple}:
        return type(value)(_copied(item) for item in value)
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    return value.copy() if hasattr(value, "copy") else value
