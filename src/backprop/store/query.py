"""What can be asked of the index: which runs, in which order, and their curves.

All views and exports ask here, and none of them knows SQL. See store/curves.py for how curves are kept and reduced,
and store/filters.py for how a filter becomes a statement.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from backprop.errors import UsageError
from backprop.records import MetricSummary, RunView
from backprop.store import curves, filters
from backprop.store.curves import Axis, Curve, Point, reduced
from backprop.store.filters import SORT_KEYS, Condition, Wanted, check_status, is_its_loss, near_name
from backprop.store.index import Index
from backprop.store.journal import file as journal
from backprop.store.rundir import RunDir

__all__ = [
    "SORT_KEYS",
    "Axis",
    "Condition",
    "Curve",
    "Point",
    "Wanted",
    "at_step",
    "best",
    "check_status",
    "count",
    "curve",
    "gpu_counts",
    "is_best_superseded",
    "is_greater_better",
    "is_its_loss",
    "is_progress",
    "is_quality",
    "leading_metrics",
    "main_metric",
    "metric_names",
    "near_name",
    "notes",
    "parse_filter",
    "parse_search",
    "points",
    "reduced",
    "runs",
    "sparkline_values",
    "twin",
    "unknown_name",
    "unknown_sort_key",
    "usually_descends",
]

# words of a metric's name, as people write them; what is not here is better the smaller it is
_GREATER_IS_BETTER = re.compile(
    r"acc|accuracy|ap|auc|auprc|auroc|bleu|correlation|dice|f1|fscore|hits?|iou|jaccard|kappa|map|mcc|meteor|miou|mrr"
    r"|ndcg|precision|psnr|r2|recall|returns?|rewards?|rouge|score|sensitivity|specificity|ssim|throughput|top\d|win|winrate"
)
# what is neither better the greater nor the smaller it is
_NO_QUALITY = re.compile(
    r"batch|beta|count|epochs?|iter|iteration|lr|momentum|norm|num|rate|samples|size|steps?|time|tokens|total"
)
_PROGRESS = frozenset({"epoch", "total_steps"})
_WORD = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+")
_TRAINING = re.compile(r"^(train|training)[_/.-]|[_/.-](train|training)$")
_HELD_OUT = re.compile(
    r"^(val|valid|validation|eval|evaluation|dev|test)[_/.-]|[_/.-](val|valid|validation|eval|dev|test)$"
)
_WIDER = 16
_CONDITION = re.compile(r"(?P<name>[^\s=!<>~]+)(?P<operator>!=|<=|>=|=|<|>|~)(?P<value>.*)", re.DOTALL)
_SIGNS = frozenset("=<>~")
_ITEM = re.compile(r"""\s+|(?P<quoted>(?:[^\s"']|"[^"]*"|'[^']*')+)|(?P<stray>.)""", re.DOTALL)


def parse_filter(text: str) -> tuple[Condition, ...]:
    """The conditions in a filter such as `status=completed lr>1e-4 name~digits`; all of them must hold.

    A value with spaces stands in quotes. Raises UsageError.
    """
    conditions = []
    for item in _ITEM.finditer(text):
        if item["quoted"] is None and item["stray"] is None:
            continue
        found = _CONDITION.fullmatch(item[0])
        if found is None or not found["value"]:
            raise UsageError(
                f"the filter {item[0]!r} is not allowed: NAME=VALUE, with one of = != < <= > >= ~ (contains),"
                ' and quotes around spaces: name="my run".'
            )
        condition = Condition(name=found["name"], operator=found["operator"], value=_unquoted(found["value"]))
        filters.check(condition)
        conditions.append(condition)
    return tuple(conditions)


def parse_search(text: str) -> Wanted:
    """Words to look for, and among them conditions as in a filter: `digits status=failed`. Raises UsageError."""
    items = [item[0] for item in _ITEM.finditer(text)]
    conditions = [item for item in items if _SIGNS.intersection(item)]
    words = "".join(" " if item in conditions else item for item in items)
    return Wanted(search=" ".join(words.split()), conditions=parse_filter(" ".join(conditions)))


def _unquoted(value: str) -> str:
    return re.sub(r""""([^"]*)"|'([^']*)'""", lambda found: found[1] if found[1] is not None else found[2], value)


def runs(index: Index, wanted: Wanted = Wanted()) -> list[RunView]:  # noqa: B008  it cannot change
    """The runs that are wanted, in their order."""
    ids = index.rows(*filters.ids_statement(wanted, is_greater_better))
    return [view for row in ids if (view := index.get(row[0])) is not None]


def count(index: Index, wanted: Wanted = Wanted()) -> int:  # noqa: B008
    """How many runs are wanted, whatever the limit."""
    return int(index.rows(*filters.count_statement(wanted, is_greater_better))[0][0])


def unknown_name(index: Index, names: Iterable[str], keys: Collection[str] = filters.KEYS) -> str | None:
    """What is wrong with the first of these names, as filters take them, that no run has; None: nothing.

    keys: names that mean something else. Passes through the names of all runs: for when nothing was found.
    """
    for word in names:
        if word in keys:
            continue
        kind, name = filters.kind_and_name(word)
        known = [row[0] for row in index.rows(*filters.names(kind))]
        if name not in known and not (is_its_loss(word) and any("loss" in other.lower() for other in known)):
            what = {"param": "parameter", "metric": "metric", "best": "metric"}.get(kind, "parameter or metric")
            near = near_name(name, known if kind else [*keys, *known])
            return f"no run has a {what} {name!r}" + (f"; did you mean {near}?" if near else ".")
    return None


def unknown_sort_key(index: Index, views: Sequence[RunView], key: str) -> str | None:
    """What is wrong with a key that no run can be sorted by; None: nothing, or there are no runs.

    views: sorted by it, so that whoever has what it names comes first.
    """
    if not views or is_its_loss(key):  # a loss is what most runs will have soon
        return None
    kind, name = filters.kind_and_name(key)
    is_there = (name in views[0].params and kind in {"", "param"}) or (name in views[0].summaries and kind != "param")
    return None if is_there else unknown_name(index, [key], SORT_KEYS)


def usually_descends(sort: str) -> bool:
    """Whether a key to sort by comes greatest first unless told otherwise, as newest and best do."""
    return filters.usually_descends(sort, is_greater_better)


def is_greater_better(name: str) -> bool:
    """Whether a metric is better the greater it is, as far as its name tells: accuracy, f1, reward, ..."""
    words = _words(name)
    if "loss" in words or "error" in words:
        return False
    return any(_GREATER_IS_BETTER.fullmatch(known) for word in words for known in (word, word.rstrip("0123456789")))


def is_progress(name: str) -> bool:
    """Whether it says how far training is, and is nothing to look at unless somebody asks for it by name."""
    return name in _PROGRESS


def is_quality(name: str) -> bool:
    """Whether a metric tells how good a run is, as far as its name tells: not lr, epoch, grad_norm, total_steps."""
    words = _words(name)
    return bool({"loss", "error"}.intersection(words)) or not any(map(_NO_QUALITY.fullmatch, words))


def _words(name: str) -> list[str]:
    return [word.lower() for word in _WORD.findall(name)]


def best(name: str, summary: MetricSummary) -> tuple[float, int] | None:
    """The best value of a metric and the step it was reached at; None when no value is finite, or none is better."""
    if not is_quality(name):
        return None
    value, step = (
        (summary.greatest, summary.greatest_step) if is_greater_better(name) else (summary.least, summary.least_step)
    )
    return None if value is None or step is None else (value, step)


def is_best_superseded(index: Index, view: RunView, name: str) -> bool:
    """Whether the best value is one that a later session trained again, so that no curve shows it."""
    summary = view.summaries.get(name)
    found = best(name, summary) if summary is not None else None
    if found is None or len(view.run.sessions) < 2:
        return False
    return found[0] not in curve(index, view, name, begin=found[1], end=found[1]).ys


def main_metric(names: Collection[str]) -> str | None:
    """The metric that tells how a run goes: its training loss, by any of the usual names, else another loss.

    It is what `loss` means in a filter and in --sort. names: of the run's metrics.
    """
    usual = next((name for name in filters.LOSSES if name in names), None)
    return usual or next((name for name in sorted(names) if "loss" in name.lower()), None)


def curve(
    index: Index,
    view: RunView,
    metric: str,
    axis: Axis = Axis.STEP,
    *,
    max_points: int | None = None,
    begin: float | None = None,
    end: float | None = None,
) -> Curve:
    """One metric of a run over its steps, or its time; empty when there is none of that name.

    max_points: reduce to about so many, keeping the least and the greatest of every stretch, so that no spike is
    lost. begin, end: only the points whose x lies between.
    """
    spans = curves.Range(begin, end)
    return curves.read(index, view.run, metric, axis, max_points, spans)


def sparkline_values(index: Index, view: RunView, metric: str, width: int) -> list[float]:
    """The finite values of a metric at about `width` places, evenly over the points it has."""
    return curves.sample(index, view.run.spec.id, metric, width)


def points(index: Index, view: RunView, metric: str | None = None) -> Iterator[Point]:
    """Every point that was stored, in the order it was written; of all metrics, one after the other, unless told."""
    for name in view.summaries if metric is None else [metric]:
        yield from curves.points(index, view.run, name)


def notes(index: Index, view: RunView, limit: int) -> list[tuple[str, str]]:
    """The last notes that a run's trainer left, oldest first: (kind, the line as it was written)."""
    rows = index.rows(
        "SELECT kind, text FROM notes WHERE run_id = ? ORDER BY session DESC, source DESC, offset DESC LIMIT ?",
        (view.run.spec.id, limit),
    )
    return [(kind, text) for kind, text in reversed(rows)]


def at_step(index: Index, view: RunView, metric: str, step: int) -> tuple[int, float] | None:
    """The last point of a metric at this step or before it; None when there is none."""
    summary = view.summaries.get(metric)
    if summary is None:
        return None
    near, reach = min(step, summary.last_step), 0
    while True:  # a curve of ten million points is not read for one of them
        begin = near - reach if reach <= near else None
        found = curve(index, view, metric, begin=begin, end=step)
        if len(found.xs):
            last = max(range(len(found.xs)), key=lambda place: (found.xs[place], place))
            return int(found.xs[last]), found.ys[last]
        if begin is None:
            return None
        reach = reach * _WIDER + 1


def gpu_counts(view: RunView) -> dict[int, int | None]:
    """Session -> how many GPUs it was given; None, or not there: nobody knows. Reads the run's journal."""
    try:
        entries, _ = journal.read(RunDir(Path(view.run_dir)).journal_path)
    except OSError:  # removed meanwhile, or not ours to read: then it is not known
        return {}
    return journal.gpu_counts(entries)


def twin(name: str, names: Collection[str]) -> str | None:
    """The same metric on held-out data, by any of the usual names: val_loss for loss, eval/loss for train/loss."""
    core = _TRAINING.sub("", name)
    if _HELD_OUT.sub("", name) != name:
        return None
    return next((other for other in names if _HELD_OUT.sub("", other) == core != other), None)


def leading_metrics(views: Sequence[RunView]) -> list[str]:
    """The metrics to look at first: the main one of each run, then their twins on held-out data."""
    names = metric_names(views)
    mains = list(dict.fromkeys(main for view in views if (main := main_metric(view.summaries)) is not None))
    twins = [held_out for main in mains if (held_out := twin(main, names)) is not None]
    return list(dict.fromkeys([*mains, *twins]))


def metric_names(views: Sequence[RunView]) -> list[str]:
    """The metrics that these runs have, most common first, then by name."""
    counts: dict[str, int] = {}
    for view in views:
        for name in view.summaries:
            counts[name] = counts.get(name, 0) + 1
    return sorted(counts, key=lambda name: (-counts[name], name))
