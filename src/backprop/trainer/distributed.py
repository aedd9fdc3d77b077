"""The rank of this process and the number of ranks; only rank 0 reports."""

from __future__ import annotations

import os
import sys

# set by torchrun, Slurm, Open MPI and MPICH; Lightning's launcher sets only the last one
_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "LOCAL_RANK")
_SIZE_VARIABLES = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")

VARIABLES = (*_RANK_VARIABLES, *_SIZE_VARIABLES)
# values of these variables around the supervisor, as NAME=value,...: they do not describe the processes below it
OUTER_VARIABLE = "BACKPROP_OUTER_RANKS"

_in_environment: dict[str, tuple[int, int]] = {}  # value, and the number of variables when it was read


def rank() -> int:
    """The rank of this process; 0 when it trains alone."""
    return _number_from("get_rank", _RANK_VARIABLES, 0)


def world_size() -> int:
    """The number of processes that train together; 1 when this one trains alone."""
    return _number_from("get_world_size", _SIZE_VARIABLES, 1)


def _number_from(function: str, variables: tuple[str, ...], otherwise: int) -> int:
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return int(getattr(dist, function)())
    # needed at every step, and reading four variables costs more than everything else: only when one was added
    count = len(os.environ)
    number, counted_then = _in_environment.get(function, (otherwise, -1))
    if counted_then != count:
        outer = os.environ.get(OUTER_VARIABLE, "").split(",")
        found = ((name, os.environ.get(name, "")) for name in variables)
        values = (value for name, value in found if f"{name}={value}" not in outer)
        number = next((int(value) for value in values if value.isdecimal()), otherwise)
        _in_environment[function] = (number, count)
    return number
