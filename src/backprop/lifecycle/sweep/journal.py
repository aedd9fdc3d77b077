"""The journal of a sweep: what was proposed, promoted and found, one entry per line.

The same file, lock and requests as the journal of a run: see store/journal/file.py. `asked` is synced before the run is
made, `promoted` and `continued` before the session is asked for, so that a sweeper that is killed at any instant finds
what it was about to do.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from backprop.lifecycle.sweep.rule import Repeat
from backprop.records import Status
from backprop.store.files import UnreadableError, read_plain, unreadable
from backprop.store.journal.entries import AnyEntry, parse_lines
from backprop.store.journal.file import HEARTBEAT_INTERVAL_S, JournalFile


class Began(AnyEntry, frozen=True, tag="began"):
    """A sweeper took the sweep."""

    pid: int
    host: str


class Added(AnyEntry, frozen=True, tag="added"):
    """A user proposes parameters. Appended by any process."""

    params: Mapping[str, str]
    by: str
    note: str | None = None


class StopAsked(AnyEntry, frozen=True, tag="stop_asked"):
    """A user asks the sweep to stop. Appended by any process."""

    by: str


class Asked(AnyEntry, frozen=True, tag="asked"):
    """A run is to be made, with this id, for its first rung."""

    trial: int
    run_id: str
    params: Mapping[str, str]
    source: str  # the sampler; "added" by a user; "confirm"
    timebox_s: float
    until_step: int | None = None  # where rungs are counted in steps
    repeats: int | None = None  # the trial that it repeats
    seed: int | None = None
    note: str | None = None
    attrs: Mapping[str, Any] = {}  # what the sampler wants to know of it later


class Made(AnyEntry, frozen=True, tag="made"):
    """The run of a trial was seen: if it is gone later, it was removed."""

    trial: int


class Promoted(AnyEntry, frozen=True, tag="promoted"):
    """A trial is to be trained for another rung."""

    trial: int
    rung: int
    request_id: str
    timebox_s: float
    reason: str
    until_step: int | None = None


class RungContinued(AnyEntry, frozen=True, tag="continued"):
    """The rung of a trial is to go on in another session."""

    trial: int
    rung: int
    request_id: str
    timebox_s: float
    reason: str
    until_step: int | None = None
    is_check: bool = False  # of whether the script continues from its checkpoint
    is_strict: bool = True  # False: from the beginning if there is no checkpoint


class NotPromoted(AnyEntry, frozen=True, tag="not_promoted"):
    """What was asked for last could not be started, as there is no checkpoint."""

    trial: int
    request_id: str
    reason: str
    trained_s: float = 0.0  # by all sessions of its run so far


class Ended(AnyEntry, frozen=True, tag="ended"):
    """A rung of a trial has ended."""

    trial: int
    rung: int
    status: Status
    value: float | None  # of the goal's metric
    has_metric: bool
    can_resume: bool
    trained_s: float  # by all sessions of its run so far
    reason: str | None = None  # why it has no value
    start_s: float | None = None  # until it began to train, about; only of a first rung in one session, if it is known
    script_sha256: str | None = None  # of its newest session


class Checked(AnyEntry, frozen=True, tag="checked"):
    """Whether a trial continued from its checkpoint."""

    trial: int
    problem: str | None = None  # None: it did


class Confirming(AnyEntry, frozen=True, tag="confirming"):
    """The search is over, and these repeats are to be trained."""

    planned: tuple[Repeat, ...]
    reason: str


class SweepStopped(AnyEntry, frozen=True, tag="stopped"):
    """The sweeper stops, and with it these sessions, which are to go on later."""

    request_ids: tuple[str, ...]
    reason: str


class Finished(AnyEntry, frozen=True, tag="finished"):
    """Nothing is left to do."""

    reason: str
    exit_code: int = 0


SweepEntry = (
    Began
    | Added
    | StopAsked
    | Asked
    | Made
    | Promoted
    | RungContinued
    | NotPromoted
    | Ended
    | Checked
    | Confirming
    | SweepStopped
    | Finished
)

_decoder: msgspec.json.Decoder[SweepEntry] = msgspec.json.Decoder(SweepEntry)


def parse(data: bytes) -> tuple[list[SweepEntry], int]:
    """See `parse_lines`."""
    return parse_lines(data, _decoder)


def read(path: Path) -> list[SweepEntry]:
    """All entries. Raises UnreadableError, also where the entry of a trial is lost: its run would be made again."""
    try:
        data = read_plain(path)
    except OSError as error:
        raise unreadable(path, error) from error
    entries = parse(data)[0]
    trials = dict.fromkeys(entry.trial for entry in entries if isinstance(entry, Asked))
    lost = next((number for number, trial in enumerate(trials) if trial != number), None)
    if lost is not None or (data.count(b"\n") and not entries):
        where = "there is no entry in it" if lost is None else f"there is no entry of trial {lost}"
        raise UnreadableError(f"{path} is damaged: {where}.")
    return entries


class SweepJournal(JournalFile[SweepEntry]):
    """The journal of a sweep. All of its entries matter, and are synced."""

    def __init__(self, path: Path, *, is_read_only: bool = False) -> None:
        super().__init__(path, parse, SweepEntry.__args__, is_read_only=is_read_only)
        self._is_closed = threading.Event()
        self._heart: threading.Thread | None = None

    def beat_until_closed(self) -> None:
        """Send heartbeats, also while its owner is busy: Slurm may take minutes to start a session."""
        heart = threading.Thread(target=self._beat_on, daemon=True)
        try:
            heart.start()
        except RuntimeError:  # the user has as many as `ulimit -u` allows: its owner's looks for requests send some
            return
        self._heart = heart

    def _beat_on(self) -> None:
        while not self._is_closed.wait(HEARTBEAT_INTERVAL_S):
            self.beat()

    def close(self) -> None:
        """Close the file, which releases its lock."""
        self._is_closed.set()
        if self._heart is not None:
            self._heart.join()
        super().close()
