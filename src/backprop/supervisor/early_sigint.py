"""Ctrl-C before anybody listens to it.

Python raises KeyboardInterrupt wherever it happens to be, and drops it in callbacks of the garbage collector: its own
import system has one for every module. A press there would be lost, and the run would begin all the same.
"""

import signal
from types import FrameType

_was_pressed = False


def remember() -> None:
    """From now on a Ctrl-C that Python drops is not forgotten. Nothing changes for a process that ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _was_pressed  # noqa: PLW0603  the process has one keyboard
    _was_pressed = True
    signal.default_int_handler(number, frame)


def take_dropped() -> bool:
    """Whether there was one, of which nobody has heard. Whoever is here had not been if it had been raised."""
    global _was_pressed
    was_pressed, _was_pressed = _was_pressed, False
    return was_pressed
