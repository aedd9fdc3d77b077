"""What the threads of this process execute just now."""

from __future__ import annotations

import gc
import sys
from types import FrameType


def thread_frames() -> dict[int, FrameType]:
    """The identifier of each thread, and its innermost frame, as `sys._current_frames` gives them.

    No garbage is collected meanwhile. CPython holds a lock there that it needs to free a `threading.local`, so that a
    collection in it would wait for ever: https://github.com/python/cpython/issues/106883
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return sys._current_frames()  # noqa: SLF001  documented, and there is no other way to look
    finally:
        if was_enabled:
            gc.enable()
