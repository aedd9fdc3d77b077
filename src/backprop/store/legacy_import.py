"""The experiments.json of an older tool: its runs become run directories, once."""

import errno
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec

from backprop import host
from backprop.records import Limits, Record, RunSpec, Say, Status, is_showable
from backprop.store.files import write_plain
from backprop.store.home import LOCK_PATIENCE_S, Home
from backprop.store.journal.entries import SessionEnded, SessionStarted
from backprop.store.rundir import RUN_ID, RunDir

_IMPORT_PATIENCE_S = 60.0  # how long a command waits for another one's import
NO_LIMITS = Limits(timebox_s=600.0, grace_s=30.0, min_free_ram_bytes=0, min_free_disk_bytes=0)  # that we know of
_encode = msgspec.json.Encoder().encode


class OldRun(Record, frozen=True):
    """An entry as an older tool wrote it, with what could not be understood left out."""

    id: str
    name: str | None
    script: str | None
    status: Status
    started_at: datetime
    ended_at: datetime | None
    last_step: int | None
    last_loss: float | None
    checkpoints: tuple[str, ...]


def take_over(home: Home, say: Say) -> None:
    """Turn the experiments.json of an older tool into run directories, once: see `Home.has_old_runs_only`.

    All of them appear in one rename, or none: an import that is killed is repeated by the next command.
    Raises HomeBusyError, OSError or ConfigError.
    """
    patience_s = LOCK_PATIENCE_S
    if home.has_old_runs_only():
        patience_s = _IMPORT_PATIENCE_S  # another process is importing: a millisecond a run
        try:
            home.make_own()  # this machine may be new to a shared home
        except OSError as error:
            raise home.unusable(error) from error
    with suppress(FileNotFoundError), home.lock(patience_s):
        if not home.has_old_runs_only():
            return
        try:
            old_runs = read_old(home.old_snapshot_path)
        except (OSError, ValueError):
            return  # damaged: set aside at the next write
        draft = Home(home.lock_path.parent / ".importing")
        shutil.rmtree(draft.path, ignore_errors=True)
        draft.make()
        try:
            for old in old_runs:
                if RUN_ID.fullmatch(old.id):
                    _import(draft, old)
                else:
                    say(f"an older run is not imported: its id {old.id!r} cannot name a folder.")
            os.sync()  # the file that they were read from is replaced next; each by itself would take much longer
            draft.runs_path.rename(home.runs_path)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise home.unusable(error) from error
            return  # another machine that shares this home was faster
        finally:
            shutil.rmtree(draft.path, ignore_errors=True)
        say(f"imported {len(old_runs)} runs of an older tool from {home.old_snapshot_path}.")


def _import(home: Home, old: OldRun) -> None:
    """Write the run's folder; nothing is synced, since the whole home appears at once. Raises OSError."""
    rundir = home.rundir(old.id)
    rundir.path.mkdir(mode=0o700)
    spec = _spec(old)
    write_plain(rundir.spec_path, _encode(spec) + b"\n")
    write_plain(rundir.out_path(1), b"".join(_encode(line) + b"\n" for line in _output(old)))
    put_session(rundir, spec, old.status, "imported from an older experiments.json", old.ended_at or old.started_at)


def _spec(old: OldRun) -> RunSpec:
    script = old.script or old.id
    return RunSpec(
        id=old.id,
        name=old.name,
        command=("python3", script),
        script=script,
        cwd=str(Path(script).parent),
        created_at=old.started_at,
        host=host.name(),
        user=host.user(),
        limits=NO_LIMITS,
    )


def _output(old: OldRun) -> list[dict[str, object]]:
    """The lines by which a script would have reported what is known of it."""
    lines: list[dict[str, object]] = []
    if old.last_step is not None:
        loss = {} if old.last_loss is None else {"loss": old.last_loss}
        lines.append({"step": old.last_step, **loss})
    lines += [{"event": "checkpoint_saved", "path": path} for path in old.checkpoints]
    return lines


def put_session(rundir: RunDir, spec: RunSpec, status: Status, reason: str, ended_at: datetime) -> None:
    """Write the journal of a run that was executed elsewhere, from its creation on. Raises OSError."""
    entries = (
        SessionStarted(
            at=spec.created_at,
            session=1,
            timebox_s=spec.limits.timebox_s,
            grace_s=spec.limits.grace_s,
            host=spec.host,
            supervisor_pid=0,
            boot_id=None,
        ),
        SessionEnded(
            at=ended_at,
            session=1,
            status=status,
            reason=reason,
            exit_code=None,
            elapsed_s=max(0.0, (ended_at - spec.created_at) / timedelta(seconds=1)),
        ),
    )
    write_plain(rundir.journal_path, b"".join(_encode(entry) + b"\n" for entry in entries))


def read_old(path: Path) -> list[OldRun]:
    """The runs in an experiments.json of an older tool. Raises OSError, or ValueError when it is damaged."""
    try:
        document = json.loads(path.read_bytes())  # not msgspec: a loss may be written as NaN
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(document, dict):
        raise ValueError("not an object keyed by run id")  # noqa: TRY004  what is wrong is the file
    return [_old_run(run_id, entry) for run_id, entry in document.items() if isinstance(entry, dict)]


def _old_run(run_id: str, entry: Mapping[str, Any]) -> OldRun:
    def pick(key: str, *types: type) -> Any:
        value = entry.get(key)
        if isinstance(value, str):
            value = _clean(value)
        return value if isinstance(value, types) and not isinstance(value, bool) else None

    status = pick("status", str)
    known = status in {s.value for s in Status} and Status(status).is_final
    last = pick("lastCheckpoint", str)
    checkpoints = [_clean(item) for item in pick("checkpoints", list) or [] if isinstance(item, str)]
    if last is not None and last not in checkpoints:
        checkpoints.append(last)
    return OldRun(
        id=run_id,
        name=pick("name", str),
        script=pick("scriptPath", str),
        status=Status(status) if known else Status.INTERRUPTED,  # what was running then is not running now
        started_at=_instant(pick("startTime", int, float)) or datetime.now(timezone.utc),
        ended_at=_instant(pick("endTime", int, float)),
        last_step=pick("lastStep", int),
        last_loss=pick("lastLoss", int, float),
        checkpoints=tuple(checkpoints),
    )


def _clean(text: str) -> str:
    """The text without what a record cannot hold: lone surrogates, and NUL."""
    return text.encode(errors="replace").decode().replace("\0", "?")


def _instant(milliseconds: float | None) -> datetime | None:
    try:
        instant = None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
    return instant if instant is None or is_showable(instant) else None
