"""The words of the project as types: what a run is, was asked for, and came to.

Everything here is frozen and knows nothing of files, processes or clocks. Inside the program sizes are bytes,
durations are seconds and instants are aware UTC datetimes; None means unknown or not applicable.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum, IntEnum
from itertools import chain
from pathlib import PurePath
from typing import Annotated, Any

import msgspec

from backprop.errors import BackpropError

_LABEL_WIDTH = 40  # characters of a name in a sentence
GB = 1_000_000_000  # bytes: powers of 1000, as in all settings and messages
Say = Callable[[str], None]  # shows the user a message of one line


class Status(str, Enum):
    """Where a run is in its life, or how it ended."""

    QUEUED = "queued"  # waiting for its turn
    RUNNING = "running"  # its trainer is alive
    PAUSED = "paused"  # its trainer is stopped in place, and can be continued
    REFUSED = "refused"  # never started: the governor refused
    COMPLETED = "completed"  # the trainer exited with code 0 before the timebox
    TIMEBOXED = "timeboxed"  # Backprop ended it at its timebox
    STOPPED = "stopped"  # the user or the governor ended it
    FAILED = "failed"  # the trainer ended by itself, with a non-zero code or by a signal that we did not send
    INTERRUPTED = "interrupted"  # the supervisor or the machine died under it
    UNREADABLE = "unreadable"  # its record is damaged, or we may not read it

    @property
    def is_final(self) -> bool:
        """True when the run is not active, so that it may be resumed or removed."""
        return self not in _GOING_ON


_GOING_ON = frozenset({Status.QUEUED, Status.RUNNING, Status.PAUSED})


class StopReason(str, Enum):
    """Who asked for a session to end. Recorded when it is asked, never guessed from a signal."""

    TIMEBOX = "timebox"  # its time was up
    STEP = "step"  # it came to the step that it was to reach: --until-step
    USER = "user"  # `backprop stop`, from any terminal
    CTRL_C = "ctrl-c"  # SIGINT to the supervisor
    SIGNAL = "signal"  # SIGTERM or SIGHUP to the supervisor: a shutdown, a closed terminal
    GOVERNOR = "governor"  # the machine was running out of something

    @property
    def label(self) -> str:
        """As people read it."""
        return {StopReason.USER: "`backprop stop`", StopReason.CTRL_C: "Ctrl-C"}.get(self, f"the {self.value}")

    @property
    def status(self) -> Status:
        """What a session that ends for this reason is filed as."""
        return Status.TIMEBOXED if self in {StopReason.TIMEBOX, StopReason.STEP} else Status.STOPPED


class Pauser(str, Enum):
    """Who paused a session. It continues when none of them holds it any more."""

    GOVERNOR = "governor"  # a GPU is too hot
    USER = "user"  # `backprop pause`, from any terminal
    CTRL_Z = "ctrl-z"  # in the supervisor's terminal, until `fg` or `bg` there
    SLURM = "slurm"  # `scontrol suspend`, or gang scheduling, until Slurm resumes the job


_NAMED_LEFTOVERS = 3  # in a reason; the record has more


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all records: immutable, keyword-only, encodable as JSON."""


_YEARS = range(1970, 9999)  # one less than datetime knows at either end: a time zone may add to it
_GREATEST = 2**53  # integers that JSON's readers and SQLite hold exactly
LONGEST_S = 1e10  # three hundred years
_MAX_LEVELS = 32


class StoredRecord(Record, frozen=True):
    """Base of the records that lie in run directories, which may come from anywhere and be damaged.

    What no system call, calendar or database could take is refused when one is decoded: msgspec makes a DecodeError of
    the ValueError. (Its own constraints, msgspec.Meta, crash the interpreter now and then:
    https://github.com/msgspec/msgspec/issues/717.)
    """

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and (problem := _problem(value)) is not None:
                raise ValueError(f"{name} {problem}")


def _problem(value: object) -> str | None:
    """What is wrong with a value of a stored record."""
    kind = type(value)  # one a time: a journal may have a hundred thousand of them
    if kind is str:
        return "contains a NUL character" if "\0" in value else None  # type: ignore[operator]
    if kind is int:
        return None if -_GREATEST <= value <= _GREATEST else f"is {value}"  # type: ignore[operator]
    if kind is float:
        return None if -LONGEST_S <= value <= LONGEST_S else f"is {value}"  # type: ignore[operator]
    if isinstance(value, datetime):
        return None if is_showable(value) else f"is {value}: no time zone, or no such year"
    if isinstance(value, dict):
        return None if is_shallow(value) else f"is nested more than {_MAX_LEVELS} levels deep"
    if isinstance(value, tuple):
        return next((problem for item in value if (problem := _problem(item)) is not None), None)
    return None


def is_showable(instant: datetime) -> bool:
    """Whether a time can be shown in every time zone."""
    return instant.tzinfo is not None and instant.year in _YEARS


def is_shallow(value: Any, levels: int = _MAX_LEVELS) -> bool:
    """Whether a value is nested so little that recursive code can walk it, well before the interpreter's limit."""
    if isinstance(value, Mapping):
        value = list(value.values())
    return not isinstance(value, list) or (levels > 0 and all(is_shallow(item, levels - 1) for item in value))


def _check_command(command: tuple[str, ...]) -> None:
    if not command or not command[0]:
        raise ValueError("command is empty")


class Notification(Record, frozen=True, forbid_unknown_fields=True):
    """Who to notify of a run (one of command, webhook and desktop), and of which statuses."""

    command: tuple[str, ...] | None = None  # an argv
    webhook: str | None = None  # an address that JSON is posted to; may hold a secret
    desktop: bool | None = None
    on: tuple[Status, ...] = tuple(status for status in Status if status.is_final and status is not Status.UNREADABLE)


def in_minutes(seconds: float) -> str:
    """A limit as it was given: 10 min, 12.5 min; in seconds below one. What is left of one is rounded."""
    return f"{seconds:.3g} s" if seconds < 60 else f"{round(seconds / 60, 2):,.10g} min"


MAX_PRIORITY = 100  # no run is overtaken by as many later ones, whatever their priority


class Limits(StoredRecord, frozen=True):
    """What one session may use."""

    timebox_s: float
    grace_s: float
    min_free_ram_bytes: int
    min_free_disk_bytes: int
    finish_s: float | None = None  # beyond the timebox, for a script whose training has finished; None: the grace
    until_step: int | None = None  # the session ends when its trainer has come to this step; None: by its time alone
    checkpoint_every_s: float | None = None  # None: the script saves when it likes
    max_parallel: int = 2  # start only while fewer runs of this home are active
    priority: int = 0  # of its ticket in the queue
    gpu_count: int | None = None  # None: one where there is a GPU
    gpu_min_free_vram_bytes: int = 2_500_000_000  # of each card that is chosen
    gpu_memory_fraction: float | None = None  # of each chosen card's memory; this or the next one
    gpu_memory_bytes: int | None = None
    gpu_max_temp_c: float = 85.0
    max_pause_s: float = 600.0  # a session may be paused so long in all before it is stopped
    ram_limit_bytes: int | None = None  # of the trainer's whole tree

    @property
    def time_to_finish_s(self) -> float:
        """How long a script whose training has finished may run beyond the timebox."""
        return self.grace_s if self.finish_s is None else self.finish_s

    @property
    def longest_end_s(self) -> float:
        """How long after the timebox's end a session may last at most."""
        return max(self.grace_s, self.time_to_finish_s)


class Throttle(str, Enum):
    """Why a card runs slower than it could."""

    THERMAL = "thermal"  # it is too hot
    POWER = "power"  # it is at its power limit
    HARDWARE = "hardware"  # its hardware slows it down, for one of these reasons or another


class Gpu(Record, frozen=True):
    """One graphics card, or one MIG slice of it, at one instant. None where the card does not say."""

    index: int  # as its vendor's tool counts, in the order of the PCI bus; a slice has that of its card
    uuid: str
    name: str
    vendor: str  # "nvidia" or "amd"
    vram_total_bytes: int | None = None
    vram_free_bytes: int | None = None
    temp_c: float | None = None
    utilization_percent: float | None = None
    power_w: float | None = None
    throttled: tuple[Throttle, ...] | None = None  # why its clocks are held back now; empty: they are not
    is_slice: bool = False  # a MIG device
    process_vram_bytes: Mapping[int, int] | None = None  # process id -> what it holds; None: not known


class MachineState(Record, frozen=True):
    """One reading of the machine. None where a value could not be read."""

    cpu_count: int | None = None
    load_1min: float | None = None
    ram_total_bytes: int | None = None  # what this process could get at most: a container's limit counts
    ram_available_bytes: int | None = None
    swap_total_bytes: int | None = None
    swap_free_bytes: int | None = None
    ram_pressure_percent: float | None = None  # of the last 10 s, in which some process waited for memory
    disk_total_bytes: Mapping[str, int] = {}  # folder that will be written to -> size of its file system
    disk_free_bytes: Mapping[str, int] = {}  # folder that will be written to -> free bytes there
    gpus: tuple[Gpu, ...] | None = ()  # None: unknown, for the reason in gpu_problem
    gpu_problem: str | None = None


class Source(str, Enum):
    """Where a session's events come from: the file's ending in the run directory."""

    OUT = "out"  # what the trainer printed to stdout
    EVENTS = "events"  # events of our code inside the trainer: see trainer/
    PRINTED = "printed"  # metrics that the supervisor read in what the trainer printed for people: see printed.py
    TRACKED = "tracked"  # metrics that the script logged to trackers: see trainer/tracked.py
    USAGE = "usage"  # what it took of the machine, as the supervisor measured it: see store/usage/


class Origin(IntEnum):
    """How a metric's points came here. Of one that comes in several ways, only those of the greatest are kept."""

    SAMPLED = 0  # a loss of PyTorch, where nothing reports one: see trainer/hooks/pytorch/sampled_loss.py
    PRINTED = 1  # read in what the script prints for people
    TRACKED = 2  # logged to TensorBoard, W&B or another tracker
    REPORTED = 3  # by the script itself or by a hook


class Goal(str, Enum):
    """Which values of a metric are better."""

    MAX = "max"  # the greater
    MIN = "min"  # the smaller


class GitState(Record, frozen=True):
    """The code a run was started from; None outside a work tree."""

    commit: str | None = None  # None: a repository without a commit
    branch: str | None = None  # None: detached HEAD
    dirty: bool = False  # tracked files differ from the commit, or source files beside or below the script are new


_NAMED = 5  # in a message; the record has all
PATCH_NAME = r"code(-[0-9a-f]{12})?\.patch"


class CodeState(Record, frozen=True):
    """The code that a session executed, as it lay there when it started."""

    git: GitState | None = None
    # the file in the run's folder that keeps what differs from the commit
    patch: Annotated[str, msgspec.Meta(pattern=rf"^{PATCH_NAME}\Z")] | None = None
    notes: tuple[str, ...] = ()  # what was not recorded, and why
    changed: tuple[str, ...] = ()  # what was otherwise at the session before; of the first one: at submission

    @property
    def changed_in_short(self) -> str:
        """Some of their names, and how many more there are."""
        more = f" and {len(self.changed) - _NAMED} more" if len(self.changed) > _NAMED else ""
        return ", ".join(self.changed[:_NAMED]) + more


class SlurmRequest(StoredRecord, frozen=True):
    """What a run asks of Slurm, besides its limits."""

    partition: str | None = None  # None: the cluster's default
    cpus: int | None = None  # of each node; None: the cluster's default
    nodes: int = 1  # with more than one, srun starts the trainer once a node
    arguments: tuple[str, ...] = ()  # for sbatch, as they are
    array: str | None = None  # the first run of those that were submitted together


class SweepTrial(StoredRecord, frozen=True):
    """Which trial of which sweep a run is."""

    id: str  # of the sweep
    trial: int


class RunSpec(StoredRecord, frozen=True):
    """What was asked: run.json, written once when the run is made."""

    id: str
    command: tuple[str, ...]  # the whole argv, without what `resume` adds
    cwd: str
    created_at: datetime
    host: str
    user: str
    limits: Limits
    name: str | None = None
    script: str | None = None  # absolute; None for a command
    python: str | None = None  # the interpreter of `script`
    params: Mapping[str, Any] = {}
    framework: str = "auto"
    resume_arg: tuple[str, ...] | str | None = None  # see command.with_checkpoint; a text in older records
    hooks: bool = True  # our own code looks after the frameworks inside the trainer
    reads_printed_metrics: bool = True  # where none are reported: see printed.py
    metric_patterns: tuple[str, ...] = ()  # for those
    goals: Mapping[str, Goal] = {}  # of metrics, as its user gave them
    git: GitState | None = None  # as it was when it was submitted
    snapshot_of: str | None = None  # the work tree that its folder keeps a copy of, from which its sessions run
    code_notes: tuple[str, ...] = ()  # what of the code could not be recorded then, and why
    script_sha256: str | None = None
    slurm: SlurmRequest | None = None  # of its first session; None: it runs on the machine it was asked on
    stdin: str | None = None  # a file, absolute; "-": that of the command in the foreground; None: /dev/null
    request_id: str | None = None  # by which its first session was asked for
    sweep: SweepTrial | None = None  # None: it is no trial of a sweep
    imported_from: str | None = None  # the log that it was made of; what was executed is not known
    version: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_command(self.command)

    @property
    def nodes(self) -> int:
        """How many machines it trains on."""
        return 1 if self.slurm is None else self.slurm.nodes

    def revised(self, revision: "Revision | None") -> "RunSpec":
        """The run with this revision applied."""
        if revision is None:
            return self
        changes = {field: getattr(revision, field) for field in revision.__struct_fields__}
        return msgspec.structs.replace(self, **changes)


class Revision(StoredRecord, frozen=True):
    """What a run executes since a `resume` changed it: all of these fields take the place of those of its RunSpec."""

    command: tuple[str, ...]
    cwd: str
    script: str | None
    python: str | None
    params: Mapping[str, Any]
    resume_arg: tuple[str, ...] | str | None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_command(self.command)


class ManifestEntry(StoredRecord, frozen=True, array_like=True):
    """One file of a checkpoint folder."""

    path: str  # relative to the folder
    size_bytes: int


class Measure(Record, frozen=True):
    """A checkpoint as it was when it was reported."""

    size_bytes: int | None  # of the file, or of all files of the folder; None: it was not there
    saved_at: datetime
    manifest: tuple[ManifestEntry, ...] | None = None  # None for a file


class Checkpoint(Record, frozen=True):
    """A file or folder from which a trainer can continue."""

    path: str  # absolute
    step: int | None
    session: int
    measure: Measure
    is_emergency: bool = False  # saved by us when the script did not answer a stop: never resumed from unasked
    is_kept: bool = False  # of an earlier session: kept when one that had not read it saved over it
    is_weights_only: bool = False  # without an optimizer's state: resumed from only where nothing else is


def with_step(path: str, step: int | None) -> str:
    """A checkpoint as messages name it."""
    return path if step is None else f"{path} (step {step})"


class Pause(Record, frozen=True):
    """A pause that is over."""

    after_s: float  # of training in its session
    paused_s: float


class Session(Record, frozen=True):
    """One timeboxed attempt at a run."""

    number: int
    status: Status
    started_at: datetime
    timebox_s: float
    grace_s: float
    host: str
    supervisor_pid: int
    boot_id: str | None = None
    trainer_pid: int | None = None
    script_sha256: str | None = None
    code: CodeState | None = None  # None: of an older version, which recorded it at submission only
    offered: str | None = None  # the checkpoint that it was to continue from
    is_checkpoint_read: bool | None = None  # by its trainer; None: nothing was offered, or it is not known (yet)
    resumed_from: str | None = None  # the checkpoint, once it was read
    has_started_over: bool = False  # it trains, or trained, without having read what it was offered
    job: str | None = None  # of Slurm, in which it runs
    nodes: int = 1  # that it trains on; host is the first of them
    reason: str | None = None
    ended_at: datetime | None = None
    elapsed_s: float | None = None  # None while it is active; without the time it was paused
    paused_at: datetime | None = None  # while it is paused: since when
    paused_s: float = 0.0  # in pauses that are over
    pauses: tuple[Pause, ...] = ()  # those, the newest
    exit_code: int | None = None
    stopped_by: StopReason | None = None  # the first to ask for its end; None: it came to its own
    paused_by: tuple[Pauser, ...] = ()  # who holds it in place now
    is_pause_asked: bool = False  # by a user whom its supervisor has not heard yet
    launched_at: datetime | None = None
    cwd: str | None = None  # its working folder; None: that of the run's record
    only_once: tuple[str, ...] = ()  # arguments that it had besides the run's command
    resume_option: str | None = None  # what --resume-arg would have to be: its script takes no checkpoint by itself
    has_finished_training: bool = False  # and was cut, or failed, in what the script did afterwards
    leftovers: tuple[str, ...] = ()  # processes that its trainer left running when it exited by itself, and we ended
    request_id: str | None = None  # by which it was asked for: see `Run.has_session_for`

    @property
    def full_reason(self) -> str | None:
        """Why it is as it is: also that it trained without the checkpoint it was offered, or had finished training.

        And that its trainer left processes running, which may have been the training.
        """
        return _full_reason(self.reason, self)

    @property
    def training_since(self) -> datetime:
        """When the time began that its points are dated by."""
        return self.launched_at or self.started_at

    @property
    def where(self) -> str:
        """The machines it trains on: `node1`, or `node1 and 3 more`."""
        return self.host if self.nodes == 1 else f"{self.host} and {self.nodes - 1} more"

    def trained_s(self, now: datetime) -> float:
        """How long it took, or has taken until `now`, without its pauses."""
        if self.elapsed_s is not None:
            return self.elapsed_s
        until = min(now, self.paused_at or now)
        return max(0.0, (until - self.training_since).total_seconds() - self.paused_s)


_NOTHING = msgspec.Raw(b"null")
_sessions_encoder = msgspec.json.Encoder()
_sessions_decoder = msgspec.json.Decoder(tuple[Session, ...])


class PackedSessions(Record, frozen=True):
    """Successive sessions of a run as JSON, and what is asked of them often.

    A run of thousands of sessions is read and stored again at each start of another: most of them as these bytes.
    """

    count: int
    least_number: int
    greatest_number: int
    elapsed_s: float  # of all that have ended
    offered: tuple[str, ...]  # checkpoints, each once
    data: msgspec.Raw  # JSON on one line; `null` where it is kept elsewhere: see `Run.split`

    @classmethod
    def of(cls, sessions: tuple[Session, ...]) -> "PackedSessions":
        """sessions: at least one."""
        numbers = [session.number for session in sessions]
        return cls(
            count=len(sessions),
            least_number=min(numbers),
            greatest_number=max(numbers),
            elapsed_s=sum(session.elapsed_s or 0.0 for session in sessions),
            offered=tuple(dict.fromkeys(session.offered for session in sessions if session.offered is not None)),
            data=msgspec.Raw(_sessions_encoder.encode(sessions)),
        )

    def unpacked(self) -> tuple[Session, ...]:
        """Raises BackpropError where the index, which does not look into them, is damaged there."""
        try:
            return _sessions_decoder.decode(self.data)
        except ValueError as error:
            raise BackpropError(f"the index is damaged ({error}); to make it anew: backprop reindex") from error

    def may_have(self, number: int) -> bool:
        """False where no session has this number."""
        return self.least_number <= number <= self.greatest_number


class Waiter(Record, frozen=True):
    """Who stands in line for a run's next session."""

    session: int  # the number that session will have
    host: str
    supervisor_pid: int  # 0: none; Slurm starts it
    since: datetime
    job: str | None = None  # of Slurm
    request_id: str | None = None  # by which the session was asked for


class Run(Record, frozen=True):
    """The state of one run by its journal: the request, and the outcome of every session.

    What the trainer reported (metrics, checkpoints, parameters) is in the index: there can be millions of them.
    """

    spec: RunSpec
    status: Status
    earlier: tuple[PackedSessions, ...] = ()
    latest: tuple[Session, ...] = ()  # the sessions after those
    reason: str | None = None
    ended_at: datetime | None = None
    waiter: Waiter | None = None  # while it is queued
    dequeued_by: StopReason | None = None  # who ended it while it was queued for a session, if anyone

    def split(self) -> "tuple[Run, bytes]":
        """The run without what its packs hold, which changes with every 64th session only, and that."""
        emptied = tuple(msgspec.structs.replace(pack, data=_NOTHING) for pack in self.earlier)
        return msgspec.structs.replace(self, earlier=emptied), b"\n".join(bytes(pack.data) for pack in self.earlier)

    def joined(self, packed: bytes) -> "Run":
        """The whole run of what `split` gave. Raises ValueError where one does not belong to the other."""
        lines = packed.split(b"\n") if packed else []
        packs = zip(self.earlier, lines, strict=True)
        filled = tuple(msgspec.structs.replace(pack, data=msgspec.Raw(line)) for pack, line in packs)
        return msgspec.structs.replace(self, earlier=filled) if filled else self

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All of them, oldest first. Decodes those that are packed: what needs a few takes less from below."""
        if not self.earlier:
            return self.latest
        return (*(session for pack in self.earlier for session in pack.unpacked()), *self.latest)

    def sessions_since(self, number: int) -> tuple[Session, ...]:
        """The sessions with this number or a greater one."""
        packs = (pack.unpacked() for pack in self.earlier if pack.greatest_number >= number)
        return tuple(session for part in (*packs, self.latest) for session in part if session.number >= number)

    @property
    def first_session(self) -> Session | None:
        """The session that began first; None before it."""
        if self.earlier:
            return self.earlier[0].unpacked()[0]
        return self.latest[0] if self.latest else None

    @property
    def session_count(self) -> int:
        """How many sessions were begun, without decoding those that are packed."""
        return sum(pack.count for pack in self.earlier) + len(self.latest)

    @property
    def elapsed_s(self) -> float:
        """Training time of the sessions that have ended."""
        return sum(pack.elapsed_s for pack in self.earlier) + sum(one.elapsed_s or 0.0 for one in self.latest)

    @property
    def offered(self) -> list[str]:
        """The checkpoints that its sessions were to continue from, each once."""
        packed = (path for pack in self.earlier for path in pack.offered)
        return list(dict.fromkeys([*packed, *(one.offered for one in self.latest if one.offered is not None)]))

    @property
    def stopped_by(self) -> StopReason | None:
        """Who asked for its end, in the queue or in its last session; None: no one, or it has not ended."""
        if self.dequeued_by is not None or not self.status.is_final:
            return self.dequeued_by
        return None if self.last_session is None else self.last_session.stopped_by

    @property
    def command(self) -> tuple[str, ...]:
        """What is executed now, or would be next: without what hands the checkpoint over."""
        last = self.last_session
        return self.spec.command if last is None or last.status.is_final else (*self.spec.command, *last.only_once)

    @property
    def job(self) -> str | None:
        """The Slurm job that executes it, or did so last; None for a run on a machine of the user's."""
        if self.waiter is not None:
            return self.waiter.job
        return None if self.last_session is None else self.last_session.job

    @property
    def is_on_slurm(self) -> bool:
        """Whether Slurm has it in hand, or had it last: `resume` may give it to another engine."""
        if self.waiter is None and self.last_session is None:
            return self.spec.slurm is not None
        return self.job is not None

    @property
    def full_reason(self) -> str | None:
        """The same of its last session, unless it is queued for another one."""
        return _full_reason(self.reason, self.last_session if self.waiter is None else None)

    @property
    def newest_number(self) -> int:
        """Of its sessions, in the order in which they were begun; 0 before the first."""
        return max([0, *(pack.greatest_number for pack in self.earlier), *(one.number for one in self.latest)])

    def has_session_for(self, request_id: str) -> bool:
        """Whether a session that was asked for by this id has started, or is queued."""
        is_queued = self.waiter is not None and self.waiter.request_id == request_id
        return is_queued or any(session.request_id == request_id for session in self.sessions)

    @property
    def last_session(self) -> Session | None:
        """The session that began last; None before the first. It is never packed."""
        return self.latest[-1] if self.latest else None

    @property
    def code(self) -> CodeState:
        """What was executed last; before that, and in older records, what was submitted."""
        packed = (session for pack in reversed(self.earlier) for session in reversed(pack.unpacked()))
        newest_first = chain(reversed(self.latest), packed)
        recorded = (session.code for session in newest_first if session.code is not None)
        return next(recorded, None) or CodeState(git=self.spec.git, patch="code.patch", notes=self.spec.code_notes)


def _full_reason(reason: str | None, session: Session | None) -> str | None:
    if session is None:
        return reason
    if session.has_finished_training:
        what = "failed" if session.status is Status.FAILED else "was cut"
        reason = f"training finished; the script {what} in what it did afterwards: {reason}"
    notes = [] if reason is None else [reason]
    if session.leftovers:
        first, more = session.leftovers[:_NAMED_LEFTOVERS], len(session.leftovers) - _NAMED_LEFTOVERS
        named = ", ".join(first) + (f" and {more} more" if more > 0 else "")
        notes.append(f"its command exited, and what it left running was ended: {named}")
    if session.offered is not None and session.has_started_over:
        notes.append(f"trained without reading {PurePath(session.offered).name}")
    return "; ".join(notes) or None


class MetricSummary(Record, frozen=True):
    """What one metric of a run came to. NaN and infinities are no extremes, but may be last."""

    count: int  # points in all
    last: float
    last_step: int
    least: float | None = None  # None: no value is finite
    least_step: int | None = None
    greatest: float | None = None
    greatest_step: int | None = None
    missing: int = 0  # of the points, those that are not finite
    origin: Origin = Origin.REPORTED  # the greatest of its points


class Usage(Record, frozen=True):
    """What a run took of the machine, all sessions together. Names and units: see store/usage/quantities.py."""

    measured_s: float  # of training: sessions that were not measured, and pauses, are not in it
    peak: Mapping[str, float]
    mean: Mapping[str, float]  # over the time that the quantity was known
    energy_wh: float | None  # of its GPUs; None where they do not say
    last: Mapping[str, float]  # of each curve, sys/NAME: the newest value
    counts: Mapping[str, int]  # likewise: how many points it has


class ParamOrigin(IntEnum):
    """Where a parameter was found. The script's own word wins over what was seen, and that over a guess."""

    ARGUMENTS = 0  # guessed: what the command line looks like
    SETTINGS = 1  # seen: the script gave it to a library
    PARSER = 2  # seen: the library that parsed the script's arguments has it
    SCRIPT = 3  # reported by the script


class Life(str, Enum):
    """The signs of life that a running session shows."""

    ALIVE = "alive"  # it made a step, or printed something, a short time ago
    SILENT = "silent"  # it uses CPU or a GPU, but makes no step and prints nothing
    UNSEEN = "unseen"  # it is silent, and its use of CPU and GPU cannot be seen
    STALLED = "stalled"  # no sign of life


QUIET_AFTER_S = 120.0  # a session that is silent for this long is marked
USE_LAG_S = 10.0  # by which the judgement of CPU and GPU use may lag


class LiveProgress(StoredRecord, frozen=True):
    """How a running session does, as its supervisor saw it last. Seconds are those of training, without pauses."""

    silent_s: float = 0.0  # since its last step or output
    stalled_s: float | None = None  # since its last step, output, or use of CPU or GPU; None: use cannot be seen
    last_step_at: datetime | None = None  # when the newest step was seen
    steps_per_s: float | None = None
    remaining_s: float | None = None  # until training is complete, at this rate
    is_estimate: bool = False  # the latter rests on what the script prints for people

    @property
    def lifeless_s(self) -> float:
        """Since the last sign of life, of those that can be seen."""
        return self.silent_s if self.stalled_s is None else self.stalled_s

    @property
    def life(self) -> Life:
        """Its signs of life within the last QUIET_AFTER_S seconds."""
        if self.silent_s < QUIET_AFTER_S:
            return Life.ALIVE
        if self.stalled_s is None:
            return Life.UNSEEN
        return Life.SILENT if self.stalled_s + USE_LAG_S < QUIET_AFTER_S else Life.STALLED


class Decision(str, Enum):
    """What its user makes of a run."""

    KEEP = "keep"  # an improvement: go on from here
    DISCARD = "discard"  # no improvement
    CRASH = "crash"  # it says nothing of the idea


class Note(Record, frozen=True):
    """What a user wrote about a run."""

    at: datetime
    by: str
    text: str


class Annotations(Record, frozen=True):
    """What users say about a run, whenever they say it."""

    group: str | None = None
    tags: tuple[str, ...] = ()  # sorted
    notes: tuple[Note, ...] = ()  # oldest first
    parent: str | None = None  # id of the run whose idea this one goes on from; its weights may come from elsewhere
    decision: Decision | None = None
    is_archived: bool = False  # `list` does not show it once it has ended


class RunView(Record, frozen=True):
    """A run with a summary of what its trainer reported: what all views show."""

    run: Run
    run_dir: str
    annotations: Annotations = Annotations()
    # that was reported; else how many optimizer steps were counted; else that was logged to a tracker, or printed
    last_step: int | None = None
    total_steps: int | None = None  # of the same kind
    step_unit: str | None = None  # what one of those is, in the singular: optimizer step, epoch, round; None: not known
    metrics: Mapping[str, float] = {}  # last value of each
    summaries: Mapping[str, MetricSummary] = {}
    goals: Mapping[str, Goal] = {}  # of metrics, as the user or the script gave them; of others the name may say it
    params: Mapping[str, Any] = {}
    default_params: frozenset[str] = frozenset()  # those that have the default of the script's parser
    checkpoints: tuple[Checkpoint, ...] = ()  # oldest first
    note_count: int = 0
    has_lost_metrics: bool = False  # there are more names than the index keeps
    live: LiveProgress | None = None  # of its session, while it runs: not while it is paused
    usage: Usage | None = None  # None: it was not measured


class Level(str, Enum):
    """How bad a finding of `doctor` is."""

    OK = "ok"
    NOTE = "note"  # works, and should be known
    PROBLEM = "problem"  # something will not work


class Finding(Record, frozen=True):
    """One thing that `doctor` found about the machine."""

    check: str
    level: Level
    text: str
    advice: str | None = None  # what to do


class Ticket(Record, frozen=True):
    """The resources that an active run holds, or that a queued run requests."""

    run_id: str
    pid: int
    user: str
    since_unix_s: float  # when it joined the line, or was admitted
    max_parallel: int
    priority: int = 0  # how many places further ahead it counts in the queue
    within: str | None = None  # the run in whose trainer it was started, which may wait for it
    is_running: bool = False
    is_away: bool = False  # suspended while it waited: others pass
    waits_for: str | None = None
    name: str | None = None  # of the run, when it joined
    ram_bytes: int = 0  # what it was promised
    ram_seen_bytes: int = 0  # the most that it was seen to hold
    vram_bytes: Mapping[str, int] = {}  # uuid of a card -> the same there
    vram_seen_bytes: Mapping[str, int] | None = None  # None: unknown
    # when one of these grew last, or its trainer made its first step; None: it has made none, or is paused
    grown_unix_s: float | None = None

    @property
    def label(self) -> str:
        """The run as a person knows it: its name, where it has one, and its id."""
        return self.run_id if self.name is None else f"{self.name[:_LABEL_WIDTH]} ({self.run_id})"
