"""A run made of a log that was written elsewhere: what `backprop parse` understands becomes its metrics."""

import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

from backprop import host
from backprop.errors import UsageError
from backprop.records import RunSpec, Source, Status, is_showable
from backprop.store import metric_names
from backprop.store.home import Home
from backprop.store.legacy_import import NO_LIMITS, put_session
from backprop.store.output import protocol
from backprop.store.output.outlook import Outlook
from backprop.store.output.printed_metrics import PrintedMetrics
from backprop.store.output.tail import Tail
from backprop.store.rundir import RunDir


def make_run(home: Home, run_id: str, log: Path, name: str | None, patterns: Sequence[str]) -> Mapping[str, int]:
    """Make a completed run of a log; the number of points of each metric that was understood.

    All of it appears at once, or nothing. Memory does not depend on the length of the log. Raises OSError, ConfigError,
    and UsageError if no metric is understood.

    patterns: see `printed.Reader`.
    """
    written_at = _written_at(log)
    spec = RunSpec(
        id=run_id,
        name=name,
        command=("backprop", "import", str(log)),
        cwd=str(log.parent),
        created_at=written_at,
        host=host.name(),
        user=host.user(),
        limits=NO_LIMITS,
        metric_patterns=tuple(patterns),
        imported_from=str(log),
    )
    draft = home.begin(spec, None)
    try:
        shutil.copyfile(log, draft.out_path(1))
        PrintedMetrics(draft, 1, patterns, Outlook()).look(None, is_over=True, within_s=math.inf)
        points = _points(draft, log)
        put_session(draft, spec, Status.COMPLETED, "imported from a log, which does not say how it ended", written_at)
    except BaseException:
        draft.discard()
        raise
    home.publish(draft, run_id)
    return points


def _written_at(log: Path) -> datetime:
    """When a log was modified last; now, where its file system has no such year."""
    now = datetime.now(timezone.utc)
    with suppress(ValueError, OverflowError):
        modified_at = datetime.fromtimestamp(log.stat().st_mtime, timezone.utc)
        return modified_at if is_showable(modified_at) else now
    return now


def _points(draft: RunDir, log: Path) -> Mapping[str, int]:
    """How many points there are of each metric, without those that only say how far training was.

    Raises UsageError if there are none.
    """
    counts: Counter[str] = Counter()
    for source in (Source.OUT, Source.PRINTED):
        for batch in _batches(draft.source_path(1, source)):
            counts.update({name: len(series.steps) for name, series in batch.series.items()})
    points = {name: count for name, count in counts.items() if not metric_names.is_progress(name)}
    if not points:
        raise UsageError(f"no metrics are understood in {log}; to see what is, line by line: backprop parse {log}")
    return points


def _batches(path: Path) -> Iterator[protocol.Batch]:
    tail = Tail(path, 0)
    while (block := tail.read(is_over=True)) is not None:
        tail.move_to(block.end)
        yield protocol.digest(block.data)
