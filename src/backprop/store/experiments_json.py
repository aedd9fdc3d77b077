"""experiments.json: the public snapshot that other tools read, replaced whole.

    {"<run id>": {"id", "name", "scriptPath", "status", "startTime", "endTime", "lastStep", "lastLoss",
                  "lastCheckpoint", "checkpoints"}}

Times are milliseconds since 1970. The format is older than Backprop's index; what an older tool left is imported.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from backprop.records import Checkpoint, RunView
from backprop.store.files import UNDECODABLE, foreign_owner, replace_file
from backprop.store.home import Home, set_aside
from backprop.store.index import Index
from backprop.store.output.protocol import json_safe
from backprop.store.rundir import RUN_ID

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
    """Rewrite the file from the index. It is not due any more. Raises OSError, sqlite3.Error or HomeBusyError."""
    due = index.snapshot_due()
    with home.lock():
        _rebuild(home, index, say)
    index.set_snapshot_written(due)


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

    Entries of an older tool whose ids are not valid here were not imported, and stay as they are.
    """
    entries = _read(path)
    return None if entries is None else {run_id for run_id in entries if RUN_ID.fullmatch(run_id)}


def _encoded(view: RunView) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(json_safe(_entry(view))))


def newest_checkpoints(checkpoints: Sequence[Checkpoint], limit: int = MAX_CHECKPOINTS) -> list[Checkpoint]:
    """All of a few; of more the newest that are still there, oldest first."""
    if len(checkpoints) <= limit:
        return list(checkpoints)
    there = (checkpoint for checkpoint in reversed(checkpoints) if os.path.lexists(checkpoint.path))
    return list(itertools.islice(there, limit))[::-1]


def _entry(view: RunView) -> dict[str, Any]:
    spec, first = view.run.spec, view.run.first_session
    saved = [checkpoint for checkpoint in view.checkpoints if not checkpoint.is_emergency]
    paths = [checkpoint.path for checkpoint in newest_checkpoints(saved)]
    return {
        "id": spec.id,
        "name": spec.name,
        "scriptPath": spec.script or spec.command[0],
        "status": view.run.status.value,
        "startTime": _milliseconds(spec.created_at if first is None else first.started_at),
        "endTime": _milliseconds(view.run.ended_at),
        "lastStep": view.last_step,
        "lastLoss": view.metrics.get("loss"),
        "lastCheckpoint": paths[-1] if paths else None,
        "checkpoints": paths,
    }


def _milliseconds(instant: datetime | None) -> int | None:
    return None if instant is None else round(instant.timestamp() * 1000)
