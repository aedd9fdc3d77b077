"""Runs that were never run, as real as the views can tell: directories with their files, and rows in the index.

Made because a hundred thousand real ones would take a day.
"""

from array import array
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec

from backprop.records import Limits, RunSpec, Status
from backprop.store import experiments_json
from backprop.store.curve_writer import CHUNK_POINTS
from backprop.store.home import Home
from backprop.store.index import Index, SourceSizes
from backprop.store.journal.entries import Entry, SessionEnded, SessionStarted, TrainerLaunched
from backprop.store.journal.fold import fold
from backprop.store.output.protocol import Batch, Series
from backprop.store.rundir import RunDir

_EPOCH = datetime(2026, 1, 1, tzinfo=timezone.utc)
_METRICS = ("loss", "lr")


def spec_of(run_id: str, number: int = 0) -> RunSpec:
    """A run as `backprop run train.py -- --lr 0.1` asks for it."""
    return RunSpec(
        id=run_id,
        command=("/usr/bin/python3", "/home/you/project/train.py", "--lr", "0.1"),
        script="/home/you/project/train.py",
        python="/usr/bin/python3",
        cwd="/home/you/project",
        created_at=_EPOCH + timedelta(minutes=number),
        host="bench",
        user="you",
        name=f"trial-{number}" if number % 10 == 0 else None,
        params={"lr": 0.1 / (1 + number % 20), "layers": 2 + number % 5, "seed": number % 1000},
        limits=Limits(timebox_s=600.0, grace_s=30.0, min_free_ram_bytes=0, min_free_disk_bytes=0),
    )


def started(spec: RunSpec) -> SessionStarted:
    """The first entry of a journal."""
    return SessionStarted(
        at=spec.created_at,
        session=1,
        timebox_s=spec.limits.timebox_s,
        grace_s=spec.limits.grace_s,
        host=spec.host,
        supervisor_pid=1,
        boot_id=None,
    )


def story(spec: RunSpec, number: int) -> list[Entry]:
    """What the journal of a run that has ended tells."""
    status, code = (Status.FAILED, 1) if number % 7 == 0 else (Status.COMPLETED, 0)
    return [
        started(spec),
        TrainerLaunched(at=spec.created_at, session=1, pid=2),
        SessionEnded(
            at=spec.created_at + timedelta(seconds=50),
            session=1,
            status=status,
            reason=None if code == 0 else "exit code 1",
            exit_code=code,
            elapsed_s=50.0,
        ),
    ]


def fill(home: Home, run_count: int) -> None:
    """Make so many ended runs, on disk and in the index."""
    home.make()
    index = Index(home.index_path, 10.0)
    for number in range(run_count):
        spec = spec_of(f"r{number:07}", number)
        entries = story(spec, number)
        size = write(home.rundir(spec.id), spec, entries)
        index.put_run(fold(spec, entries), size)
        index.set_whole(spec.id, size, SourceSizes(1, {}), 1)
        index.add_output(spec.id, 1, 0, 40, _batch(number, 1), ())
    index.set_seen_folder_ns(home.runs_path.stat().st_mtime_ns)
    experiments_json.rebuild(home, index, print)
    index.close()


def write(rundir: RunDir, spec: RunSpec, entries: list[Entry]) -> int:
    """Make the directory; returns the size of the journal in bytes."""
    journal = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
    rundir.path.mkdir(mode=0o700)
    rundir.spec_path.write_bytes(msgspec.json.encode(spec))
    rundir.journal_path.write_bytes(journal)
    rundir.out_path(1).write_bytes(b"".join(b'{"step": %d, "loss": 0.5, "lr": 0.1}\n' % step for step in range(20)))
    return len(journal)


def add_points(home: Home, run_id: str, point_count: int) -> None:
    """Give a run so many points more, in the chunks that a supervisor makes of a slow trainer: the most rows."""
    index = Index(home.index_path, 10.0)
    first, last = index.offset(run_id, 1), point_count // len(_METRICS)
    for step in range(0, last, CHUNK_POINTS):
        index.add_output(run_id, 1, first + step, first + step + CHUNK_POINTS, _batch(step, CHUNK_POINTS), ())
    index.close()


def _batch(first_step: int, count: int) -> Batch:
    batch = Batch()
    batch.last_step = first_step + count - 1
    for name in _METRICS:
        series = batch.series[name] = Series()
        series.steps = array("d", range(first_step, first_step + count))
        series.values = array("d", (1.0 / (step + 1) for step in range(first_step, first_step + count)))
        series.ends = array("q", range(first_step + 1, first_step + count + 1))
    return batch


def leave_old_runs(home: Path, run_count: int) -> None:
    """A new home as an older tool left it: nothing but an experiments.json."""
    home.mkdir(mode=0o700)
    entry = {"scriptPath": "/home/you/train.py", "status": "completed", "lastStep": 100, "lastLoss": 0.5}
    old = {f"r{number:07}": {**entry, "startTime": 1_700_000_000_000 + number} for number in range(run_count)}
    home.joinpath("experiments.json").write_bytes(msgspec.json.encode(old))
