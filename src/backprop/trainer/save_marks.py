"""At which step a checkpoint was saved, where steps are counted lines or calls: the next session counts on from there.

Whoever counts appends a mark to its own file of metrics, `session-N.printed` or `session-N.tracked`.
"""

from __future__ import annotations

import json
import os
from typing import Optional

from .plain_files import open_plain

_MAX_LINE_BYTES = 1 << 20


def mark(kind: str, step: int, checkpoint: str) -> str:
    """The line that marks a checkpoint. kind: printed or tracked. step: the last one before it was saved."""
    return json.dumps({"step": step, "checkpoint": checkpoint, kind: True})


def last_step_before(run_dir: str, kind: str, session: int, checkpoint: str) -> Optional[int]:
    """The last step that was counted before a checkpoint was saved, in a session before this one.

    Where no mark tells, the last one of the newest session that has any; None where there is none.
    """
    newest: Optional[int] = None
    for number in range(session - 1, 0, -1):
        marked, last = _steps(os.path.join(run_dir, f"session-{number}.{kind}"), checkpoint)
        if marked is not None:
            return marked
        newest = last if newest is None else newest
    return newest


def _steps(path: str, checkpoint: str) -> tuple[Optional[int], Optional[int]]:
    """The step of the last mark of a checkpoint, and of the last line that has one."""
    name = f'"checkpoint": {json.dumps(checkpoint)}'.encode()
    marked = last = b""
    try:
        with os.fdopen(open_plain(path), "rb") as file:
            while line := file.readline(_MAX_LINE_BYTES):
                if b'"step": ' in line and line.endswith(b"}\n"):  # the last one may be cut off
                    last = line
                    if name in line:
                        marked = line
    except OSError:  # there is none
        pass
    return _step(marked), _step(last)


def _step(line: bytes) -> Optional[int]:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return None
