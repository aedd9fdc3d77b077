"""control.json: what the supervisor tells the trainer. Replaced whole, so that a reader never sees half of it."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from backprop.records import Record
from backprop.trainer.atomic_files import drafted


class SavedState(Record, frozen=True, array_like=True):
    """A checkpoint as it lay on disk when it was reported."""

    step: int | None
    size_bytes: int | None
    saved_at_unix_s: float


class Control(Record, frozen=True):
    """The file's content. Durations in seconds."""

    deadline_unix_s: float  # when the timebox ends, by the wall clock
    deadline_monotonic_s: float  # the same by CLOCK_MONOTONIC, which every process of the machine shares
    grace_s: float
    checkpoint_wanted: int = 0  # grows by one each time a checkpoint is wanted
    stop_wanted: bool = False
    stop_reason: str | None = None
    saved: Mapping[str, SavedState] = {}  # path -> the newest checkpoints that this session has reported
    checkpoint_was_read: bool = False  # the one to resume from


def write(path: Path, control: Control) -> None:
    """Replace control.json. Raises OSError."""
    with drafted(str(path), 0o600) as draft:
        Path(draft).write_bytes(msgspec.json.encode(control) + b"\n")
