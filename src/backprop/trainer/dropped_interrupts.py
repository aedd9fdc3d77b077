"""An interrupt that comes while a destructor or a callback runs is dropped by Python: it is sent once more.

Python prints "Exception ignored in" and goes on, be it a `__del__`, the callback of a weak reference or of the garbage
collector; the script would train on until it is killed. Imported at the start of the interpreter: no imports.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any

_AGAIN_AFTER_S = 0.01  # by then it is over, mostly; else it is dropped and sent again


def install() -> None:
    """Begin to listen for what Python drops."""
    before = sys.unraisablehook

    def unraisable(dropped: Any) -> None:
        if dropped.exc_type is not KeyboardInterrupt or sys.is_finalizing():
            before(dropped)
        else:
            _send_again()

    sys.unraisablehook = unraisable


def _send_again() -> None:
    import os
    import signal
    import threading

    timer = threading.Timer(_AGAIN_AFTER_S, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()
