"""tqdm: tells the supervisor of bars that the script makes outside of any loop, since these may be of all the training.

The supervisor reads bars in the output, and cannot see there whether another one of the kind follows: the bar of an
epoch is made in the loop over epochs, or in a function that is called there.
"""

from __future__ import annotations

import dis
import functools
import os
import sys
from types import CodeType, FrameType
from typing import Any, Optional

from ..failsafe import guarded
from ..link import SupervisorLink, current

_HOOK = "progress bars"
_MAX_BARS = 100  # after that many, none is of all the training
_LIBRARIES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")  # the latter on Debian


def hook(module: Any) -> None:
    """Hook the module tqdm.std."""
    link = current()
    if link is None:
        return
    original = module.tqdm.__init__
    seen = [0]

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if seen[0] < _MAX_BARS and not self.disable and self.total:
            seen[0] += 1
            _report(link, self.total)

    module.tqdm.__init__ = init


@guarded(_HOOK)
def _report(link: SupervisorLink, total: Any) -> None:
    frame: Optional[FrameType] = sys._getframe(2)  # noqa: SLF001  behind this function and the wrapper
    while frame is not None and _is_of_library(frame, "tqdm"):
        frame = frame.f_back
    if frame is None or _is_of_library(frame):  # a library's bar: a download, the loading of weights
        return
    while frame is not None:
        if _is_in_loop(frame.f_code, frame.f_lasti):
            return
        frame = frame.f_back
    link.send_event(event="bar", total=int(total), has_optimizer="torch" in sys.modules)


def _is_of_library(frame: FrameType, package: str = "") -> bool:
    path = frame.f_code.co_filename
    is_there = any(f"{folder}{package}" in path for folder in _LIBRARIES)
    return is_there or frame.f_globals.get("__name__") == __name__


def _is_in_loop(code: CodeType, offset: int) -> bool:
    return any(begin <= offset <= end for begin, end in _loops(code))


@functools.lru_cache(maxsize=200)
def _loops(code: CodeType) -> list[tuple[int, int]]:
    """The stretches of bytecode that are executed again and again: what a jump back skips."""
    jumps = {*dis.hasjrel, *dis.hasjabs}
    return [
        (step.argval, step.offset)
        for step in dis.get_instructions(code)
        # `await` waits in a loop, too
        if step.opcode in jumps and step.argval < step.offset and step.opname != "JUMP_BACKWARD_NO_INTERRUPT"
    ]
