"""The entries of a journal: a record for each kind, and its encoding."""

from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, TypeVar

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

_E = TypeVar("_E")

# it is passed to scancel and used in file names, so an entry with anything else is rejected
JobId = Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(_[0-9]+)?\Z", max_length=40)]


class AnyEntry(StoredRecord, frozen=True, tag_field="event"):
    """An entry of any journal: a run's, or that of something else."""

    at: datetime  # wall clock, for display; durations are measured by the monotonic clock


class _Entry(AnyEntry, frozen=True):
    pass


class SessionStarted(_Entry, frozen=True, tag="session_started"):
    """Written before the trainer is launched, so that a trainer without a session cannot exist."""

    session: int
    timebox_s: float
    grace_s: float
    host: str
    supervisor_pid: int
    boot_id: str | None
    offered: str | None = None  # checkpoint to continue from
    resumed_from: str | None = None  # the same as `offered`, written by versions that did not check whether it was read
    script_sha256: str | None = None
    code: CodeState | None = None
    job: JobId | None = None  # Slurm job in which it runs
    nodes: int = 1
    revision: Revision | None = None  # executed from now on; None: unchanged
    only_once: tuple[str, ...] = ()  # arguments of this session only
    request_id: str | None = None  # by which it was asked for


class TrainerLaunched(_Entry, frozen=True, tag="trainer_launched"):
    """The trainer's process was started."""

    session: int
    pid: int
    cage: str | None = None  # folder of the cgroup that enforces its memory limit


class Queued(_Entry, frozen=True, tag="queued"):
    """A session is queued. Written again when it waits for something else."""

    session: int
    reason: str
    figures: dict[str, Any]
    host: str
    supervisor_pid: int
    job: JobId | None = None  # Slurm job in which it waits
    request_id: str | None = None  # by which the session was asked for


class Submitted(_Entry, frozen=True, tag="submitted"):
    """A session was submitted to Slurm, with all that its job needs.

    Written before the job may begin. Written again by the job itself when it puts itself back into the line.
    """

    session: int
    job: JobId
    host: str  # on which it was submitted
    limits: Limits
    checkpoint: str | None = None  # to begin with
    gpu_probe: str = "auto"
    retries: int = 0
    sessions: int = 1
    resume_arg: tuple[str, ...] | str | None = None  # if it differs from the run's record
    slurm: SlurmRequest | None = None  # resources requested; None: as in the run's record
    revision: Revision | None = None  # executed by its sessions; None: unchanged
    only_once: tuple[str, ...] = ()  # arguments of its first timebox only
    is_again: bool = False  # continues the same submission: its used time counts
    reason: str | None = None  # shown until Slurm gives one
    request_id: str | None = None  # by which its first session was asked for


class Admitted(_Entry, frozen=True, tag="admitted"):
    """The governor admitted a session, with the figures of the decision."""

    figures: dict[str, Any]
    place: int | None = None  # in the queue: lower is earlier
    gpus: tuple[str, ...] | None = None  # UUIDs of its GPUs; None: all that the trainer finds


class Refused(_Entry, frozen=True, tag="refused"):
    """No session was started: the governor refused, or the wait ended."""

    reason: str
    figures: dict[str, Any]
    by: StopReason | None = None  # who removed it from the queue, if anybody
    # preliminary: by a process that took the waiting one for dead, or in a job that Slurm ended and may requeue
    is_presumed: bool = False


class NotContinued(_Entry, frozen=True, tag="not_continued"):
    """Another session was requested (a retry, another timebox), but would not help, or is no longer wanted."""

    reason: str
    by: StopReason | None = None  # who cancelled it


class Governed(_Entry, frozen=True, tag="governed"):
    """A decision of the governor about a running session."""

    session: int
    action: str  # an Action of the runtime policy
    reason: str
    figures: dict[str, Any]


class MessageShown(_Entry, frozen=True, tag="said"):
    """A message of a supervisor in a Slurm job, which has no terminal, for processes that follow the run."""

    text: str


class StopRequested(_Entry, frozen=True, tag="stop_asked"):
    """Someone asked for the end of a session: written before any signal is sent."""

    session: int
    by: StopReason
    detail: str
    now: bool = False  # kill at once


class PauseRequested(_Entry, frozen=True, tag="pause_asked"):
    """A user requested a pause of the session."""

    session: int
    detail: str


class ResumeRequested(_Entry, frozen=True, tag="go_on_asked"):
    """A user requested that a session paused by users continues."""

    session: int
    detail: str


class SessionRequested(_Entry, frozen=True, tag="session_asked"):
    """A resume was requested under an id. Written before its session can begin."""

    request_id: str
    sha256: str  # of what it asks for: the id is refused for anything else


class MoveRequested(_Entry, frozen=True, tag="move_asked"):
    """A user requested another place in the queue for the session, which waits there."""

    session: int
    priority: int  # of its ticket, from now on
    detail: str


class Renamed(_Entry, frozen=True, tag="renamed"):
    """A user renamed the run."""

    name: str


class Signalled(_Entry, frozen=True, tag="signalled"):
    """A signal of the stop ladder was sent."""

    session: int
    signal: str
    pids: tuple[int, ...]


class Paused(_Entry, frozen=True, tag="paused"):
    """The session is paused. Written again when who paused it, or the reason, changes."""

    session: int
    reason: str
    by: tuple[Pauser, ...] = ()


class Continued(_Entry, frozen=True, tag="continued"):
    """The trainer continues after a pause. paused_s: how long it took."""

    session: int
    paused_s: float


class OutputSeen(_Entry, frozen=True, tag="output_seen"):
    """How large the session's `source` was, and when: written now and then, to date its lines."""

    session: int
    source: Source
    growth: OffsetSample


class CheckpointMeasured(_Entry, frozen=True, tag="checkpoint_measured"):
    """A reported checkpoint as found on disk; `offset` is that of the report in the session's `source`."""

    session: int
    offset: int
    path: str
    size_bytes: int | None
    saved_at: datetime
    manifest: tuple[ManifestEntry, ...] | None = None
    source: Source = Source.OUT

    @property
    def measure(self) -> Measure:
        """The same as a record."""
        return Measure(size_bytes=self.size_bytes, saved_at=self.saved_at, manifest=self.manifest)


class CheckpointRead(_Entry, frozen=True, tag="checkpoint_read"):
    """A process of the session read the offered checkpoint, or a training continued from another one."""

    session: int
    path: str | None = None  # None: the offered one
    is_late: bool = False  # after training had begun without it: unknown whether training continued from it


class CheckpointUnread(_Entry, frozen=True, tag="checkpoint_unread"):
    """The session trained, or ended, without reading the offered checkpoint."""

    session: int
    has_trained: bool


class CheckpointSkipped(_Entry, frozen=True, tag="checkpoint_skipped"):
    """A resume skipped this checkpoint."""

    path: str
    reason: str


class SessionEnded(_Entry, frozen=True, tag="session_ended"):
    """A session is over, and its processes are gone. elapsed_s: of training, without pauses."""

    session: int
    status: Status
    reason: str | None
    exit_code: int | None
    elapsed_s: float
    stopped_by: StopReason | None = None
    resume_option: str | None = None  # a guess of what --resume-arg would have to be
    has_finished_training: bool = False  # before the script was stopped, or failed, in what it did afterwards
    leftovers: tuple[str, ...] = ()  # processes that the trainer left running when it exited


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
    | SessionRequested
    | MoveRequested
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


# synced, to survive a power failure: who stopped a run, and how it ended
SYNCED = (
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


encode = msgspec.json.Encoder().encode


def parse(data: bytes) -> tuple[list[Entry], int]:
    """The entries of a run in `data`: see `parse_lines`."""
    return parse_lines(data, _decoder)


def parse_lines(data: bytes, decoder: "msgspec.json.Decoder[_E]") -> tuple[list[_E], int]:
    """The entries in the complete lines of `data`, and the offset where the last of those lines ends.

    Lines that are no entry are passed over: what a power loss or a full disk cut short, or a newer version wrote.
    """
    end = data.rfind(b"\n") + 1
    entries = []
    for line in data[:end].split(b"\n"):
        with suppress(*UNDECODABLE):
            if line:
                entries.append(decoder.decode(line))
    return entries, end
