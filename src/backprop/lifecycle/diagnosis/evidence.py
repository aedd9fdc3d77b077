"""The evidence that a run's record holds: its usage files, its journal, the index, and the events of hooks."""

import math
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

from backprop.lifecycle.diagnosis.rules import Diverged, Evidence, Saves
from backprop.records import RunView, Source
from backprop.store import metric_names, query
from backprop.store.files import opened
from backprop.store.index import Index
from backprop.store.journal import file as journals
from backprop.store.journal.entries import (
    Continued,
    Entry,
    Governed,
    NotContinued,
    Paused,
    Queued,
    Refused,
    SessionStarted,
    Submitted,
)
from backprop.store.output.protocol import Listening, parse
from backprop.store.rundir import RunDir
from backprop.store.usage import files as usage_files

_EVENTS_BYTES = 1 << 24  # of a session's events that are looked through


def gather(index: Index, view: RunView) -> Evidence:
    """What is known of a run. Reads its folder; a part that cannot be read is not known."""
    run, now = view.run, datetime.now(timezone.utc)
    try:
        entries, _ = journals.read(RunDir(Path(view.run_dir)).journal_path)
    except OSError:  # removed in the meantime, or not readable
        entries = []
    paused_s, paused_for = _governor_pauses(entries)
    last = run.last_session
    return Evidence(
        limits=run.spec.limits,
        moments=tuple(moment for _, moment in usage_files.moments(view)),
        trained_s=sum(session.trained_s(now) for session in run.sessions),
        queued_s=_queued_s(entries, now if run.waiter is not None else None),
        governor_paused_s=paused_s,
        paused_for=paused_for,
        last_session_s=0.0 if last is None else last.trained_s(now),
        stepped_s=None if last is None else _stepped_s(index, view, last.number),
        saves=_saves(view),
        diverged=_diverged(index, view),
    )


def _queued_s(entries: Iterable[Entry], now: datetime | None) -> float:
    """Seconds in the queue. now: for a run that is queued; None: it is not."""
    total_s, since = 0.0, None
    for entry in entries:
        if isinstance(entry, (Queued, Submitted)):
            since = since or entry.at
        elif isinstance(entry, (SessionStarted, Refused, NotContinued)):
            total_s += 0.0 if since is None else max(0.0, (entry.at - since).total_seconds())
            since = None
    return total_s + (0.0 if since is None or now is None else max(0.0, (now - since).total_seconds()))


def _governor_pauses(entries: Iterable[Entry]) -> tuple[float, str | None]:
    """How long pauses took in which the governor had a hand, and why it made the last of them."""
    total_s, reason, is_ours = 0.0, None, False
    for entry in entries:
        if isinstance(entry, Governed) and entry.action == "pause":
            reason = entry.reason
        elif isinstance(entry, Paused):
            is_ours = is_ours or "governor" in entry.by
        elif isinstance(entry, Continued):
            total_s += entry.paused_s if is_ours else 0.0
            is_ours = False
    return total_s, reason


def _stepped_s(index: Index, view: RunView, session: int) -> float | None:
    """When in a session its last metric came, in seconds of training; None where it reported none."""
    return index.last_point_s(view.run.spec.id, session)


def _saves(view: RunView) -> Saves | None:
    """Of the last session; None where its trainer measured none."""
    last = view.run.last_session
    if last is None:
        return None
    with opened(view.run_dir, f"session-{last.number}.{Source.EVENTS.value}") as fd:
        if fd is None:
            return None
        with open(fd, "rb", closefd=False) as file:
            data = file.read(_EVENTS_BYTES)
    longest_s = 0.0
    for line in data.splitlines():
        if isinstance(event := parse(line), Listening):
            longest_s = max(longest_s, event.longest_save_s or 0.0)
    if not longest_s:
        return None
    return Saves(count=sum(checkpoint.session == last.number for checkpoint in view.checkpoints), longest_s=longest_s)


def _diverged(index: Index, view: RunView) -> Diverged | None:
    """Since when the loss is not finite, if it is not."""
    name = metric_names.main_metric(view.summaries)
    if name is None or math.isfinite(view.summaries[name].last):
        return None
    since: int | None = None
    for point in query.points(index, view, name):
        if math.isfinite(point.value):
            since = None
        elif since is None:
            since = point.step
    return None if since is None else Diverged(metric=name, step=since, last=view.summaries[name].last)
