"""What a checkpoint is called while it is kept from being written over: known to the trainer and to the supervisor.

A name begins with a dot, so that `glob("*.pt")` does not find it, and ends as the checkpoint's does, because that says
what is in it. It has the run in it: another run may save in the same folder.
"""

from __future__ import annotations

import os

CLOCK_TOLERANCE_S = 1e-5  # of a file's time: the supervisor's record of it counts microseconds


def before_save(path: str, run_id: str) -> str:
    """The checkpoint at `path` as it was before the save that goes on, or was broken off."""
    return _beside(path, run_id, "before-save")


def before_session(path: str, run_id: str, session: int) -> str:
    """The checkpoint at `path` as it was before this session, which began anew and saved over it."""
    return _beside(path, run_id, f"before-session-{session}")


def draft(kept: str) -> str:
    """What is on its way to being kept under this name."""
    return f"{kept}.new-{os.getpid()}"


def is_draft(name: str, run_id: str) -> bool:
    """Whether a file in a folder is such a draft of this run."""
    return is_ours(name, run_id) and ".new-" in name


def is_ours(path: str, run_id: str) -> bool:
    """Whether a file got its name here, from this run."""
    name = os.path.basename(path)
    return name.startswith(".") and f".{run_id}.before-" in name


def _beside(path: str, run_id: str, when: str) -> str:
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    return os.path.join(folder, f".{stem}.{run_id}.{when}{suffix}")
