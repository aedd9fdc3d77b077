"""experiments.json: the public snapshot that other tools read, replaced whole.

    {"<run id>": {"id", "name", "scriptPath", "status", "startTime", "endTime", "lastStep", "lastLoss",
                  "lastCheckpoint", "checkpoints"}}

Times are milliseconds since 1970. The format is older than Backprop's index; what an older tool left is imported.
"""

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from backprop.records import Checkpoint, Record, RunView, Status, is_showable
from backprop.store.index import Index
from backprop.store.output.protocol import json_safe
from backprop.store.plain import UNDECODABLE, foreign_owner
from backprop.store.rundir import RUN_ID, Home, set_aside
from backprop.trainer import atomic_files

MAX_RUNS = 1000
MAX_CHECKPOINTS = 20  # of a run: of thousands, most were deleted long ago


def put(home: Home, index: Index, run_id: str, say: Callable[[str], None]) -> None:
    """Bring one run's entry up to date, removing it when the index does not have the run.

    The other entries are not touched. Raises OSError, sqlite3.Error or HomeBusyError.
    """
    with home.lock():
        entries = _read(home.snapshot_path)
        if entries is None:
            _rebuild(home, index, say)
            return
        view = index.get(run_id)
        if view is None:
            entries.pop(run_id, None)
        elif run_id in entries:
            entries[run_id] = _encoded(view)
        else:
            entries = {run_id: _encoded(view)} | entries
        newest = dict(itertools.islice(entries.items(), MAX_RUNS))
        replace_file(home.snapshot_path, msgspec.json.encode(newest))


def rebuild(home: Home, index: Index, say: Callable[[str], None]) -> None:
    """Write the file anew from the index, which is due no more. Raises OSError, sqlite3.Error or HomeBusyError."""
    with home.lock():
        _rebuild(home, index, say)
    index.set_snapshot_due(is_due=False)


def _rebuild(home: Home, index: Index, say: Callable[[str], None]) -> None:
    if (owner := foreign_owner(home.snapshot_path)) is not None:
        say(f"{home.snapshot_path} belonged to user {owner}; it is replaced.")
        home.snapshot_path.unlink()
    if home.snapshot_path.exists() and _read(home.snapshot_path) is None:
        say(f"{home.snapshot_path} was damaged; it is kept as {set_aside(home.snapshot_path)} and rebuilt.")
    entries = {view.run.spec.id: _encoded(view) for view in index.newest(MAX_RUNS)}
    replace_file(home.snapshot_path, msgspec.json.encode(entries))


def _read(path: Path) -> dict[str, msgspec.Raw] | None:
    """The entries as they are, newest first; None when there is no sound file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
    except (FileNotFoundError, IsADirectoryError, PermissionError, *UNDECODABLE):
        return None


def is_sound(path: Path) -> bool:
    """True for an object keyed by run id; False for anything else, or nothing."""
    return _read(path) is not None


def run_ids(path: Path) -> set[str] | None:
    """The runs in it that may be ours; None for anything else than an object keyed by run id, or nothing.

    What an older tool called by a name that no run of ours can have was not imported, and stays as it is.
    """
    entries = _read(path)
    return None if entries is None else {run_id for run_id in entries if RUN_ID.fullmatch(run_id)}


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Give a file new content in one step: readers see the old or the new, never a half. Raises OSError.

    mode: its permissions, but for those that the umask takes.
    """
    with atomic_files.drafted(str(path), mode) as draft:
        Path(draft).write_bytes(data)


def _encoded(view: RunView) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(json_safe(_entry(view))))


def newest_checkpoints(checkpoints: Sequence[Checkpoint], limit: int = MAX_CHECKPOINTS) -> list[Checkpoint]:
    """All of a few; of more the newest that are still there, oldest first."""
    if len(checkpoints) <= limit:
        return list(checkpoints)
    there = (checkpoint for checkpoint in reversed(checkpoints) if os.path.lexists(checkpoint.path))
    return list(itertools.islice(there, limit))[::-1]


def _entry(view: RunView) -> dict[str, Any]:
    spec, sessions = view.run.spec, view.run.sessions
    saved = [checkpoint for checkpoint in view.checkpoints if not checkpoint.is_emergency]
    paths = [checkpoint.path for checkpoint in newest_checkpoints(saved)]
    return {
        "id": spec.id,
        "name": spec.name,
        "scriptPath": spec.script or spec.command[0],
        "status": view.run.status.value,
        "startTime": _milliseconds(sessions[0].started_at if sessions else spec.created_at),
        "endTime": _milliseconds(view.run.ended_at),
        "lastStep": view.last_step,
        "lastLoss": view.metrics.get("loss"),
        "lastCheckpoint": paths[-1] if paths else None,
        "checkpoints": paths,
    }


def _milliseconds(instant: datetime | None) -> int | None:
    return None if instant is None else round(instant.timestamp() * 1000)


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
    """The text without what no record of ours may hold: lone surrogates, and NUL."""
    return text.encode(errors="replace").decode().replace("\0", "?")


def _instant(milliseconds: float | None) -> datetime | None:
    try:
        instant = None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None
    return instant if instant is None or is_showable(instant) else None
