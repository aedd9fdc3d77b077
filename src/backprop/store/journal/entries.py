"""What may stand in a journal: a record for each kind of entry, and the bytes of one."""

from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any

import msgspec

from backprop.records import (
    CodeState,
    Limits,
    ManifestEntry,
    Measure,
    Pauser,
    Revision,
    SlurmRequest,
    Source,
    Status,
    StopReason,
    StoredRecord,
)
from backprop.store.files import UNDECODABLE
from backprop.store.output.line_times import OffsetSample

# it becomes a word of scancel's and a part of a file's name: an entry with anything else is none
JobId = Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(_[0-9]+)?\Z", max_length=40)]


class _Entry(StoredRecord, frozen=True, tag_field="event"):
    at: datetime  # wall clock, for people; durations come from the monotonic clock and are given in full


class SessionStarted(_Entry, frozen=True, tag="session_started"):
    """Written before the trainer is launched, so that a trainer without a session cannot exist."""

    session: int
    timebox_s: float
    grace_s: float
    host: str
    supervisor_pid: int
    boot_id: str | None
    offered: str | None = None  # the checkpoint that the trainer is to continue from
    resumed_from: str | None = None  # the same, as older versions wrote it: they did not look whether it was read
    script_sha256: str | None = None
    code: CodeState | None = None
    job: JobId | None = None  # of Slurm, in which it runs
    nodes: int = 1
    revision: Revision | None = None  # what is executed from now on; None: the same as before
    only_once: tuple[str, ...] = ()  # arguments of this session alone


class TrainerLaunched(_Entry, frozen=True, tag="trainer_launched"):
    session: int
    pid: int
    cage: str | None = None  # folder of the cgroup that holds it to its memory limit


class Queued(_Entry, frozen=True, tag="queued"):
    """A session is due and stands in line. Written again when it waits for something else."""

    session: int
    reason: str
    figures: dict[str, Any]
    host: str
    supervisor_pid: int
    job: JobId | None = None  # of Slurm, in which it waits


class Submitted(_Entry, frozen=True, tag="submitted"):
    """A session is handed to Slurm, with all that the job needs to know.

    Written before the job may begin. Written again by the job itself when it puts itself back into the line.
    """

    session: int
    job: JobId
    host: str  # that submitted it
    limits: Limits
    checkpoint: str | None = None  # to begin with
    gpu_probe: str = "auto"
    retries: int = 0
    sessions: int = 1
    resume_arg: tuple[str, ...] | str | None = None  # as in the run's record, where it is not the same
    slurm: SlurmRequest | None = None  # what is asked of it; None: what the run was made with
    revision: Revision | None = None  # what its sessions execute; None: the same as before
    only_once: tuple[str, ...] = ()  # arguments of its first timebox
    is_again: bool = False  # the same request goes on: what was used of it is used
    reason: str | None = None  # what is said of it until Slurm says more


class Admitted(_Entry, frozen=True, tag="admitted"):
    """The governor let a session start, with the figures it decided from."""

    figures: dict[str, Any]
    place: int | None = None  # in the line: the lower, the earlier it asked
    gpus: tuple[str, ...] | None = None  # uuids of the cards it got; None: whatever the trainer finds


class Refused(_Entry, frozen=True, tag="refused"):
    """No session was started: the governor said no, or whoever waited had enough."""

    reason: str
    figures: dict[str, Any]
    by: StopReason | None = None  # who took it out of the queue, where somebody did
    # not the last word: by somebody who took who waited for dead, or in a job that Slurm ended and may queue again
    is_presumed: bool = False


class NotContinued(_Entry, frozen=True, tag="not_continued"):
    """Another session was asked for (a retry, a further turn) and would not have helped, or was not wanted any more."""

    reason: str
    by: StopReason | None = None  # who did not want it


class Governed(_Entry, frozen=True, tag="governed"):
    """The governor decided something about a session that is going on."""

    session: int
    action: str  # a guard's Action
    reason: str
    figures: dict[str, Any]


class MessageShown(_Entry, frozen=True, tag="said"):
    """What a supervisor in a Slurm job tells whoever watches: with a terminal of its own it would tell it there."""

    text: str


class StopRequested(_Entry, frozen=True, tag="stop_asked"):
    session: int
    by: StopReason
    detail: str
    now: bool = False  # skip the ladder


class PauseRequested(_Entry, frozen=True, tag="pause_asked"):
    """A user wants the session to stand still where it is."""

    session: int
    detail: str


class ResumeRequested(_Entry, frozen=True, tag="go_on_asked"):
    """A user wants a session that users paused to go on."""

    session: int
    detail: str


class Renamed(_Entry, frozen=True, tag="renamed"):
    """A user gave the run another name."""

    name: str


class Signalled(_Entry, frozen=True, tag="signalled"):
    """A rung of the stop ladder was climbed."""

    session: int
    signal: str
    pids: tuple[int, ...]


class Paused(_Entry, frozen=True, tag="paused"):
    """The session stands still. Written again when it is held by others, or for another reason, than before."""

    session: int
    reason: str
    by: tuple[Pauser, ...] = ()


class Continued(_Entry, frozen=True, tag="continued"):
    session: int
    paused_s: float


class OutputSeen(_Entry, frozen=True, tag="output_seen"):
    """How far the session's `source` had got, and when: it is told now and then, to date what was written."""

    session: int
    source: Source
    growth: OffsetSample


class CheckpointMeasured(_Entry, frozen=True, tag="checkpoint_measured"):
    """A reported checkpoint as it lay on disk; `offset` is that of the report in the session's `source`."""

    session: int
    offset: int
    path: str
    size_bytes: int | None
    saved_at: datetime
    manifest: tuple[ManifestEntry, ...] | None = None
    source: Source = Source.OUT

    @property
    def measure(self) -> Measure:
        return Measure(size_bytes=self.size_bytes, saved_at=self.saved_at, manifest=self.manifest)


class CheckpointRead(_Entry, frozen=True, tag="checkpoint_read"):
    """A process of the session read the checkpoint that it was offered, or a training went on from another one."""

    session: int
    path: str | None = None  # None: the one that was offered
    is_late: bool = False  # after training had begun without: nobody knows whether it went on from there


class CheckpointUnread(_Entry, frozen=True, tag="checkpoint_unread"):
    """The session trains, or has ended, without having read the checkpoint that it was offered."""

    session: int
    has_trained: bool


class CheckpointSkipped(_Entry, frozen=True, tag="checkpoint_skipped"):
    """A resume passed this one over."""

    path: str
    reason: str


class SessionEnded(_Entry, frozen=True, tag="session_ended"):
    session: int
    status: Status
    reason: str | None
    exit_code: int | None
    elapsed_s: float
    stopped_by: StopReason | None = None
    resume_option: str | None = None  # what --resume-arg would have to be, for want of anything better
    has_finished_training: bool = False  # before it was cut, or failed, in what the script did afterwards
    leftovers: tuple[str, ...] = ()  # processes that the trainer left running when it exited by itself


Entry = (
    SessionStarted
    | TrainerLaunched
    | Queued
    | Submitted
    | Admitted
    | Refused
    | NotContinued
    | Governed
    | MessageShown
    | StopRequested
    | PauseRequested
    | ResumeRequested
    | Renamed
    | Signalled
    | Paused
    | Continued
    | OutputSeen
    | CheckpointMeasured
    | CheckpointRead
    | CheckpointUnread
    | CheckpointSkipped
    | SessionEnded
)


# after these the power may go: who stopped a run, and how it ended, must be on the disk
_SYNCED = (
    SessionStarted,
    Submitted,
    StopRequested,
    PauseRequested,
    ResumeRequested,
    Renamed,
    SessionEnded,
    Refused,
    NotContinued,
    Paused,
    Continued,
)


_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


_encode = msgspec.json.Encoder().encode


def parse(data: bytes) -> tuple[list[Entry], int]:
    """The entries in some whole lines, and where the last of those lines ends.

    Lines that are no entry are passed over: what a power loss or a full disk cut short, or a newer version wrote.
    """
    end = data.rfind(b"\n") + 1
    entries = []
    for line in data[:end].split(b"\n"):
        with suppress(*UNDECODABLE):
            if line:
                entries.append(_decoder.decode(line))
    return entries, end
