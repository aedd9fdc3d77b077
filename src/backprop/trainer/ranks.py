"""Which of the processes of a distributed training is this one? And how all of them do a thing at the same step.

Only rank 0 reports. A rank that stopped or saved alone would leave the others waiting in a collective operation: rank 0
therefore says in a file what all are to do at the end of its *next* step. No rank can pass that step without having
seen it: gradients are exchanged in every step, and rank 0 takes part in the exchange of the next step only after it has
written. Holds for processes of one machine, or of a file system that shows a rename at once.
"""

from __future__ import annotations

import json
import os
import sys
from typing import NamedTuple, Optional

# as torchrun, Slurm, Open MPI and MPICH tell it; Lightning's launcher tells its children no more than the last
_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "LOCAL_RANK")
_SIZE_VARIABLES = ("WORLD_SIZE", "SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")

_in_environment: dict[str, tuple[int, int]] = {}  # what the variables said, and how many variables there were then


def rank() -> int:
    """The number of this process; 0 when it is alone."""
    return _told("get_rank", _RANK_VARIABLES, 0)


def world_size() -> int:
    """How many processes train together; 1 when this one is alone."""
    return _told("get_world_size", _SIZE_VARIABLES, 1)


def _told(function: str, variables: tuple[str, ...], otherwise: int) -> int:
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return int(getattr(dist, function)())
    # asked for at every step, and a look at four variables costs more than all the rest: again only when one was added
    count = len(os.environ)
    told, when = _in_environment.get(function, (otherwise, -1))
    if when != count:
        values = (os.environ.get(name, "") for name in variables)
        told = next((int(value) for value in values if value.isdecimal()), otherwise)
        _in_environment[function] = (told, count)
    return told


class Wish(NamedTuple):
    """What is to be done at the end of a step."""

    save: bool = False
    stop: bool = False


class Agreement:
    """A wish that all ranks carry out at the end of the same step."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._mark: Optional[tuple[int, int]] = None
        self._at_step: Optional[int] = None
        self._wish = Wish()

    def settle(self, step: int, wish: Wish) -> Wish:
        """What all ranks do at the end of this step. To be called by every rank at the end of every step.

        wish: rank 0's; that of the others does not count. Costs a stat of a file. Raises OSError.
        """
        self._read()
        due = self._wish if self._at_step is not None and step >= self._at_step else Wish()
        if due != Wish():
            self._at_step = None
        if rank() == 0 and (wish.save or wish.stop) and self._at_step is None and due == Wish():
            self._propose(step + 1, wish)
        return due

    def forget(self) -> None:
        """Begin a loop: what was said for a step of an earlier one, and maybe never came up there, is over."""
        self._read()
        self._at_step = None

    def _propose(self, step: int, wish: Wish) -> None:
        draft = f"{self._path}.new"
        with open(draft, "w", encoding="utf-8") as file:
            json.dump({"step": step, "save": wish.save, "stop": wish.stop}, file)
        os.replace(draft, self._path)

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
            told = json.load(file)
        self._at_step, self._wish = told["step"], Wish(told["save"], told["stop"])
