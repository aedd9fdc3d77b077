"""The state of a Keras model in training and of its callbacks, as plain data and arrays: see state_file.py.

Keras's trainer for JAX is a pure function of four lists of variables (backend/jax/trainer.py, `_get_jax_state`): on
every backend, they are the whole state of a model, including seed generators. In addition there are PyTorch's buffers,
and the generator that random functions without a seed share.
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
    """Restore what `random_states` returned."""
    states = dict(states)
    if (torch := sys.modules.get("torch")) is not None and "torch" in states:
        states["torch"] = torch.from_numpy(states["torch"])
        states["cuda"] = [torch.from_numpy(state) for state in states["cuda"]]
    rng_state.put_back(states)


def sync_variables(model: Any) -> None:
    """Update the variables of a model: JAX keeps their values elsewhere during an epoch."""
    sync = getattr(model, "jax_state_sync", None)
    if sync is not None:
        sync()


def shapes(model: Any) -> list[Any]:
    """Shapes and types of a model's variables, in order, to compare models."""
    return [[list(variable.shape), str(variable.dtype)] for variable in model.variables]


def weights(model: Any) -> dict[str, Any]:
    """All variables but the metrics'; arrays are read when they are written. Call `sync_variables` before."""
    shared = _shared_seed()
    return {
        "model": [_value(variable) for variable in model.variables],
        "optimizer": [_value(variable) for variable in _optimizer_variables(model)],
        "buffers": [_content(buffer) for buffer in _buffers(model)],
        "seed": [] if shared is None else [_value(shared.state)],
    }


def metrics(model: Any) -> list[Any]:
    """The running state of the metrics, copied."""
    return [_value(variable)() for variable in model.metrics_variables]


def _value(variable: Any) -> Any:
    # variable.numpy() does not know PyTorch's bfloat16
    return later(lambda: sys.modules["keras.src.backend"].convert_to_numpy(variable.value))


def _content(buffer: Any) -> Any:
    return later(lambda: buffer.detach().cpu().numpy())


def assign(model: Any, saved: dict[str, Any], running: list[Any]) -> None:
    """Restore a model. Raises ValueError, before anything is changed, if shapes differ. Call `sync_variables` before.

    saved: what `weights` returned; running: what `metrics` returned.
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
    """The buffers of PyTorch modules in a model, which are not among its variables."""
    return list(model.buffers()) if hasattr(model, "buffers") else []


def _shared_seed() -> Any:
    state = sys.modules["keras.src.backend.common.global_state"]
    return state.get_global_attribute("global_seed_generator")


class CallbackStates:
    """The states of callbacks: attributes that are plain data or arrays, and have changed since training began.

    Attributes that have not changed are settings, which the script may change on resume.
    """

    def __init__(self, callbacks: list[Any]) -> None:
        """To be created after all of them were told that training begins."""
        self._callbacks = callbacks
        self._before = [_plain_attributes(callback) for callback in callbacks]

    def capture(self) -> list[Any]:
        """An entry for each callback: the name of its class, and copies of the attributes that have changed."""
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
        """Restore what `capture` returned, for callbacks of the same class at the same index."""
        for callback, (name, attributes) in zip(self._callbacks, saved):
            if type(callback).__name__ == name:
                vars(callback).update(attributes)


def _plain_attributes(callback: Any) -> dict[str, tuple[Any, Any]]:
    """Attribute -> a key that changes with its value, and the value."""
    found = {}
    for name, value in getattr(callback, "__dict__", {}).items():
        arrays: list[Any] = []
        try:
            text = json.dumps(encode(value, arrays))
        except NotPlainDataError:
            continue
        # arrays are compared by identity: a callback may hold large data
        if name not in _NOT_STATE:
            found[name] = ((text, [id(array) for array in arrays]), value)
    return found


def _copied(value: Any) -> Any:
    if type(value) in {list, tuple}:
        return type(value)(_copied(item) for item in value)
    if type(value) is dict:
        return {key: _copied(item) for key, item in value.items()}
    return value.copy() if hasattr(value, "copy") else value
