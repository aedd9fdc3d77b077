"""Groups of runs as a table for a terminal, or for a pipe."""

from collections.abc import Iterator, Sequence

from backprop.records import Status
from backprop.views.run_groups import RunGroup
from backprop.views.terminal import formatting
from backprop.views.terminal.replicates_table import spread_text, spread_title
from backprop.views.terminal.screen import Screen, stdout_screen
from backprop.views.terminal.table_layout import Cell, Column, grid


def groups_table(groups: Sequence[RunGroup]) -> str:
    """One line per group, in the given order."""
    screen = stdout_screen()
    return grid(list(_columns(groups, screen)), screen).text


def _columns(groups: Sequence[RunGroup], screen: Screen) -> Iterator[Column]:
    yield Column("GROUP", [Cell(group.name) for group in groups], rank=0)
    yield Column("RUNS", [Cell(str(sum(group.statuses.values()))) for group in groups], 0, "right")
    yield Column("STATUS", [Cell(_statuses(group)) for group in groups], rank=4, min_width=12)
    yield Column("METRIC", [Cell(group.metric or "-") for group in groups], rank=3, min_width=8)
    yield Column("BEST", [Cell(formatting.number(group.best and group.best.best)) for group in groups], 1, "right")
    yield Column("BEST RUN", [Cell(_best_run(group)) for group in groups], rank=2)
    spreads = [Cell(spread_text(group.over_seeds, screen)) for group in groups]
    yield Column(spread_title(screen), spreads, 1, "right")


def _statuses(group: RunGroup) -> str:
    return ", ".join(f"{group.statuses[status]} {status.value}" for status in Status if group.statuses.get(status))


def _best_run(group: RunGroup) -> str:
    return "-" if group.best is None else group.best.view.run.spec.id
