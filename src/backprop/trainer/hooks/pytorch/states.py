"""Classifies what a script has just saved: a training state to resume from, only weights, or something else.

The functions get the objects that the script has passed to `torch.save`, and change nothing.
"""

from __future__ import annotations

import operator
import sys
from collections import Counter
from collections.abc import Mapping
from typing import Any, Iterator, Optional

from ..saved_files.contents import EPOCH_KEYS, OPTIMIZER_KEYS, STEP_KEYS, CheckpointContent

_DEPTH = 3  # {"state": {"optimizers": [...]}}
_MAX_ITEMS = 64  # a longer list is data


def content_of(saved: Any, optimizers: list[Any]) -> Optional[CheckpointContent]:
    """What was saved; None if it has neither an optimizer state nor the weights of what is trained.

    optimizers: those that have made steps. Without any, weights are recognized by their names.
    """
    if is_training_state(saved):
        is_state = True
    elif any(is_weights_of(saved, optimizer) for optimizer in optimizers) or (
        not optimizers and _is_model(saved, _DEPTH)
    ):
        is_state = False
    else:
        return None
    step, epoch = number_in(saved, STEP_KEYS), number_in(saved, EPOCH_KEYS)
    return CheckpointContent(is_state=is_state, step=step, epoch=epoch)


def is_training_state(saved: Any, depth: int = _DEPTH) -> bool:
    """Whether it contains an optimizer state, and is not just an optimizer state itself."""
    if isinstance(saved, Mapping) and any(_is_own_optimizer(saved.get(key)) for key in OPTIMIZER_KEYS):
        return True
    return any(_is_optimizer(value) or (depth > 1 and is_training_state(value, depth - 1)) for value in _inside(saved))


def is_optimizer(saved: Any) -> bool:
    """Whether it is just an optimizer state."""
    return isinstance(saved, Mapping) and _is_optimizer(saved)


def is_weights_of(saved: Any, optimizer: Any) -> bool:
    """Whether it has a tensor of the same shape for every parameter that the optimizer trains.

    It may hold copies, on another device or in half precision, so addresses are not compared.
    """
    needed = Counter(
        tuple(parameter.shape)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad
    )
    return bool(needed) and not needed - Counter(_shapes(saved, _DEPTH))


def number_in(saved: Any, keys: tuple[str, ...]) -> Optional[int]:
    """The number under one of these keys (a step or an epoch); None if there is none."""
    level = [saved]
    for _ in range(_DEPTH - 1):
        for mapping in level:
            for key in keys:
                step = _as_step(mapping.get(key)) if isinstance(mapping, Mapping) else None
                if step is not None:
                    return step
        level = [value for mapping in level for value in _inside(mapping) if not _is_optimizer(value)]
    return None


def _is_optimizer(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "state" in value and "param_groups" in value
    return isinstance(value, sys.modules["torch"].optim.Optimizer)


def _is_own_optimizer(value: Any) -> bool:
    """Whether this value, under an optimizer's key, is the state of a custom optimizer: tensors, not settings."""
    return isinstance(value, (Mapping, list, tuple)) and any(True for _ in _shapes(value, _DEPTH))


def _is_model(saved: Any, depth: int) -> bool:
    """Whether it is a module, or has tensors with names like those of modules."""
    if isinstance(saved, sys.modules["torch"].nn.Module):
        return True
    if isinstance(saved, Mapping) and any(str(key).endswith(("weight", "bias")) for key in saved):
        return True
    return depth > 1 and any(_is_model(value, depth - 1) for value in _inside(saved))


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, (list, tuple)) and len(value) <= _MAX_ITEMS:
        yield from value


def _shapes(value: Any, depth: int) -> Iterator[tuple[int, ...]]:
    torch = sys.modules["torch"]
    if _is_optimizer(value):  # its moments have the shapes of the weights
        return
    if isinstance(value, torch.nn.Module):
        yield from (tuple(parameter.shape) for parameter in value.parameters())
    elif depth:
        for inner in _inside(value):
            if isinstance(inner, torch.Tensor):
                yield tuple(inner.shape)
            else:
                yield from _shapes(inner, depth - 1)


def _as_step(value: Any) -> Optional[int]:
    if value is None or isinstance(value, bool):
        return None
    try:
        step = operator.index(value)  # an int, NumPy's, or a tensor of one
    except (TypeError, ValueError, RuntimeError):
        return None
    return step if step >= 0 else None
