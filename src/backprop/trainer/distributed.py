"""Which of the processes of a distributed training is this one? And how all of them do a thing at the same step.

Only rank 0 reports. A rank that stopped or saved alone would leave the others waiting in a collective operation: rank 0
therefore says in a file what all are to do at the end of its *next* step. No rank can pass that step without having
seen it: gradients are exchanged in every step, and rank 0 takes part in the exchange of the next step only after it has
written. On GPUs an exchange is only queued, and a process may run ahead of it: there each waits at the end of a step
until its GPU has done the step before, and what is said is for the step after the next. Holds for processes of one
machine, or of a file system that shows a rename at once.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NamedTuple, Optional

from .atomic_files import drafted

# as torchrun, Slurm, Open MPI and MPICH tell it; Lightning's launcher tells its children no more than the last
_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "LOCAL_RANK")
_SIZE_VARIABLES = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")

VARIABLES = (*_RANK_VARIABLES, *_SIZE_VARIABLES)
# what these variables said around the supervisor, as NAME=value,...: of processes below it that says nothing
OUTER_VARIABLE = "BACKPROP_OUTER_RANKS"

_in_environment: dict[str, tuple[int, int]] = {}  # what the variables said, and how many variables there were then


def rank() -> int:
    """The number of this process; 0 when it is alone."""
    return _number_from("get_rank", _RANK_VARIABLES, 0)


def world_size() -> int:
    """How many processes train together; 1 when this one is alone."""
    return _number_from("get_world_size", _SIZE_VARIABLES, 1)


def _number_from(function: str, variables: tuple[str, ...], otherwise: int) -> int:
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return int(getattr(dist, function)())
    # asked for at every step, and a look at four variables costs more than all the rest: again only when one was added
    count = len(os.environ)
    number, counted_then = _in_environment.get(function, (otherwise, -1))
    if counted_then != count:
        outer = os.environ.get(OUTER_VARIABLE, "").split(",")
        found = ((name, os.environ.get(name, "")) for name in variables)
        values = (value for name, value in found if f"{name}={value}" not in outer)
        number = next((int(value) for value in values if value.isdecimal()), otherwise)
        _in_environment[function] = (number, count)
    return number


class StepRequest(NamedTuple):
    """What is to be done at the end of a step."""

    save: bool = False
    stop: bool = False


class Agreement:
    """A wish that all ranks carry out at the end of the same step."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._mark: Optional[tuple[int, int]] = None
        self._loop = 0  # all ranks count alike
        self._agreed: Optional[tuple[int, int, StepRequest]] = None  # loop, step, and what is to be done at its end
        self._before: Any = None  # the end of the step before, as the GPU sees it

    def begin_loop(self) -> None:
        """Count steps from their beginning again. What was said for a step of an earlier loop is over."""
        self._loop += 1
        self._before = None

    def agree(self, step: int, request: StepRequest) -> StepRequest:
        """What all ranks do at the end of this step. To be called by every rank at the end of every step.

        wish: rank 0's; that of the others does not count. Costs a stat of a file. Raises OSError.
        """
        lag = 2 if self._wait_for_gpu() else 1
        self._read()
        due = StepRequest()
        if self._agreed is not None and self._agreed[0] == self._loop:
            if step < self._agreed[1]:
                return due
            due, self._agreed = self._agreed[2], None
        elif rank() == 0 and (request.save or request.stop):
            self._propose(step + lag, request)
        return due

    def _wait_for_gpu(self) -> bool:
        """Wait until the GPU has done the step before this one; False without a GPU."""
        torch = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_initialized():
            return False
        before, self._before = self._before, torch.cuda.Event()
        self._before.record()
        if before is not None:
            before.synchronize()
        return True

    def _propose(self, step: int, request: StepRequest) -> None:
        with drafted(self._path, 0o600) as draft, open(draft, "w", encoding="utf-8") as file:
            json.dump({"loop": self._loop, "step": step, "save": request.save, "stop": request.stop}, file)

    def _read(self) -> None:
        try:
            info = os.stat(self._path)
        except FileNotFoundError:
            return
        mark = (info.st_ino, info.st_mtime_ns)
        if mark == self._mark:
            return
        self._mark = mark
        with open(self._path, encoding="utf-8") as file:
            agreed = json.load(file)
        self._agreed = (agreed["loop"], agreed["step"], StepRequest(agreed["save"], agreed["stop"]))
