"""Runs for programs and notebooks: the results of `backprop.runs()` and `backprop.find_run()`.

Reads what is recorded; like `backprop list` it first brings the index in step with what is on disk. Needs Backprop
installed in the environment that asks, and no trainer.
"""

import logging
import math
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import import_module
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from backprop.errors import NoSuchRunError, UsageError
from backprop.lifecycle import catalog
from backprop.records import RunView
from backprop.store import filters, metric_names, query
from backprop.store.curves import taken_over_at
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.store.metric_rows import MetricRow, joined
from backprop.trainer.parameters.secrets import without_secrets
from backprop.views.documents import run_json

if TYPE_CHECKING:
    from backprop.views.notebook import Picture

_FRONT = ("step", "session", "time_s")
_WHOLE = ("step", "session")

_say = logging.getLogger("backprop").warning

Library = Literal["pandas", "polars"]


class Point(NamedTuple):
    """One value of a metric, as the trainer reported it."""

    session: int
    metric: str
    step: int
    value: float  # may be NaN or infinite
    time_s: float  # seconds of training until then, all sessions added up


class Checkpoint(NamedTuple):
    """A checkpoint that the trainer reported."""

    path: str  # absolute; it may have been deleted
    step: int | None
    session: int
    size_bytes: int | None  # when it was reported; of a folder all its files
    saved_at: datetime  # UTC
    is_emergency: bool  # saved by Backprop when the script did not answer a stop


class Usage(NamedTuple):
    """What a run used of the machine: RAM and VRAM in bytes, disk in bytes per second. What is not known is missing."""

    measured_s: float  # seconds of training that were measured
    energy_wh: float | None  # of its GPUs; None where they do not say
    peak: Mapping[str, float]
    mean: Mapping[str, float]
    last: Mapping[str, float]  # by the names of the curves: sys/cpu


@dataclass(frozen=True, kw_only=True, repr=False)
class Run:
    """A run as it was when you looked it up. Points are read when you ask for them."""

    id: str
    name: str | None
    status: str  # queued, running, paused, completed, timeboxed, stopped, failed, interrupted or refused
    reason: str | None  # why it has this status
    command: tuple[str, ...]
    created_at: datetime  # UTC
    ended_at: datetime | None  # UTC; None while it is active
    elapsed_s: float  # seconds of training, all sessions added up
    params: Mapping[str, Any]
    last_step: int | None
    last: Mapping[str, float]  # metric -> its newest value
    best: Mapping[str, float]  # metric -> its best value, where it is known which values are better
    checkpoints: tuple[Checkpoint, ...]  # oldest first
    usage: Usage | None  # None where nothing was measured
    run_dir: Path
    group: str | None
    tags: tuple[str, ...]
    parent: str | None  # id of the run whose idea it continues
    decision: str | None  # keep, discard or crash
    _view: RunView = field(compare=False)
    _home: Home = field(compare=False)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Run {self.id}{'' if self.name is None else f' {self.name!r}'}: {self.status}, step {self.last_step}>"

    def metrics(self, name: str | None = None) -> list[Point]:
        """Every point that was reported, in the order it was written, metric by metric.

        Steps that a resume trained again are there once for each session. Some 200 bytes a point.
        name: only of this metric. Raises NoSuchRunError when the run was removed.
        """
        with self._opened() as (index, view):
            return [Point(*point) for point in query.points(index, view, name)]

    def frame(self, library: Library | None = None) -> Any:
        """A pandas or polars frame: one row per step, one column per metric, after `step`, `session` and `time_s`.

        A metric that was not reported at a step is missing there (NaN in pandas, null in polars). Of steps that a
        resume trained again only the last session's are there, as in curves; `metrics()` has all of them. A metric that
        has the name of one of these three becomes `metric/NAME`.
        library: "pandas" or "polars"; else whichever is installed, pandas first. Raises UsageError where it is not.
        """
        module = _frame_library(library)
        with self._opened() as (index, view):
            columns = kept_columns(view.metrics, joined(view.metrics, lambda metric: query.points(index, view, metric)))
        if module.__name__ == "polars":
            schema = {name: module.Int64 if name in _WHOLE else module.Float64 for name in columns}
            return module.DataFrame(columns, schema=schema)
        return module.DataFrame(columns).astype({name: "int64" if name in _WHOLE else "float64" for name in columns})

    def plot(self, *metrics: str, live: bool = False, every_s: float = 2.0) -> "Picture":
        """Curves that a notebook shows, and that can be zoomed; `.html` is the page as text.

        metrics: to draw; none: the loss, and the same on held-out data. live: show them below the cell and draw them
        again every `every_s` seconds until the run has ended. Raises UsageError for a metric that it does not have.
        """
        from backprop.views import notebook

        def draw() -> notebook.Picture:
            with self._opened() as (index, view):
                return notebook.picture(index, view, metrics)

        def is_going_on() -> bool:
            with self._opened() as (_, view):
                return not view.run.status.is_final

        return notebook.keep_drawing(draw, is_going_on, every_s) if live else draw()

    def _repr_html_(self) -> str:
        """What a notebook shows of it."""
        from backprop.views import notebook

        title = self.id if self.name is None else f"{self.name} ({self.id})"
        status = self.status + (f": {self.reason}" if self.reason else "")
        rows = (("run", title), ("status", status), ("step", self.last_step), ("trained", f"{self.elapsed_s:.1f} s"))
        return notebook.facts(rows, {"params": self.params, "last": self.last, "best": self.best})

    def as_dict(self) -> dict[str, Any]:
        """The document of `backprop status RUN --json`, in plain JSON values."""
        document = run_json.run_document(self._view, datetime.now(timezone.utc), catalog.is_valid, is_whole=True)
        plain: dict[str, Any] = msgspec.to_builtins(document)
        return plain

    @contextmanager
    def _opened(self) -> Iterator[tuple[Index, RunView]]:
        with catalog.caught_up(self._home, _say) as index:
            yield index, catalog.get_run(self._home, index, self.id, _say)


def runs(
    *,
    status: str | Collection[str] = (),
    filter: str = "",  # noqa: A002  the word of the command line
    search: str = "",
    sort: str = "created",
    limit: int | None = None,
    home: str | os.PathLike[str] | None = None,
) -> list[Run]:
    """Runs, newest first. An empty list where there is no home folder yet.

    status: only runs with this status, or with one of these. filter: as `backprop list --filter` takes it:
    "status=completed lr>1e-4". search: words that must all be in the id, the name or the command. sort: created, name,
    status, elapsed, step, or a metric (best first) or a parameter. limit: maximum number.
    home: the folder with the records; else $BACKPROP_HOME, else ~/.backprop.
    Raises UsageError for an invalid status, filter or order, ConfigError for a home folder that cannot be used.
    """
    statuses = (status,) if isinstance(status, str) else tuple(status)
    for wanted in statuses:
        filters.check_status(wanted, f"status {wanted!r}")
    asked = filters.Wanted(
        statuses=statuses, conditions=filters.parse_filter(filter), search=search, sort=sort, limit=limit
    )
    where = _home(home)
    if not where.path.exists():
        return []
    with catalog.caught_up(where, _say) as index:
        views = query.runs(index, asked)
        if (problem := query.unknown_sort_key(index, views, sort)) is not None:
            raise UsageError(problem)
        return [_run(view, where) for view in views]


def find_run(word: str = "last", *, home: str | os.PathLike[str] | None = None) -> Run:
    """The run that `word` names: an id, a unique beginning of one, a unique name, or "last".

    Raises NoSuchRunError, or UsageError when it names several.
    """
    where = _home(home)
    if not where.path.exists():
        raise NoSuchRunError(f"no run named {word!r}: there is no {where.path} yet.")
    with catalog.caught_up(where, _say) as index:
        return _run(catalog.find_run(where, index, word, _say), where)


def _home(path: str | os.PathLike[str] | None) -> Home:
    return Home.from_environment() if path is None else Home.at(Path(path).expanduser())


def _run(view: RunView, home: Home) -> Run:
    spec, used = view.run.spec, view.usage
    best = {name: metric_names.best(view, name) for name in view.summaries}
    return Run(
        id=spec.id,
        name=spec.name,
        status=view.run.status.value,
        reason=view.run.reason,
        command=tuple(without_secrets(spec.command)),
        created_at=spec.created_at,
        ended_at=view.run.ended_at,
        elapsed_s=run_json.elapsed_s(view, datetime.now(timezone.utc)),
        params=view.params,
        last_step=view.last_step,
        last=view.metrics,
        best={name: found[0] for name, found in best.items() if found is not None},
        checkpoints=tuple(
            Checkpoint(
                path=checkpoint.path,
                step=checkpoint.step,
                session=checkpoint.session,
                size_bytes=checkpoint.measure.size_bytes,
                saved_at=checkpoint.measure.saved_at,
                is_emergency=checkpoint.is_emergency,
            )
            for checkpoint in view.checkpoints
        ),
        usage=None if used is None else Usage(used.measured_s, used.energy_wh, used.peak, used.mean, used.last),
        run_dir=Path(view.run_dir),
        group=view.annotations.group,
        tags=view.annotations.tags,
        parent=view.annotations.parent,
        decision=None if view.annotations.decision is None else view.annotations.decision.value,
        _view=view,
        _home=home,
    )


def kept_columns(metrics: Collection[str], rows: Iterable[MetricRow]) -> dict[str, list[Any]]:
    """The columns of a frame, without what a later session trained again: metric by metric, as in curves."""
    names = {metric: f"metric/{metric}" if metric in _FRONT else metric for metric in metrics}
    columns: dict[str, list[Any]] = {name: [] for name in (*_FRONT, *names.values())}
    firsts: dict[str, dict[int, float]] = {metric: {} for metric in names}
    for row in rows:
        for name, value in zip(_FRONT, (row.step, row.session, row.time_s), strict=True):
            columns[name].append(value)
        for metric, name in names.items():
            columns[name].append(row.values.get(metric))
        for metric in row.values:
            firsts[metric][row.session] = min(row.step, firsts[metric].get(row.session, row.step))
    kept = [False] * len(columns["step"])
    for metric, name in names.items():
        ends = taken_over_at(firsts[metric])
        for at, (step, session) in enumerate(zip(columns["step"], columns["session"], strict=True)):
            if step >= ends.get(session, math.inf):
                columns[name][at] = None
            kept[at] |= columns[name][at] is not None
    return {name: list(compress(values, kept)) for name, values in columns.items()}


def _frame_library(wanted: Library | None) -> Any:
    """The module of pandas or polars. Raises UsageError where it is not installed."""
    allowed = ("pandas", "polars")
    if wanted is not None and wanted not in allowed:
        raise UsageError(f"library {wanted!r} is not supported; use one of {', '.join(allowed)}.")
    for name in allowed if wanted is None else (wanted,):
        with suppress(ModuleNotFoundError):
            return import_module(name)
    raise UsageError(
        f"frame() needs {wanted or 'pandas or polars'}: {sys.executable} -m pip install {wanted or 'pandas'}"
    )
