"""Checkpoints of Lightning as files, or as folders where a strategy shards them."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from typing import Any, Iterator


def _late_io(strategy: Any) -> Any:
    """The plugin that saves in a thread, if there is one."""
    plugin = strategy.checkpoint_io
    return plugin if any(kind.__name__ == "AsyncCheckpointIO" for kind in type(plugin).__mro__) else None


def is_late(strategy: Any) -> bool:
    """Whether checkpoints are still being written when save_checkpoint returns."""
    return _late_io(strategy) is not None


@contextmanager
def at_once(strategy: Any) -> Iterator[None]:
    """Inside, save_checkpoint returns when the checkpoint is written."""
    late = _late_io(strategy)
    if late is None:
        yield
        return
    strategy.checkpoint_io = late.checkpoint_io
    try:
        yield
    finally:
        strategy.checkpoint_io = late


def remove(path: str) -> None:
    """Remove a checkpoint, if it exists."""
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.remove(path)


def is_in(path: str, folder: str) -> bool:
    """Whether a path is directly in this folder."""
    return os.path.dirname(os.path.abspath(path)) == os.path.abspath(folder)
