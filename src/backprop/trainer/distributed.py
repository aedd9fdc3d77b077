"""The rank of this process and the number of ranks; only rank 0 reports."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any

# set by torchrun, Slurm, Open MPI and MPICH; Lightning's launcher sets only the last one
_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "LOCAL_RANK")
_SIZE_VARIABLES = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")

VARIABLES = (*_RANK_VARIABLES, *_SIZE_VARIABLES)
# values of these variables around the supervisor, as NAME=value,...: they do not describe the processes below it
OUTER_VARIABLE = "BACKPROP_OUTER_RANKS"

_in_environment: dict[tuple[str, ...], tuple[int, int]] = {}  # value, and the number of variables when it was read
_last_rank = 0  # in a process group


def rank() -> int:
    """The rank of this process; 0 when it trains alone.

    After its process group is gone, the rank that it had there as far as it was asked for.
    """
    global _last_rank  # noqa: PLW0603  one in a process
    if (group := _process_group()) is not None:
        _last_rank = int(group.get_rank())
        return _last_rank
    return _number_from(_RANK_VARIABLES, 0) or _last_rank


def world_size() -> int:
    """The number of processes that train together; 1 when this one trains alone."""
    group = _process_group()
    return _number_from(_SIZE_VARIABLES, 1) if group is None else int(group.get_world_size())


def _process_group() -> Any:
    dist = sys.modules.get("torch.distributed")
    return dist if dist is not None and dist.is_available() and dist.is_initialized() else None


def _number_from(variables: tuple[str, ...], otherwise: int) -> int:
    # needed at every step, and reading four variables costs more than everything else: only when one was added
    count = len(os.environ)
    number, counted_then = _in_environment.get(variables, (otherwise, -1))
    if counted_then != count:
        outer = os.environ.get(OUTER_VARIABLE, "").split(",")
        found = ((name, os.environ.get(name, "")) for name in variables)
        values = (value for name, value in found if f"{name}={value}" not in outer)
        number = next((int(value) for value in values if value.isdecimal()), otherwise)
        _in_environment[variables] = (number, count)
    return number
