"""Final checkpoints of finished trainings, which later sessions load instead of training again.

Each is a file in the folder of its run's checkpoints. Its name tells how long the training took. When there are too
many, those that are quickest to train again are removed.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import Collection, NamedTuple, Optional, Sequence

WORTH_KEEPING_S = 1.0  # a shorter training is simply repeated
MAX_COUNT = 100
MAX_BYTES = 4 << 30

_NAME = re.compile(r"-finished-(\d+)s\.(?:zip|npz)$")


class FinishedFile(NamedTuple):
    """A file of a finished training. took_s: duration of the training in seconds, over all sessions."""

    path: str
    size_bytes: int
    took_s: int


def name(stem: str, took_s: float, suffix: str) -> str:
    """The name of a finished training's file."""
    return f"{stem}-finished-{int(took_s)}s{suffix}"


def keep_within_bounds(newest: str, offered: Optional[str]) -> None:
    """Remove superfluous files beside the newest one. offered: the checkpoint to resume from, which stays."""
    folder = os.path.dirname(newest)
    with suppress(OSError):  # it only takes space
        with os.scandir(folder) as entries:
            kept = [
                FinishedFile(entry.path, entry.stat().st_size, int(match.group(1)))
                for entry in entries
                for match in (_NAME.search(entry.name),)
                if match is not None
            ]
        for each in superfluous(kept, {newest, *([] if offered is None else [offered])}):
            os.unlink(each.path)


def superfluous(kept: Sequence[FinishedFile], spared: Collection[str]) -> list[FinishedFile]:
    """The files to remove, so that the rest is within MAX_COUNT and MAX_BYTES: the shortest trainings first.

    Not the oldest: a script makes the same trainings in the same order in each session, and would train all of them
    again each time. spared: paths that are never removed.
    """
    count, size_bytes = len(kept), sum(each.size_bytes for each in kept)
    removed = []
    for each in sorted(kept, key=lambda each: (each.took_s, each.path)):
        if count <= MAX_COUNT and size_bytes <= MAX_BYTES:
            break
        if each.path not in spared:
            removed.append(each)
            count, size_bytes = count - 1, size_bytes - each.size_bytes
    return removed
