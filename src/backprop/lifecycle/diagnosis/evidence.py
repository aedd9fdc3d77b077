"""The evidence that a run's record holds: its usage files, its journal, the index, and the events of hooks."""

import math
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from backprop.lifecycle.diagnosis.rules import Diverged, Evidence, Saves
from backprop.records import RunSpec, RunView, Source
from backprop.store import metric_names, query
from backprop.store.files import opened
from backprop.store.index import Index
from backprop.store.journal import file as journals
from backprop.store.journal.entries import (
    Admitted,
    Continued,
    Entry,
    Governed,
    NotContinued,
    Paused,
    Queued,
    Refused,
    SessionEnded,
    SessionStarted,
    Submitted,
)
from backprop.store.output.protocol import Listening, parse
from backprop.store.rundir import RunDir
from backprop.store.usage import history as usage_history
from backprop.store.usage.blocks import Moment
from backprop.store.usage.quantities import QUANTITIES

_EVENTS_BYTES = 1 << 24  # of a session's events that are looked through
_MOST_MOMENTS = 40_000  # of which each takes about 2 kB


def gather(index: Index, view: RunView) -> Evidence:
    """What is known of a run. Reads its folder; a part that cannot be read is not known."""
    run, now = view.run, datetime.now(timezone.utc)
    try:
        entries, _ = journals.read(RunDir(Path(view.run_dir)).journal_path)
    except OSError:  # removed in the meantime, or not readable
        entries = []
    paused_s, paused_for = _governor_pauses(entries)
    last = run.last_session
    stepped_s, steps = (None, 0) if last is None else index.last_point_s(run.spec.id, last.number)
    return Evidence(
        limits=msgspec.structs.replace(run.spec.limits, ram_limit_bytes=_ram_limit_bytes(entries, run.spec)),
        moments=_bounded(moment for _, moment in usage_history.moments(view)),
        trained_s=sum(session.trained_s(now) for session in run.sessions),
        queued_s=_queued_s(entries, now if run.waiter is not None else None),
        governor_paused_s=paused_s,
        paused_for=paused_for,
        last_session_s=0.0 if last is None else last.trained_s(now),
        stepped_s=stepped_s,
        steps=steps,
        saves=_saves(index, view),
        diverged=_diverged(index, view),
    )


def _bounded(moments: Iterable[Moment]) -> tuple[Moment, ...]:
    """All of the time, in fewer moments where there are many; without what each of several cards did."""
    kept: list[Moment] = []
    for moment in moments:
        kept.append(moment._replace(values={name: moment.values[name] for name in QUANTITIES if name in moment.values}))
        if len(kept) == _MOST_MOMENTS:
            kept = [_joined(one, later) for one, later in zip(kept[::2], kept[1::2], strict=True)]
    return tuple(kept)


def _joined(one: Moment, later: Moment) -> Moment:
    """Two that follow one another: of levels the highest, of rates the mean."""
    values, seconds = {**one.values, **later.values}, one.seconds + later.seconds
    for name in one.values.keys() & later.values.keys():
        first, second = one.values[name], later.values[name]
        values[name] = (
            max(first, second)
            if QUANTITIES[name].is_level
            else (first * one.seconds + second * later.seconds) / seconds
        )
    return Moment(later.at_s, seconds, values)


def _queued_s(entries: Iterable[Entry], now: datetime | None) -> float:
    """Seconds in the queue. now: for a run that is queued; None: it is not."""
    total_s, since = 0.0, None
    for entry in entries:
        if isinstance(entry, (Queued, Submitted)):
            since = since or entry.at
        elif isinstance(entry, SessionEnded) or (isinstance(entry, Refused) and entry.is_presumed):
            since = None  # its supervisor died in the queue: nobody knows when
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


def _ram_limit_bytes(entries: Iterable[Entry], spec: RunSpec) -> int | None:
    """That of the last session: `resume` may have changed it."""
    figures = next((entry.figures for entry in reversed([*entries]) if isinstance(entry, Admitted)), {})
    found = figures.get("ram_limit_bytes", spec.limits.ram_limit_bytes)
    return found if isinstance(found, int) else None


def _saves(index: Index, view: RunView) -> Saves | None:
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
    return Saves(count=index.count_saves(view.run.spec.id, last.number), longest_s=longest_s)


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
