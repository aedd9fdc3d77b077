"""Runs side by side: as columns if they fit, else as rows.

What is equal in all of them is left out by default; the best value of each metric has a star.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from backprop.records import GitState, Goal, Record, RunView
from backprop.store import metric_names, query
from backprop.store.usage import figures
from backprop.views.documents.run_json import elapsed_s
from backprop.views.terminal import formatting, params, usage_text
from backprop.views.terminal.screen import BOLD, BRIGHT, GAP, GREEN, RED, Screen, cells, cut, stdout_screen
from backprop.views.terminal.status_style import STYLES, SYMBOLS
from backprop.views.terminal.table_layout import Cell, Column, Grid, grid

_FEW = 5  # at most this many are columns in a pipe
_LABEL_WIDTH = 28
_VALUE_WIDTH = 32
_MIN_WIDTH = 10
_FIRST_PARAMS = 3  # ranked before time and cost where room is scarce
_STAR = "*"
_NONE = "-"
_HOUR_S = 3600.0


class ComparedRun(Record, frozen=True):
    """One of the runs that are compared."""

    view: RunView
    elapsed_s: float
    gpu_hours: float | None  # None: unknown
    at: Mapping[str, tuple[int, float] | None] = {}  # metric -> (step, value) at `at_step`


class Comparison(Record, frozen=True):
    """The runs and what is compared of them."""

    sides: tuple[ComparedRun, ...]
    metrics: tuple[str, ...]
    params: tuple[str, ...]
    at_step: int | None = None
    with_all: bool = False  # also what is equal in all


class Fact(NamedTuple):
    """One thing about every run."""

    label: str
    cells: list[Cell]
    rank: int  # columns of a higher rank are dropped first
    section: str = ""
    name: str | None = None  # as the heading of a column; None: the label
    best: frozenset[int] = frozenset()  # positions of the runs with the best value of a metric
    is_setting: bool = False  # it was there before the run, and may be why another fact differs


def gpu_hours(view: RunView, counts: Mapping[int, int | None], now: datetime) -> float | None:
    """Hours of training times GPUs; None when the GPUs of a session are not known."""
    total_s = 0.0
    for session in view.run.sessions:
        count = counts.get(session.number)
        if count is None:
            return None
        total_s += count * session.trained_s(now)
    return total_s / _HOUR_S if view.run.sessions else None


def side(view: RunView, now: datetime, at: Mapping[str, tuple[int, float] | None]) -> ComparedRun:
    """A run as one side of a comparison. Reads its journal."""
    return ComparedRun(
        view=view, elapsed_s=elapsed_s(view, now), gpu_hours=gpu_hours(view, query.gpu_counts(view), now), at=at
    )


def best_places(goal: Goal | None, values: Sequence[float | None]) -> set[int]:
    """Positions of the best value of a metric; none if all are equal, only one is finite, or the goal is not known."""
    if goal is None:
        return set()
    finite = {place: value for place, value in enumerate(values) if value is not None and math.isfinite(value)}
    if len(set(finite.values())) < 2:
        return set()
    top = (max if goal is Goal.MAX else min)(finite.values())
    return {place for place, value in finite.items() if value == top}


def comparison_table(comparison: Comparison, now: datetime) -> Grid:
    """The comparison as text, and the columns that did not fit."""
    screen = stdout_screen()
    found = list(all_facts(comparison, now, screen))
    count = len(comparison.sides)
    if screen.is_terminal:
        widths = [cells(_column_title(side)) for side in comparison.sides]
        for fact in found:
            widths = [
                max(width, cells(cut(cell.text, _VALUE_WIDTH))) for width, cell in zip(widths, fact.cells, strict=True)
            ]
        label_width = max(cells(cut(fact.label, _LABEL_WIDTH)) for fact in found)
        fits = label_width + sum(len(GAP) + width for width in widths) <= screen.width
        return _side_by_side(comparison, found, screen) if fits or count == 2 else _below(comparison, found, screen)
    return _side_by_side(comparison, found, screen) if count <= _FEW else _below(comparison, found, screen)


def all_facts(comparison: Comparison, now: datetime, screen: Screen) -> Iterator[Fact]:
    """What is compared, from top to bottom."""
    yield from _state_facts(comparison, now, screen)
    yield from _param_facts(comparison)
    yield from _metric_facts(comparison)
    yield from _usage_facts(comparison)


def _side_by_side(comparison: Comparison, facts: Sequence[Fact], screen: Screen) -> Grid:
    """One column per run, one section after another."""
    labels: list[Cell] = []
    columns: list[list[Cell]] = [[] for _ in comparison.sides]
    section = ""
    for fact in facts:
        if fact.section != section:
            section = fact.section
            labels += [Cell(""), Cell(section.upper(), BOLD)]
            for column in columns:
                column += [Cell(""), Cell("")]
        labels.append(_limited(Cell(fact.label), _LABEL_WIDTH, screen))
        for column, cell in zip(columns, fact.cells, strict=True):
            column.append(_limited(cell, _VALUE_WIDTH, screen))
    return grid(
        [
            Column("", labels, rank=0),
            *(
                Column(_column_title(side), column, rank=0, min_width=_MIN_WIDTH)
                for side, column in zip(comparison.sides, columns, strict=True)
            ),
        ],
        screen,
    )


def _below(comparison: Comparison, facts: Sequence[Fact], screen: Screen) -> Grid:
    """One row per run."""
    ids = [Cell(side.view.run.spec.id) for side in comparison.sides]
    columns = [Column("RUN", ids, rank=0)]
    for fact in facts:
        is_number = fact.section == "metrics" or all(_is_number(cell.text) for cell in fact.cells)
        is_whole = is_number or fact.label == "status"
        columns.append(
            Column(
                # what scripts named stands as they wrote it
                fact.name or fact.label.upper(),
                [_limited(cell, _VALUE_WIDTH, screen) for cell in fact.cells],
                fact.rank,
                "right" if is_number else "left",
                None if is_whole else _MIN_WIDTH,
            )
        )
    return grid(columns, screen)


def _limited(cell: Cell, width: int, screen: Screen) -> Cell:
    """In a terminal no cell takes the room of all others."""
    return cell._replace(text=cut(cell.text, width, screen.ellipsis)) if screen.is_terminal else cell


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == _NONE
    return True


def _column_title(side: ComparedRun) -> str:
    return side.view.run.spec.id


def _state_facts(comparison: Comparison, now: datetime, screen: Screen) -> Iterator[Fact]:
    views = [side.view for side in comparison.sides]
    specs = [view.run.spec for view in views]
    yield Fact("name", [Cell(spec.name or _NONE) for spec in specs], 3)
    statuses = [view.run.status for view in views]
    mark = "{0} {1}" if screen.is_terminal and screen.has_blocks else "{1}"
    yield Fact("status", [Cell(mark.format(SYMBOLS[s], s.value), STYLES[s]) for s in statuses], 0)
    if any(view.run.reason for view in views):
        yield Fact("why", [Cell(view.run.reason or _NONE) for view in views], 30)
    yield Fact("age", [Cell(formatting.age(spec.created_at, now)) for spec in specs], 31)
    yield Fact("time", [Cell(formatting.duration(side.elapsed_s)) for side in comparison.sides], 8)
    yield Fact("sessions", [Cell(str(view.run.session_count)) for view in views], 22)
    yield Fact("gpu-hours", [Cell(formatting.number(side.gpu_hours)) for side in comparison.sides], 9)
    yield Fact("step", [Cell(_NONE if view.last_step is None else str(view.last_step)) for view in views], 10)
    differing = [
        Fact("host", [Cell(spec.host) for spec in specs], 24, is_setting=True),
        Fact("python", [Cell(spec.python or _NONE) for spec in specs], 25, is_setting=True),
        Fact("script", [Cell(spec.script or spec.command[0]) for spec in specs], 26, is_setting=True),
        Fact("code", [Cell(_code(view.run.code.git)) for view in views], 23, is_setting=True),
    ]
    for fact in differing:
        if comparison.with_all or len({cell.text for cell in fact.cells}) > 1:
            yield fact


def _code(git: GitState | None) -> str:
    if git is None:
        return _NONE
    return (git.commit or "no commit")[:10] + (", changed" if git.dirty else "")


def _param_facts(comparison: Comparison) -> Iterator[Fact]:
    for place, name in enumerate(comparison.params):
        values = [side.view.params.get(name, params.ABSENT) for side in comparison.sides]
        row = [Cell(params.text(value)) for value in values]
        rank = 4 + place if place < _FIRST_PARAMS else 20
        label = formatting.name(name)
        yield Fact(label, row, rank, section="params", name=label, is_setting=True)


def _metric_facts(comparison: Comparison) -> Iterator[Fact]:
    views = [side.view for side in comparison.sides]
    for place, name in enumerate(comparison.metrics):
        goal = metric_names.common_goal(name, views)
        title = formatting.name(name)
        rank = 1 if place == 0 else 11 + place
        summaries = [view.summaries.get(name) for view in views]
        lasts = [None if summary is None else summary.last for summary in summaries]
        yield _starred(Fact(title, [], rank, "metrics", title), goal, lasts)
        bests = [metric_names.best(view, name) for view in views]
        if any(bests):
            fact = Fact("  best, at step", [], rank + 6, "metrics", f"best {title}")
            yield _starred(fact, goal, [found and found[0] for found in bests], [found and found[1] for found in bests])
        if comparison.at_step is not None:
            points = [side.at.get(name) for side in comparison.sides]
            steps = [point[0] if point and point[0] != comparison.at_step else None for point in points]
            label = f"at {comparison.at_step}"
            fact = Fact(f"  {label}", [], rank + 1, "metrics", f"{title} {label}")
            yield _starred(fact, goal, [point and point[1] for point in points], steps)


def _usage_facts(comparison: Comparison) -> Iterator[Fact]:
    """What the runs used; no star: less is not better."""
    for place, (label, figure) in enumerate(usage_text.COMPARED.items()):
        found = [Cell(usage_text.figure(side.view.usage, figure)) for side in comparison.sides]
        if any(cell.text != _NONE for cell in found):
            yield Fact(label, found, 40 + place, section="used", name=f"{figures.PREFIX}{figure}")


def _starred(
    fact: Fact, goal: Goal | None, values: Sequence[float | None], steps: Sequence[int | None] | None = None
) -> Fact:
    """The fact with the values of a metric, the best with a star; each followed by its step if `steps` is given."""
    top = best_places(goal, values)
    row = []
    for place, value in enumerate(values):
        text = formatting.number(value)
        if top:
            text += _STAR if place in top else " "
        if steps is not None and steps[place] is not None and value is not None:
            text += f" ({steps[place]})"
        style = BRIGHT + GREEN if place in top else RED if value is not None and not math.isfinite(value) else ""
        row.append(Cell(text, style))
    return fact._replace(cells=row, best=frozenset(top))
