"""Folds the entries of a journal into a run. Pure, except for the reader of a growing file."""

import os
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from backprop.records import (
    PackedSessions,
    Pause,
    Pauser,
    Run,
    RunSpec,
    Session,
    Status,
    Waiter,
)
from backprop.store.files import UNDECODABLE, open_plain
from backprop.store.journal.entries import (
    Admitted,
    CheckpointRead,
    CheckpointUnread,
    Continued,
    Entry,
    NotContinued,
    Paused,
    PauseRequested,
    Queued,
    Refused,
    Renamed,
    ResumeRequested,
    SessionEnded,
    SessionStarted,
    StopRequested,
    Submitted,
    TrainerLaunched,
    parse,
)

_MAX_PAUSES = 100  # that are kept of a session: a hot GPU may pause it every minute


def gpu_counts(entries: Iterable[Entry]) -> dict[int, int | None]:
    """Session -> the number of GPUs assigned to it; None: unknown, the trainer took what it found."""
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
    """The state of a run after these entries. Any sequence of entries gives a run.

    A session without an end is `running` or `paused`: whether its supervisor is alive is not in the journal.
    """
    return fold_on(Run(spec=spec, status=Status.QUEUED), entries)


PACK = 64  # sessions in one; as many and up to twice as many are not packed
RULES = 2  # to be raised whenever the same entries give another run: a state of other rules is not continued from


class FoldedRun(NamedTuple):
    """A run as it was stored after the first bytes of its journal."""

    record: bytes  # the Run as JSON, without what is packed: see `Run.split`
    packed: bytes
    size: int  # of those bytes of the journal
    checksum: int  # of those bytes and of the record: see `RunReader.checksum`


class RunReader:
    """Reads the state of a run from its journal, each time continuing where the last read ended."""

    def __init__(self, path: Path, spec: RunSpec, folded: FoldedRun | None = None) -> None:
        """folded: the state that the index has. It is used, and saves folding, only if the journal still begins so."""
        self._path = path
        self._spec = spec
        self._folded = folded
        self._identity: tuple[int, int] | None = None  # of the file that was read
        self._forget(None)

    def _forget(self, identity: tuple[int, int] | None) -> None:
        self._identity, self._run, self._end = identity, fold(self._spec, ()), 0
        # of all that a state depends on: how it is folded, what it begins with, and every byte of the journal
        self._checksum = zlib.crc32(msgspec.json.encode((RULES, self._spec)))

    def checksum(self, record: bytes, packed: bytes) -> int:
        """Of what was read and of the state that came of it, as it is stored: see `FoldedRun`."""
        return zlib.crc32(packed, zlib.crc32(record, self._checksum))

    def read(self) -> tuple[Run, int]:
        """The run, and the size of the journal in bytes. Raises OSError, but not if there is no journal yet."""
        self.read_new()
        return self.last_read

    @property
    def last_read(self) -> tuple[Run, int]:
        """What `read` gave, or would have given, the last time that the journal was read."""
        return self._run, self._end

    def read_new(self) -> list[Entry]:
        """The entries since the last read, which `read` counts in; all of them where the journal is another one now.

        Raises as `read`.
        """
        try:
            file = os.fdopen(open_plain(self._path), "rb")
        except FileNotFoundError:
            self._forget(None)
            return []
        with file:
            info = os.fstat(file.fileno())
            identity = (info.st_dev, info.st_ino)
            if identity != self._identity or info.st_size < self._end:
                self._forget(identity)
            file.seek(self._end)
            data = file.read()
        if self._folded is not None:
            data = data[self._skip_folded(self._folded, data) :]
            self._folded = None
        entries, size = parse(data)
        self._run, self._end = fold_on(self._run, entries), self._end + size
        self._checksum = zlib.crc32(memoryview(data)[:size], self._checksum)
        return entries

    def _skip_folded(self, folded: FoldedRun, data: bytes) -> int:
        """Continue from the state that was stored, if it belongs to this journal; how many bytes that spares."""
        checksum = zlib.crc32(memoryview(data)[: folded.size], self._checksum)
        if len(data) < folded.size:
            return 0
        if zlib.crc32(folded.packed, zlib.crc32(folded.record, checksum)) != folded.checksum:
            return 0
        with suppress(*UNDECODABLE):
            self._run = _run_decoder.decode(folded.record).joined(folded.packed)
            self._end, self._checksum = folded.size, checksum
        return self._end


_run_decoder = msgspec.json.Decoder(Run)


def fold_on(run: Run, entries: Iterable[Entry]) -> Run:
    """The run after further entries."""
    for entry in entries:
        match entry:
            case SessionStarted():
                run = _add_session(run, entry)
            case TrainerLaunched():
                run = _change_session(run, entry.session, trainer_pid=entry.pid, launched_at=entry.at)
            case CheckpointRead() | CheckpointUnread():
                run = _note_read(run, entry)
            case StopRequested() | PauseRequested() | ResumeRequested():
                run = _note_request(run, entry)
            case Paused():
                run = _pause_session(run, entry)
            case Continued():
                run = _continue_session(run, entry)
            case SessionEnded():
                run = _end_session(run, entry)
            case Queued() | Submitted():
                run = _enqueue(run, entry)
            case Refused() | NotContinued():
                run = _end_without_a_session(run, entry)
            case Renamed():
                run = msgspec.structs.replace(run, spec=msgspec.structs.replace(run.spec, name=entry.name))
            case _:
                pass  # for people; changes no state
    return run


def _add_session(run: Run, entry: SessionStarted) -> Run:
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
        request_id=entry.request_id,
    )
    run = _replace_session(run, entry.session, ())
    earlier, latest = run.earlier, (*run.latest, session)
    if len(latest) >= 2 * PACK:
        earlier, latest = (*earlier, PackedSessions.of(latest[:PACK])), latest[PACK:]
    return msgspec.structs.replace(
        run,
        spec=spec,
        status=Status.RUNNING,
        reason=None,
        ended_at=None,
        waiter=None,
        dequeued_by=None,
        earlier=earlier,
        latest=latest,
    )


def _enqueue(run: Run, entry: Queued | Submitted) -> Run:
    last = run.last_session
    if last is not None and not last.status.is_final:
        return run
    waiter = Waiter(
        session=entry.session,
        host=entry.host,
        supervisor_pid=entry.supervisor_pid if isinstance(entry, Queued) else 0,
        since=entry.at,
        job=entry.job,
        request_id=entry.request_id,
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
    reasons = [last.reason] if isinstance(entry, Refused) else [last.reason, entry.reason]
    reason = "; ".join(text for text in reasons if text) or None
    return msgspec.structs.replace(
        run, status=last.status, reason=reason, ended_at=last.ended_at, waiter=None, dequeued_by=entry.by
    )


def _find_session(run: Run, number: int) -> Session | None:
    """The session of this number: mostly the last, which spares a run of thousands to look at each."""
    parts = (run.latest, *(pack.unpacked() for pack in run.earlier if pack.may_have(number)))
    return next((session for part in parts for session in reversed(part) if session.number == number), None)


def _replace_session(run: Run, number: int, by: tuple[Session, ...]) -> Run:
    """The run with these sessions in the place of the one with this number, if it has one."""
    if any(session.number == number for session in reversed(run.latest)):
        return msgspec.structs.replace(run, latest=_replaced(run.latest, number, by))
    if not any(pack.may_have(number) for pack in run.earlier):
        return run
    parts = (_replaced(pack.unpacked(), number, by) if pack.may_have(number) else pack for pack in run.earlier)
    packs = (part if isinstance(part, PackedSessions) else PackedSessions.of(part) for part in parts if part)
    return msgspec.structs.replace(run, earlier=tuple(packs))


def _replaced(sessions: tuple[Session, ...], number: int, by: tuple[Session, ...]) -> tuple[Session, ...]:
    return tuple(other for session in sessions for other in (by if session.number == number else (session,)))


def _change_session(run: Run, number: int, **changes: Any) -> Run:
    session = _find_session(run, number)
    return run if session is None else _replace_session(run, number, (msgspec.structs.replace(session, **changes),))


def _note_read(run: Run, entry: CheckpointRead | CheckpointUnread) -> Run:
    if isinstance(entry, CheckpointUnread):
        return _change_session(run, entry.session, is_checkpoint_read=False, has_started_over=entry.has_trained)
    session = _find_session(run, entry.session)
    offered = None if session is None else session.offered
    path = None if entry.is_late else entry.path or offered
    return _change_session(run, entry.session, resumed_from=path, is_checkpoint_read=True, has_started_over=False)


def _note_request(run: Run, entry: StopRequested | PauseRequested | ResumeRequested) -> Run:
    """Of those who ask for a stop the first counts. What is asked of a queued session is for none: see `Run`."""
    session = _unfinished(run, entry.session)
    if session is None:
        return run
    if isinstance(entry, StopRequested):
        return _change_session(run, entry.session, stopped_by=session.stopped_by or entry.by)
    return _change_session(run, entry.session, is_pause_asked=isinstance(entry, PauseRequested))


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
    pause = Pause(after_s=session.trained_s(session.paused_at), paused_s=entry.paused_s)
    run = _change_session(
        run,
        entry.session,
        status=Status.RUNNING,
        reason=None,
        paused_at=None,
        paused_by=(),
        paused_s=session.paused_s + entry.paused_s,
        pauses=(*session.pauses, pause)[-_MAX_PAUSES:],
    )
    return msgspec.structs.replace(run, status=Status.RUNNING, reason=None)


def _end_session(run: Run, entry: SessionEnded) -> Run:
    session = _find_session(run, entry.session)
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
