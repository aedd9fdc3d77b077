"""A save as a session makes it: one file of rank 0, a part for each other rank, a report when it is whole.

What every rank has of its own are its random states and its place in the data. The rest is the same everywhere, and
rank 0 writes it. Nobody waits: a part that another rank did not finish before everything was killed is missing on
resume, and that rank then says so.
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
    """Where a checkpoint was saved. Every rank calls this: models that are spread over them gather their state here.

    generators: sources of randomness besides those of the process. position: what else is to be found in the file.
    is_reported: False for what nobody can continue from. Raises OSError, and what pickling raises.
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
            # before an interrupt that waited for the save's end breaks us off
            link.report_checkpoint(path, step)
    return path


def read(path: str) -> dict[str, Any]:
    """What was saved there, with this rank's own part. Raises OSError, NotOursError, and what unpickling raises."""
    payload = checkpoint_io.read(path)
    rank = distributed.rank()
    if rank == 0:
        return payload
    path = _part(path, rank)
    part = checkpoint_io.read(path) if os.path.exists(path) else None
    if part is None or part["step"] != payload["step"]:  # of a save before the last, in the same place
        notify_user(f"{path} is missing, or of another step: rank {rank} goes on with other random numbers")
        return {**payload, "random": rng_state.take()}
    return {**payload, **part}


def restore(state: MutableMapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Make a state what it was when this was saved, and say what was not in it."""
    for key in state:
        if key not in saved["state"]:
            notify_user(f"state[{key!r}] is not in the checkpoint, and stays as it is")
    checkpoint_io.restore(state, saved["state"])


def _part(path: str, rank: int) -> str:
    stem, suffix = os.path.splitext(path)
    return f"{stem}.rank-{rank}{suffix}"
