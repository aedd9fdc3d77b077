"""Checkpoints of the public API: a file by rank 0, a part by each other rank, and a report when they are complete.

Each rank has its own random states and position in the data; everything else is the same on all ranks, and rank 0
writes it. Ranks do not wait for one another: if a rank was killed before its part was complete, the part is missing on
resume, and that rank prints a message.
"""

from __future__ import annotations

import os
from typing import Any, Iterable, Mapping, MutableMapping, Optional

from . import checkpoint_io, distributed, rng_state
from .atomic_files import FOLDER
from .failsafe import notify_user
from .link import SupervisorLink

_OF_EACH_RANK = ("random", "epoch_began", "loader")


def save(
    link: SupervisorLink,
    state: Mapping[str, Any],
    step: int,
    *,
    path: Optional[str] = None,
    generators: Iterable[Any] = (),
    position: Optional[Mapping[str, Any]] = None,
    is_reported: bool = True,
) -> str:
    """Save a checkpoint, and return its path. Called on every rank: sharded models gather their state here.

    generators: random generators besides the global ones. position: further entries of the file. is_reported: False for
    a checkpoint that nothing can resume from. Raises OSError, and whatever pickling raises.
    """
    path = os.path.abspath(path or os.path.join(FOLDER, link.run_id, f"step-{step}{checkpoint_io.suffix()}"))
    with link.saving():
        payload = {
            "step": step,
            "state": checkpoint_io.take(dict(state)),
            "random": rng_state.take(generators),
            **(position or {}),
        }
        rank = distributed.rank()
        if rank == 0:
            checkpoint_io.write(path, payload)
        else:
            own = {key: payload[key] for key in _OF_EACH_RANK if key in payload}
            checkpoint_io.write(_part(path, rank), {"step": step, **own})
        if is_reported:
            # before an interrupt that was deferred until the end of the save
            link.report_checkpoint(path, step)
    return path


def read(path: str) -> dict[str, Any]:
    """A checkpoint's content, with this rank's part. Raises OSError, NotOursError, and whatever unpickling raises."""
    payload = checkpoint_io.read(path)
    rank = distributed.rank()
    if rank == 0:
        return payload
    path = _part(path, rank)
    part = checkpoint_io.read(path) if os.path.exists(path) else None
    if part is None or part["step"] != payload["step"]:  # of an earlier save to the same path
        notify_user(f"{path} is missing or from another step: rank {rank} continues with different random numbers")
        return {**payload, "random": rng_state.take()}
    return {**payload, **part}


def restore(state: MutableMapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Restore a state from the content of a checkpoint. Prints a message for each key that it lacks."""
    for key in state:
        if key not in saved["state"]:
            notify_user(f"state[{key!r}] is not in the checkpoint, and is left unchanged")
    checkpoint_io.restore(state, saved["state"])


def _part(path: str, rank: int) -> str:
    stem, suffix = os.path.splitext(path)
    return f"{stem}.rank-{rank}{suffix}"
