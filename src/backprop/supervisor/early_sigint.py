"""Ctrl-C before `Signals` handles it.

Python raises KeyboardInterrupt wherever it happens to be, and drops it in callbacks of the garbage collector, of which
its import system has one per module. A press there would be lost, and the run would start all the same.
"""

import signal
from types import FrameType

_was_pressed = False


def remember() -> None:
    """Remember every Ctrl-C from now on, for `take_dropped`. Changes nothing in a process that ignores SIGINT."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _was_pressed  # noqa: PLW0603  a process has one terminal
    _was_pressed = True
    signal.default_int_handler(number, frame)


def take_dropped() -> bool:
    """Whether Python dropped a Ctrl-C. (If it had raised KeyboardInterrupt, the caller would not be running.)"""
    global _was_pressed
    was_pressed, _was_pressed = _was_pressed, False
    return was_pressed
