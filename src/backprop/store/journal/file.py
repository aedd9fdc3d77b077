"""journal.jsonl: what was done about a run and why, one entry a line, and the state that follows from it.

The supervisor appends while it lives; whoever asks something of it (see requests.py) appends the request, and whoever
finds the supervisor dead appends the ending. `fold` turns entries into a Run and is the only place that knows how.
The file's kernel lock says who answers for the run: it is free at the instant its holder dies.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

from backprop.records import (
    CodeState,
    Limits,
    ManifestEntry,
    Measure,
    Pauser,
    Revision,
    Run,
    RunSpec,
    Session,
    SlurmRequest,
    Source,
    Status,
    StopReason,
    StoredRecord,
    Waiter,
)
from backprop.store.output.line_times import Growth
from backprop.store.plain import UNDECODABLE, open_plain, read_plain, write_plain

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


class Said(_Entry, frozen=True, tag="said"):
    """What a supervisor in a Slurm job tells whoever watches: with a terminal of its own it would tell it there."""

    text: str


class StopAsked(_Entry, frozen=True, tag="stop_asked"):
    session: int
    by: StopReason
    detail: str
    now: bool = False  # skip the ladder


class PauseAsked(_Entry, frozen=True, tag="pause_asked"):
    """A user wants the session to stand still where it is."""

    session: int
    detail: str


class GoOnAsked(_Entry, frozen=True, tag="go_on_asked"):
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
    growth: Growth


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
    | Said
    | StopAsked
    | PauseAsked
    | GoOnAsked
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
    StopAsked,
    PauseAsked,
    GoOnAsked,
    Renamed,
    SessionEnded,
    Refused,
    NotContinued,
    Paused,
    Continued,
)

_ASKED = "asked"  # folder of a run, for requests
SIGN_EVERY_S = 10.0  # that whoever has a journal locked says by the time of its last change: I live
_LIFE_S = 35.0  # that it is believed: a machine so busy that its supervisor is late is not a lost one
_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)
_encode = msgspec.json.Encoder().encode


def read(path: Path) -> tuple[list[Entry], int]:
    """All entries, and how many bytes they are. Raises OSError, but not when there is no journal yet."""
    try:
        return parse(read_plain(path))
    except FileNotFoundError:
        return [], 0


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


def unheard(path: Path) -> list[Entry]:
    """What was asked of the run with this journal (see `Journal.ask`), and is not in it yet: oldest first."""
    asked_path = path.with_name(_ASKED)
    entries: list[Entry] = []
    for name in _request_names(asked_path):
        with suppress(OSError):  # it was heard a moment ago
            entries += parse(read_plain(asked_path / name) + b"\n")[0]
    return entries


def _request_names(asked_path: Path) -> list[str]:
    """The names of the requests, in the order in which they were made."""
    try:
        return sorted(name for name in os.listdir(asked_path) if not name.startswith("."))  # noqa: PTH208
    except OSError:  # nobody ever asked; or a shared file system that fails for a moment
        return []


class Journal:
    """Appends entries to a journal; reads from it as it grows, whoever wrote."""

    def __init__(self, path: Path, *, is_read_only: bool = False, fd: int | None = None) -> None:
        """Open for appending, or only to see who has it locked. Raises OSError.

        fd: of a file that is open for both already, and is closed by this object.
        """
        flags = os.O_RDONLY if is_read_only else os.O_RDWR | os.O_APPEND | os.O_CREAT
        self._fd = open_plain(path, flags) if fd is None else fd
        self.is_locked = False  # by this object
        self._asked_path = path.with_name(_ASKED)
        self._unwritten: list[tuple[bytes, bool]] = []
        self._read_to = 0
        self._next_sign_at = 0.0  # monotonic
        self._heard: set[str] = set()  # requests that are in the journal, and could not be taken away

    def close(self) -> None:
        """Close the file; its lock, if held, is free from now on."""
        os.close(self._fd)

    def try_lock(self) -> bool:
        """Take the run for this process until the journal is closed or the process dies; False if it is taken."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK}:
                return False
            raise
        self.is_locked = True
        return True

    def is_in_place(self, path: Path) -> bool:
        """Whether the file that we have open is the one at this path: not removed, nor replaced."""
        try:
            return os.path.samestat(path.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False
        except OSError:  # a shared file system that fails for a moment
            return True

    def unlock(self) -> None:
        """Leave the run to whoever wants it: nothing of ours is to come."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        self.is_locked = False

    def ask(self, entry: Entry) -> None:
        """Leave a request to whoever has the run locked on another machine; it lands in the journal when heard.

        A file system that several machines share does not keep apart what two of them append to one file. Raises
        OSError.
        """
        self._asked_path.mkdir(mode=0o700, exist_ok=True)
        name = f"{time.time_ns()}-{os.uname().nodename}-{os.getpid()}"
        draft = self._asked_path / f".{name}"
        write_plain(draft, _encode(entry))
        draft.rename(self._asked_path / name)

    def take_requests(self) -> None:
        """Write down what others asked for. Costs one failed look where nobody ever did.

        Call it with the journal locked. On a full disk a request lies where it is until there is room.
        """
        self._give_sign_of_life()
        for name in self._requests():
            if name not in self._heard and not self._take(name):
                return
            with suppress(OSError):  # a shared file system that fails for a moment: at the next look
                (self._asked_path / name).unlink()
                self._heard.discard(name)

    def _give_sign_of_life(self) -> None:
        """Show whoever looks from a machine on which our lock is not seen that there is somebody: `shows_life`."""
        now = time.monotonic()
        if now >= self._next_sign_at:
            self._next_sign_at = now + SIGN_EVERY_S
            with suppress(OSError):  # a shared file system that fails for a moment
                os.utime(self._fd)

    def shows_life(self, now_unix_s: float) -> bool:
        """Whether its holder has been at work lately. now_unix_s: by the clock of the file system's server."""
        return now_unix_s - os.fstat(self._fd).st_mtime < _LIFE_S

    def _take(self, name: str) -> bool:
        """Write one request down; False when that must be tried again."""
        if not self.append():
            return False
        try:
            entries, _ = parse(read_plain(self._asked_path / name) + b"\n")
        except OSError:  # as above: whoever trains must not be ended by it
            return False
        if not self.append(*entries):
            self._unwritten.clear()  # else it would be written twice: its file is read again
            return False
        self._heard.add(name)
        return True

    def forget_requests(self) -> None:
        """Throw away what nobody heard: it was asked of a session that will not be. Call it with the journal locked.

        Raises OSError: what stays would be asked of the next session, which has the same number.
        """
        for name in self._requests():
            (self._asked_path / name).unlink(missing_ok=True)

    def _requests(self) -> list[str]:
        return _request_names(self._asked_path)

    def skip(self) -> None:
        """What is in the journal by now is no news to `read_new`."""
        self._read_to = self.size_bytes()

    def size_bytes(self) -> int:
        return os.fstat(self._fd).st_size

    def append(self, *entries: Entry) -> bool:
        """Write entries in order; those that change the run's state are on the disk when this returns.

        On a full disk they are kept and tried again at the next call: training goes on, and so must its supervisor.
        Returns False while something waits to be written.
        """
        self._unwritten += [(_encode(entry), isinstance(entry, _SYNCED)) for entry in entries]
        while self._unwritten:
            line, synced = self._unwritten[0]
            try:
                self._write_line(line)
                if synced:
                    os.fsync(self._fd)
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EIO}:
                    raise
                return False
            self._unwritten.pop(0)
        return True

    @property
    def unwritten(self) -> list[Entry]:
        """What the disk has no room for."""
        return parse(b"".join(line + b"\n" for line, _ in self._unwritten))[0]

    def drop_unwritten(self) -> None:
        """Forget what could not be written: it was not done."""
        self._unwritten.clear()

    def _write_line(self, line: bytes) -> None:
        # one write a line: O_APPEND keeps lines of several processes apart. A line cut short by a full disk
        # or a power loss ends here, so that it cannot swallow the next one
        size = self.size_bytes()
        torn = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + line + b"\n"
        if os.write(self._fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def read_new(self) -> list[Entry]:
        """Entries since the last call, this process's own included, and what others asked for.

        Call it with the journal locked. Costs little when there are none.
        """
        self.take_requests()
        unread = self.size_bytes() - self._read_to
        if unread <= 0:
            return []
        entries, length = parse(os.pread(self._fd, unread, self._read_to))
        self._read_to += length
        return entries


def gpu_counts(entries: Iterable[Entry]) -> dict[int, int | None]:
    """Session -> how many GPUs it was given; None: nobody knows what its trainer found."""
    counts: dict[int, int | None] = {}
    admitted: Admitted | None = None
    for entry in entries:
        if isinstance(entry, Admitted):
            admitted = entry
        elif isinstance(entry, SessionStarted):
            on_first = None if admitted is None or admitted.gpus is None else len(admitted.gpus)
            counts[entry.session] = None if on_first is None else on_first * entry.nodes
            admitted = None
    return counts


def fold(spec: RunSpec, entries: Iterable[Entry]) -> Run:
    """The run that these entries tell of. Pure; any sequence of entries gives a run.

    A session without an end is `running`, or `paused`: whether its supervisor still lives is not in the journal.
    """
    return fold_on(Run(spec=spec, status=Status.QUEUED), entries)


class RunReader:
    """The run that a journal tells of, time and again: each time from where it was read to before."""

    def __init__(self, path: Path, spec: RunSpec) -> None:
        self._path = path
        self._spec = spec
        self._identity: tuple[int, int] | None = None  # of the file that was read
        self._run = fold(spec, ())
        self._end = 0

    def read(self) -> tuple[Run, int]:
        """The run, and how many bytes of journal that is. Raises OSError, but not when there is no journal yet."""
        try:
            file = os.fdopen(open_plain(self._path), "rb")
        except FileNotFoundError:
            return fold(self._spec, ()), 0
        with file:
            info = os.fstat(file.fileno())
            identity = (info.st_dev, info.st_ino)
            if identity != self._identity or info.st_size < self._end:
                self._identity, self._run, self._end = identity, fold(self._spec, ()), 0
            file.seek(self._end)
            entries, size = parse(file.read())
        self._run, self._end = fold_on(self._run, entries), self._end + size
        return self._run, self._end


def fold_on(run: Run, entries: Iterable[Entry]) -> Run:
    """What becomes of a run by these entries."""
    numbers = {session.number for session in run.sessions}
    for entry in entries:
        match entry:
            case SessionStarted():
                run = _add_session(run, entry, is_new=entry.session not in numbers)
                numbers.add(entry.session)
            case TrainerLaunched():
                run = _change_session(run, entry.session, trainer_pid=entry.pid, launched_at=entry.at)
            case CheckpointRead() | CheckpointUnread():
                run = _note_read(run, entry)
            case StopAsked() | PauseAsked() | GoOnAsked():
                run = _note_request(run, entry)
            case Paused():
                run = _pause_session(run, entry)
            case Continued():
                run = _continue_session(run, entry)
            case SessionEnded():
                run = _end_session(run, entry)
            case Queued() | Submitted():
                run = _stand_in_line(run, entry)
            case Refused() | NotContinued():
                run = _end_without_a_session(run, entry)
            case Renamed():
                run = msgspec.structs.replace(run, spec=msgspec.structs.replace(run.spec, name=entry.name))
            case _:
                pass  # told for people; changes no state
    return run


def _add_session(run: Run, entry: SessionStarted, *, is_new: bool) -> Run:
    """is_new: whether no session has its number: to look at each would take long where there are thousands."""
    spec = run.spec.revised(entry.revision)
    session = Session(
        number=entry.session,
        status=Status.RUNNING,
        started_at=entry.at,
        timebox_s=entry.timebox_s,
        grace_s=entry.grace_s,
        host=entry.host,
        supervisor_pid=entry.supervisor_pid,
        boot_id=entry.boot_id,
        offered=entry.offered or entry.resumed_from,
        resumed_from=entry.resumed_from,
        script_sha256=entry.script_sha256,
        code=entry.code,
        job=entry.job,
        nodes=entry.nodes,
        cwd=spec.cwd,
        only_once=entry.only_once,
    )
    place = None if is_new else _place(run, entry.session)
    others = run.sessions if place is None else run.sessions[:place] + run.sessions[place + 1 :]
    return msgspec.structs.replace(
        run,
        spec=spec,
        status=Status.RUNNING,
        reason=None,
        ended_at=None,
        waiter=None,
        dequeued_by=None,
        sessions=(*others, session),
    )


def _stand_in_line(run: Run, entry: Queued | Submitted) -> Run:
    last = run.last_session
    if last is not None and not last.status.is_final:
        return run
    waiter = Waiter(
        session=entry.session,
        host=entry.host,
        supervisor_pid=entry.supervisor_pid if isinstance(entry, Queued) else 0,
        since=entry.at,
        job=entry.job,
    )
    if run.waiter is not None and run.waiter.session == waiter.session:
        waiter = msgspec.structs.replace(waiter, since=run.waiter.since)
    return msgspec.structs.replace(
        run, status=Status.QUEUED, reason=entry.reason, ended_at=None, waiter=waiter, dequeued_by=None
    )


def _end_without_a_session(run: Run, entry: Refused | NotContinued) -> Run:
    """A run that never started is refused; one that has sessions is what the last of them came to."""
    last = run.last_session
    if last is None:
        return msgspec.structs.replace(
            run, status=Status.REFUSED, reason=entry.reason, ended_at=entry.at, waiter=None, dequeued_by=entry.by
        )
    if not last.status.is_final:
        return run
    told = [last.reason] if isinstance(entry, Refused) else [last.reason, entry.reason]
    reason = "; ".join(text for text in told if text) or None
    return msgspec.structs.replace(
        run, status=last.status, reason=reason, ended_at=last.ended_at, waiter=None, dequeued_by=entry.by
    )


def _place(run: Run, number: int) -> int | None:
    """Where the session of this number is: mostly the last, which spares a run of thousands to look at each."""
    places = range(len(run.sessions) - 1, -1, -1)
    return next((place for place in places if run.sessions[place].number == number), None)


def _change_session(run: Run, number: int, **changes: Any) -> Run:
    place = _place(run, number)
    if place is None:
        return run
    changed = msgspec.structs.replace(run.sessions[place], **changes)
    sessions = (*run.sessions[:place], changed, *run.sessions[place + 1 :])
    return msgspec.structs.replace(run, sessions=sessions)


def _note_read(run: Run, entry: CheckpointRead | CheckpointUnread) -> Run:
    if isinstance(entry, CheckpointUnread):
        return _change_session(run, entry.session, is_checkpoint_read=False, has_started_over=entry.has_trained)
    place = _place(run, entry.session)
    offered = None if place is None else run.sessions[place].offered
    path = None if entry.is_late else entry.path or offered
    return _change_session(run, entry.session, resumed_from=path, is_checkpoint_read=True, has_started_over=False)


def _note_request(run: Run, entry: StopAsked | PauseAsked | GoOnAsked) -> Run:
    """Of those who ask for a stop the first counts. What is asked of a queued session is for none: see `Run`."""
    session = _unfinished(run, entry.session)
    if session is None:
        return run
    if isinstance(entry, StopAsked):
        return _change_session(run, entry.session, stopped_by=session.stopped_by or entry.by)
    return _change_session(run, entry.session, is_pause_asked=isinstance(entry, PauseAsked))


def _unfinished(run: Run, number: int) -> Session | None:
    """The last session, if it has this number and no end."""
    session = run.last_session
    return None if session is None or session.number != number or session.status.is_final else session


def _pause_session(run: Run, entry: Paused) -> Run:
    session = _unfinished(run, entry.session)
    if session is None:
        return run
    since = session.paused_at or entry.at
    run = _change_session(
        run,
        entry.session,
        status=Status.PAUSED,
        reason=entry.reason,
        paused_at=since,
        paused_by=entry.by,
        is_pause_asked=session.is_pause_asked and Pauser.USER not in entry.by,
    )
    return msgspec.structs.replace(run, status=Status.PAUSED, reason=entry.reason)


def _continue_session(run: Run, entry: Continued) -> Run:
    session = run.last_session
    if session is None or session.number != entry.session or session.paused_at is None:
        return run
    paused_s = session.paused_s + entry.paused_s
    run = _change_session(
        run, entry.session, status=Status.RUNNING, reason=None, paused_at=None, paused_by=(), paused_s=paused_s
    )
    return msgspec.structs.replace(run, status=Status.RUNNING, reason=None)


def _end_session(run: Run, entry: SessionEnded) -> Run:
    place = _place(run, entry.session)
    session = None if place is None else run.sessions[place]
    if session is not None and session.status.is_final:
        return run  # the first ending counts
    has_own_end = session is None or entry.status in {Status.COMPLETED, Status.FAILED}
    was_stopped_by = None if session is None or has_own_end else session.stopped_by
    run = _change_session(
        run,
        entry.session,
        status=entry.status,
        reason=entry.reason,
        ended_at=entry.at,
        elapsed_s=entry.elapsed_s,
        exit_code=entry.exit_code,
        stopped_by=entry.stopped_by or was_stopped_by,  # the latter for an end that its supervisor did not write
        resume_option=entry.resume_option,
        has_finished_training=entry.has_finished_training,
        leftovers=entry.leftovers,
        paused_at=None,
        paused_by=(),
        is_pause_asked=False,
    )
    last = run.last_session
    if last is not None and last.number != entry.session:
        return run
    return msgspec.structs.replace(run, status=entry.status, reason=entry.reason, ended_at=entry.at, waiter=None)
