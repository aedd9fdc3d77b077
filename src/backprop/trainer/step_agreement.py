"""How all ranks save and stop at the same step.

A rank that stopped or saved alone would leave the others waiting in a collective operation. So rank 0 writes to a file
what all ranks do at the end of its *next* step. No rank can pass that step without seeing the file: gradients are
exchanged in every step, and rank 0 takes part in the next exchange only after it has written. On GPUs an exchange is
only enqueued, and a process may run ahead of it: there each rank waits at the end of a step until its GPU has finished
the step before, and the file is about the step after the next. This works for processes on one machine, or on a file
system where a rename is visible at once.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NamedTuple, Optional

from .atomic_files import drafted
from .distributed import rank


class StepRequest(NamedTuple):
    """What to do at the end of a step."""

    save: bool = False
    stop: bool = False


class Agreement:
    """A request that all ranks carry out at the end of the same step."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._mark: Optional[tuple[int, int]] = None
        self._loop = 0  # all ranks count alike
        self._agreed: Optional[tuple[int, int, StepRequest]] = None  # loop, step, and what to do at its end
        self._before: Any = None  # the CUDA event at the end of the previous step

    def begin_loop(self) -> None:
        """Start a loop, whose steps are counted anew. What was agreed for an earlier loop no longer holds."""
        self._loop += 1
        self._before = None

    def agree(self, step: int, request: StepRequest) -> StepRequest:
        """What all ranks do at the end of this step. Called by every rank at the end of every step.

        request: of rank 0; those of the others are ignored. Costs a stat of a file. Raises OSError.
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
        """Wait until the GPU has finished the previous step; False without a GPU."""
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
