"""JSON lines: each run's document, as `--json` gives it, followed by its points. Nothing is lost.

NaN and infinities are the strings "NaN", "Infinity" and "-Infinity", as everywhere in our JSON.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from backprop.store.output.protocol import json_safe
from backprop.views.exports.drafts import drafted
from backprop.views.exports.record import RunExport

_encode = msgspec.json.Encoder().encode


def write(runs: Sequence[RunExport], destination: str, *, replace: bool) -> str:
    """Write one file."""
    path = Path(destination)
    with drafted(path, replace=replace) as draft, draft.open("w", encoding="utf-8") as file:
        file.writelines(lines(runs))
    return str(path)


def lines(runs: Iterable[RunExport]) -> Iterator[str]:
    """One object a line: `kind` is "run" or "point"."""
    for run in runs:
        yield _encode({"kind": "run", **run.document}).decode() + "\n"
        unix_s = run.clock()
        for session, metric, step, value, time_s in run.points():
            point = {
                "kind": "point",
                "run": run.id,
                "session": session,
                "metric": metric,
                "step": step,
                "value": json_safe(value),
                "time_s": json_safe(time_s),
                "at": datetime.fromtimestamp(unix_s(session, time_s), timezone.utc),
            }
            yield _encode(point).decode() + "\n"
