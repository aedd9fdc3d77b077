"""control.json: what the supervisor asks of the trainer. Replaced atomically: a reader never sees half of it."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from backprop.records import Checkpoint, Record, StopReason
from backprop.supervisor.plan import Clock
from backprop.trainer.atomic_files import drafted

_MAX_SAVED = 32  # newest checkpoints that the trainer is informed of


class SavedState(Record, frozen=True, array_like=True):
    """A checkpoint as it was on disk when it was reported."""

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


class ControlFile:
    """control.json of one session."""

    def __init__(self, path: Path, grace_s: float, clock: Clock) -> None:
        self._path = path
        self._grace_s = grace_s
        self._clock = clock
        self._saved: dict[str, SavedState] = {}
        self.checkpoints_due = 0  # by --checkpoint-every, so far
        self.checkpoints_asked = 0  # by the governor, so far
        self.is_offered_read = False  # the checkpoint to resume from

    def add_saved(self, reported: Sequence[Checkpoint]) -> None:
        """Add the newest checkpoints, in order. All processes of the trainer see them, and do not delete them."""
        for one in reported:
            self._saved.pop(one.path, None)
            self._saved[one.path] = SavedState(
                step=one.step, size_bytes=one.measure.size_bytes, saved_at_unix_s=one.measure.saved_at.timestamp()
            )
        for path in list(self._saved)[:-_MAX_SAVED]:
            del self._saved[path]

    def write(self, left_s: float, stop: StopReason | None = None) -> None:
        """Write the file. left_s: until the timebox ends. stop: why the trainer is asked to stop, if it is.

        A full disk is no error: the trainer gets SIGINT instead.
        """
        with suppress(OSError):
            write(
                self._path,
                Control(
                    deadline_unix_s=self._clock.wall().timestamp() + left_s,
                    deadline_monotonic_s=time.monotonic() + left_s,
                    grace_s=self._grace_s,
                    checkpoint_wanted=self.checkpoints_due + self.checkpoints_asked,
                    stop_wanted=stop is not None,
                    stop_reason=None if stop is None else stop.value,
                    saved=self._saved,
                    checkpoint_was_read=self.is_offered_read,
                ),
            )


def write(path: Path, control: Control) -> None:
    """Replace control.json. Raises OSError."""
    with drafted(str(path), 0o600) as draft:
        Path(draft).write_bytes(msgspec.json.encode(control) + b"\n")
