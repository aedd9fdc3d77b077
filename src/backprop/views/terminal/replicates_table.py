"""Sets of runs that differ in their seed only, as a table for a terminal, or for a pipe."""

from collections.abc import Sequence

from backprop.records import RunView
from backprop.store import metric_names
from backprop.views import replicates
from backprop.views.replicates import Spread
from backprop.views.terminal import formatting, params
from backprop.views.terminal.screen import Screen, stdout_screen
from backprop.views.terminal.table_layout import Cell, Column, grid

_IDS_SHOWN = 4


def spread_title(screen: Screen) -> str:
    """The heading over spreads."""
    return f"MEAN {_sign(screen)} SD (N)"


def spread_text(over: Spread | None, screen: Screen) -> str:
    """A mean, its standard deviation, and of how many runs."""
    if over is None:
        return "-"
    spread = "" if over.deviation is None else f" {_sign(screen)} {formatting.number(over.deviation)}"
    return f"{formatting.number(over.mean)}{spread} ({over.runs})"


def ranking_table(ranked: Sequence[tuple[Sequence[RunView], Spread]], names: Sequence[str]) -> str:
    """A line for each set: its spread, these parameters, and its runs."""
    screen = stdout_screen()
    told = [
        " ".join(f"{formatting.name(name)}={params.text(views[0].params.get(name, params.ABSENT))}" for name in names)
        for views, _ in ranked
    ]
    columns = [
        Column(spread_title(screen), [Cell(spread_text(over, screen)) for _, over in ranked], 0, "right"),
        Column("PARAMS", [Cell(text or "-") for text in told], rank=1, min_width=12),
        Column("RUNS", [Cell(_ids(views)) for views, _ in ranked], rank=2, min_width=8),
    ]
    return grid(columns, screen).text


def comparison_section(sets: Sequence[Sequence[RunView]], metrics: Sequence[str]) -> str:
    """A line for each set, with the spread of each metric of quality; empty where each run is a set of its own."""
    screen = stdout_screen()
    if all(len(views) == 1 for views in sets):
        return ""
    columns = [Column("OVER SEEDS", [Cell(_ids(views)) for views in sets], rank=0, min_width=8)]
    for rank, name in enumerate(filter(metric_names.is_quality, metrics), start=1):
        cells = [Cell(spread_text(replicates.spread(views, name), screen)) for views in sets]
        columns.append(Column(formatting.name(name), cells, rank, "right"))
    return f"\n{grid(columns, screen).text}"


def differing(views: Sequence[RunView]) -> list[str]:
    """The parameters that differ between these runs, without seeds."""
    return [name for name in params.differing(views) if not metric_names.is_seed(name)]


def _ids(views: Sequence[RunView]) -> str:
    ids = [view.run.spec.id for view in views]
    more = f" and {len(ids) - _IDS_SHOWN} more" if len(ids) > _IDS_SHOWN else ""
    return " ".join(ids[:_IDS_SHOWN]) + more


def _sign(screen: Screen) -> str:
    return "±" if screen.has_blocks else "+-"
