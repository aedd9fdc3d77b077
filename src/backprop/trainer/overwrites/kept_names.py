"""The names of checkpoints that are kept from being overwritten: known to the trainer and to the supervisor.

A name starts with a dot, so that `glob("*.pt")` does not find it, and has the checkpoint's suffix, which tells the file
format. It contains the run's id: another run may save in the same folder.
"""

from __future__ import annotations

import os

CLOCK_TOLERANCE_S = 1e-5  # of a file's modification time: the supervisor records microseconds


def before_save(path: str, run_id: str) -> str:
    """Path of the copy of the checkpoint at `path` from before the save that is running, or was interrupted."""
    return _beside(path, run_id, "before-save")


def before_session(path: str, run_id: str, session: int) -> str:
    """Path of the copy of the checkpoint at `path` from before this session, which started over and overwrote it."""
    return _beside(path, run_id, f"before-session-{session}")


def draft(kept: str) -> str:
    """Path of an incomplete copy, which is renamed to `kept`."""
    return f"{kept}.new-{os.getpid()}"


def is_draft(name: str, run_id: str) -> bool:
    """Whether a file's name is that of an incomplete copy by this run."""
    return is_ours(name, run_id) and ".new-" in name


def is_ours(path: str, run_id: str) -> bool:
    """Whether a path is that of a copy by this run."""
    name = os.path.basename(path)
    return name.startswith(".") and f".{run_id}.before-" in name


def _beside(path: str, run_id: str, when: str) -> str:
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)
    return os.path.join(folder, f".{stem}.{run_id}.{when}{suffix}")
