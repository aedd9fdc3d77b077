"""What has just been saved: a training state, from which a script can go on; bare weights; or nothing of ours.

Only looks: objects enter as the script handed them to `torch.save`, after it has come back.
"""

from __future__ import annotations

import operator
import os
import sys
import zipfile
from collections import Counter
from collections.abc import Mapping
from typing import Any, Iterator, Optional

_DEPTH = 3  # {"state": {"optimizers": [...]}}
_MAX_ITEMS = 64  # a longer list is data
_STEP_KEYS = (
    "global_step",
    "step",
    "iteration",
    "iterations",
    "iter",
    "iter_num",  # nanoGPT
    "num_updates",  # fairseq
    "steps",
    "n_iter",
)


def is_training_state(saved: Any, depth: int = _DEPTH) -> bool:
    """Whether an optimizer's state is in it; one that is an optimizer's state and nothing else does not count."""
    return any(_is_optimizer(value) or (depth > 1 and is_training_state(value, depth - 1)) for value in _inside(saved))


def is_weights_of(saved: Any, optimizer: Any) -> bool:
    """Whether it has a tensor for every parameter that the optimizer trains, judged by their shapes.

    Not by their memory: it may well hold copies, on another device or in half precision.
    """
    needed = Counter(
        tuple(parameter.shape)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad
    )
    return bool(needed) and not needed - Counter(_shapes(saved, _DEPTH))


def told_step(saved: Any) -> Optional[int]:
    """The step that it says it was saved at; None when it says nothing."""
    level = [saved]
    for _ in range(_DEPTH - 1):
        for mapping in level:
            for key in _STEP_KEYS:
                step = _as_step(mapping.get(key)) if isinstance(mapping, Mapping) else None
                if step is not None:
                    return step
        level = [value for mapping in level for value in _inside(mapping) if not _is_optimizer(value)]
    return None


def is_training_state_file(path: str) -> bool:
    """The same of what a former process saved; a folder is taken for one. Reads no tensor."""
    if os.path.isdir(path):
        return True
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(b"param_groups" in archive.read(name) for name in pickles)
    except (OSError, zipfile.BadZipFile):  # another format, or gone
        return False


def _is_optimizer(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "state" in value and "param_groups" in value
    return isinstance(value, sys.modules["torch"].optim.Optimizer)


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, (list, tuple)) and len(value) <= _MAX_ITEMS:
        yield from value


def _shapes(value: Any, depth: int) -> Iterator[tuple[int, ...]]:
    torch = sys.modules["torch"]
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
