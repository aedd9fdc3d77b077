"""Records as pieces of text for the screen.

Every name that comes from a run or its trainer goes through `text.printable` into a `Text`: it is never parsed as
markup, and no escape sequence reaches the terminal.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import NamedTuple

from rich.ansi import SGR_STYLE_MAP
from rich.cells import cell_len, set_cell_size
from rich.style import Style
from rich.text import Text

from backprop.lifecycle.sweep.observation import Seen
from backprop.lifecycle.sweep.sweeper import params_text
from backprop.records import Gpu, Life, MachineState, RunView, Status, Ticket, in_minutes
from backprop.store import metric_names
from backprop.store.curves import Axis
from backprop.store.usage.quantities import PREFIX, unit_of
from backprop.text import printable
from backprop.views.documents.run_json import elapsed_s, timeboxes_s
from backprop.views.live_feed import LiveState, Log, ShownRun
from backprop.views.live_rows import GroupHead
from backprop.views.run_row import RunRow
from backprop.views.terminal import formatting
from backprop.views.terminal.bars import bar
from backprop.views.terminal.run_details import run_details
from backprop.views.terminal.screen import Screen
from backprop.views.terminal.sparkline import sparkline
from backprop.views.terminal.status_style import STYLES, SYMBOLS
from backprop.views.terminal.sweep_table import rungs_text
from backprop.views.watch.chart import axis_name

# the styles of `list`, as Rich styles
STATUS_STYLES = {
    status: Style.combine(Style.parse(SGR_STYLE_MAP[int(code)]) for code in codes.split(";"))
    for status, codes in STYLES.items()
}
_BAR = ("━", "━")  # they differ in colour
_BAR_WIDTH = 5
_GAUGE_WIDTH = 8
# of a run that is running, and shows less than it should: the details say more
_MARKS = {Life.SILENT: ("silent", "yellow"), Life.UNSEEN: ("silent", "yellow"), Life.STALLED: ("stalled", "bold red")}
_HIGH, _FULL = 0.75, 0.9  # from here on a gauge is yellow, red
_LEAST_GROUP_NAME, _GROUP_FIGURES = 20, 44  # columns of a group's row
_MOST_SWEEPS = 3  # of which lines are shown
_LONGEST_LINE = 4000  # of the details
_LONGEST_NAME = 300  # maximum characters of a name or a command


class WatchColumn(NamedTuple):
    """One column of the table of runs."""

    title: str
    width: int
    from_width: int  # minimum width of the screen
    justify: str
    cell: Callable[[RunRow, "RowStyle"], Text]


class RowStyle(NamedTuple):
    """What a cell depends on besides its run."""

    now: datetime
    positions: Mapping[str, int]  # run id -> position in the queue
    width: int  # of the column
    indent: str = ""  # of a run in an open group


def columns_for(width: int, id_width: int) -> list[WatchColumn]:
    """The columns that fit; spare width goes to those of _MAY_GROW_BY in their order. id_width: of the longest id.

    Where ids take more than usual, the status is shortened; then the columns that need the widest screen are left out.
    """
    columns = [column for column in _COLUMNS if width >= column.from_width]
    columns[0] = columns[0]._replace(width=min(columns[0].width, max(id_width, len(columns[0].title))))
    spare = _spare(columns, width)
    if spare < 0:
        shorter = min(_STATUS_GIVES, -spare)
        columns = [column._replace(width=column.width - shorter * (column.title == "STATUS")) for column in columns]
    while (spare := _spare(columns, width)) < 0 and len(columns) > _LEAST_COLUMNS:
        columns.remove(max(columns, key=lambda column: column.from_width))
    extras = {}
    for title, most in _MAY_GROW_BY.items():
        if any(column.title == title for column in columns):
            extras[title] = max(0, min(most, spare))
            spare -= extras[title]
    return [column._replace(width=column.width + extras.get(column.title, 0)) for column in columns]


def _spare(columns: Sequence[WatchColumn], width: int) -> int:
    return width + 1 - sum(column.width + 1 for column in columns)


def title_line(columns: Sequence[WatchColumn]) -> Text:
    """The columns' titles."""
    return Text(" ").join(_fitted(Text(column.title), column) for column in columns)


def run_line(
    row: RunRow, now: datetime, positions: Mapping[str, int], columns: Sequence[WatchColumn], indent: str = ""
) -> Text:
    """A run on one line. positions: run id -> position in the queue."""
    looks = ((column, RowStyle(now, positions, column.width, indent)) for column in columns)
    return Text(" ", no_wrap=True, end="").join(_fitted(column.cell(row, look), column) for column, look in looks)


def group_line(head: GroupHead, width: int) -> Text:
    """A group on one line: how many runs by status, the best value and whose it is, mean and deviation.

    From the right, what does not fit is left out.
    """
    line = Text.assemble("▾ " if head.is_open else "▸ ", _plain(head.name, "bold"), no_wrap=True, end="")
    line.truncate(max(_LEAST_GROUP_NAME, width - _GROUP_FIGURES), overflow="ellipsis")
    for separator, part in _group_parts(head):
        if line.cell_len + len(separator) + part.cell_len > width:
            break
        line.append(separator, style="dim").append_text(part)
    line.truncate(width, overflow="ellipsis")
    return line


def _group_parts(head: GroupHead) -> Iterator[tuple[str, Text]]:
    """Each with what separates it from the one before."""
    row = head.row
    separator = "  "
    for status in Status:
        if count := row.statuses.get(status.value, 0):
            yield separator, Text(f"{count} {status.value}", style=STATUS_STYLES[status])
            separator = ", "
    if row.best is not None and head.metric is not None:
        yield " · ", _plain(f"best {formatting.name(head.metric)} {formatting.number(row.best)}")
        yield " ", _plain(f"({head.run_id})", "dim")
    if row.mean is not None and row.counted > 1:
        deviation = "" if row.deviation is None else f" ± {formatting.number(row.deviation)}"
        yield " · ", _plain(f"mean {formatting.number(row.mean)}{deviation}")


def _fitted(text: Text, column: WatchColumn) -> Text:
    """A cell's text, truncated or padded to the column's width."""
    if text.cell_len > column.width:
        text.truncate(column.width, overflow="ellipsis")
    elif column.justify == "right":
        text.pad_left(column.width - text.cell_len)
    else:
        text.pad_right(column.width - text.cell_len)
    return text


def _plain(text: str, style: str = "") -> Text:
    return Text(printable(text[:_LONGEST_NAME]), style=style, no_wrap=True, end="")


def _status(row: RunRow, look: RowStyle) -> Text:
    run = row.view.run
    position = look.positions.get(run.spec.id)
    is_queued = run.status is Status.QUEUED and position is not None
    status = f"queued #{position}" if is_queued else run.status.value
    live = row.view.live
    if live is not None and live.life is not Life.ALIVE:
        mark, style = _MARKS[live.life]
        return Text(f"{SYMBOLS[run.status]} {mark}", style=style)
    return Text(f"{SYMBOLS[run.status]} {status}", style=STATUS_STYLES[run.status])


def _time(row: RunRow, look: RowStyle) -> Text:
    run, session = row.view.run, row.view.run.last_session
    if session is None:
        return Text(f"of {in_minutes(run.spec.limits.timebox_s)}", style="dim")
    text = Text(formatting.used(elapsed_s(row.view, look.now), timeboxes_s(run)))
    if not session.status.is_final:
        share = session.trained_s(look.now) / session.timebox_s
        text = Text.assemble(_bar(share, _BAR_WIDTH, "cyan"), " ", text)
    return text


def _step(row: RunRow, _: RowStyle) -> Text:
    view = row.view
    if view.last_step is None:
        return Text("-", style="dim")
    return Text(formatting.steps(view.last_step, view.total_steps))


def _loss(row: RunRow, _: RowStyle) -> Text:
    is_finite = row.last is None or math.isfinite(row.last)
    return Text(formatting.number(row.last), style="" if is_finite else "bold red")


_COLUMNS = (
    WatchColumn("RUN", 14, 0, "left", lambda row, look: _plain(look.indent + row.view.run.spec.id)),
    WatchColumn("NAME", 10, 88, "left", lambda row, _: _plain(row.view.run.spec.name or "-")),
    WatchColumn("STATUS", 13, 0, "left", _status),
    WatchColumn("AGE", 6, 96, "right", lambda row, look: Text(formatting.age(row.view.run.spec.created_at, look.now))),
    WatchColumn("TIME", 18, 56, "right", _time),
    WatchColumn("STEP", 11, 32, "right", _step),
    WatchColumn("ETA", 8, 104, "right", lambda row, _: Text(formatting.eta(row.view.live) or "-")),
    WatchColumn("LOSS", 9, 42, "right", _loss),
    WatchColumn("TREND", 8, 72, "left", lambda row, look: Text(trend(row.trend, look.width), style="cyan")),
    WatchColumn("COMMAND", 16, 120, "left", lambda row, _: _plain(row.command, "dim")),
)
_STATUS_GIVES, _LEAST_COLUMNS = 3, 2
_MAY_GROW_BY = {"STEP": 4, "NAME": 14, "TREND": 12, "COMMAND": 80}


def trend(values: Sequence[float], width: int) -> str:
    """A sparkline of at most `width` values, evenly spaced, including the last one."""
    count = min(width, len(values))
    return sparkline([values[(number + 1) * len(values) // count - 1] for number in range(count)])


def _bar(share: float | None, width: int, style: str) -> Text:
    full, empty = bar(share, width, _BAR)
    return Text.assemble((full, style), (empty, "dim"))


# -- the machine


def gauges(state: LiveState, width: int, max_lines: int) -> Text:
    """The machine, its slots and its queue as bars, as many per line as fit."""
    lines, line = [], Text(no_wrap=True)
    for gauge in (*_machine_gauges(state.machine), *_slot_gauges(state), *_gpu_gauges(state)):
        if line.cell_len and line.cell_len + 3 + gauge.cell_len > width:
            lines.append(line)
            line = Text(no_wrap=True)
        line.append("   " if line.cell_len else "")
        line.append_text(gauge)
    return Text("\n").join([*lines, line][:max_lines])


def _gauge(label: str, share: float | None, text: str, *, is_alarming: bool = True) -> Text:
    style = "cyan"
    if share is not None and is_alarming:
        style = "red" if share >= _FULL else "yellow" if share >= _HIGH else "green"
    return Text.assemble((label, "bold"), " ", _bar(share, _GAUGE_WIDTH, style), f" {text}")


def _used(free: int | None, total: int | None) -> float | None:
    return 1 - free / total if free is not None and total else None


def _machine_gauges(machine: MachineState) -> list[Text]:
    found = []
    if machine.load_1min is not None and machine.cpu_count:
        load = machine.load_1min / machine.cpu_count
        found.append(_gauge("load", load, f"{machine.load_1min:.1f} of {machine.cpu_count} cores"))
    free, total = machine.ram_available_bytes, machine.ram_total_bytes
    found.append(_gauge("RAM", _used(free, total), f"{formatting.size(free)} free"))
    for folder, disk in machine.disk_free_bytes.items():
        found.append(_gauge("disk", _used(disk, machine.disk_total_bytes.get(folder)), f"{formatting.size(disk)} free"))
    return found


def _slot_gauges(state: LiveState) -> list[Text]:
    taken, queued, limit = len(state.occupancy.taken), len(state.occupancy.queue), state.limits.max_parallel
    text = f"{taken} of {limit}" + (f", {queued} queued" if queued else "")
    return [_gauge("slots", taken / limit, text, is_alarming=False)]


def _gpu_gauges(state: LiveState) -> list[Text]:
    machine = state.machine
    if machine.gpus is None:
        return [Text.assemble(("GPUs", "bold"), " ", (printable(machine.gpu_problem or "cannot be read"), "red"))]
    return [gauge for gpu in machine.gpus for gauge in _card_gauges(gpu, state.limits.gpu_max_temp_c)]


def _card_gauges(gpu: Gpu, limit_c: float) -> list[Text]:
    busy = "" if gpu.utilization_percent is None else f", {gpu.utilization_percent:.0f} % busy"
    vram = _used(gpu.vram_free_bytes, gpu.vram_total_bytes)
    found = [_gauge(f"GPU {gpu.index}", vram, f"{formatting.size(gpu.vram_free_bytes)} free{busy}")]
    if gpu.temp_c is not None:
        found.append(_gauge("temp", gpu.temp_c / limit_c, f"{gpu.temp_c:.0f} °C"))
    return found


def queue_positions(queue: Sequence[Ticket]) -> dict[str, int]:
    """Run id -> 1-based position in the queue."""
    return {ticket.run_id: position for position, ticket in enumerate(queue, start=1)}


# -- sweeps


def sweep_lines(sweeps: Sequence[Seen], width: int) -> Text:
    """A line for each sweep that is going on."""
    return Text("\n", no_wrap=True).join(_sweep_line(seen, width) for seen in sweeps[-_MOST_SWEEPS:])


def _sweep_line(seen: Seen, width: int) -> Text:
    standing, budget = seen.standing, seen.budget
    best = standing.best
    parts = [
        rungs_text(standing),
        "" if best is None else f"best {formatting.number(best.value)} ({params_text(best)})",
        f"{in_minutes(budget.spent_s)} of {in_minutes(budget.total_s)} used",
    ]
    text = " · ".join(["", seen.state, *filter(None, parts)])
    line = Text.assemble(("sweep ", "bold"), _plain(standing.spec.name), _plain(text), no_wrap=True, end="")
    line.truncate(width, overflow="ellipsis")
    return line


# -- one run


def headline(state: LiveState, width: int) -> Text:
    """How many there are, and what is wrong."""
    if state.problem is not None:
        return Text(printable(state.problem), style="bold red", no_wrap=True, overflow="ellipsis")
    total = state.rows.total
    parts = [Text("backprop", style="bold")]
    parts += [
        Text(f"{count} {status.value}", style=STATUS_STYLES[status]) for status, count in state.rows.active.items()
    ]
    parts.append(Text(f"{total} run{'' if total == 1 else 's'}", style="dim"))
    left = Text(" · ").join(parts)
    clock = f"{state.at.astimezone():%H:%M:%S}"
    left.append(" " * max(1, width - left.cell_len - len(clock)) + clock, style="dim")
    return left


def curve_title(shown: ShownRun, *, is_log: bool) -> Text:
    """The run and the metric, its last and best value, and the axes; for a queued run also the reason."""
    name, run, head = shown.metric, shown.view.run, shown.head
    what = run.spec.id if head is None else f"{head.name[:40]}: {'best run ' if head.row.best_id else ''}{run.spec.id}"
    queued = f" · queued: {run.reason}" if run.status is Status.QUEUED and run.reason else ""
    if name is None:
        return _plain(f"{what}{queued or ' · no metrics yet'}")
    title = f"{what}{queued} · {set_cell_size(name, min(cell_len(name), 40))} "
    summary = shown.view.summaries.get(name)
    if summary is None:  # what the run used
        usage = shown.view.usage
        title += "" if usage is None else formatting.figure(usage.last.get(name), unit_of(name.removeprefix(PREFIX)))
        return _plain(title + _axis_note(shown) + (" · log" if is_log else ""))
    title += formatting.number(summary.last)
    if (best := metric_names.best(shown.view, name)) is not None:
        title += f" · best {formatting.number(best[0])} at {best[1]}"
    return _plain(title + _axis_note(shown) + (" · log" if is_log else ""))


def _axis_note(shown: ShownRun) -> str:
    return "" if shown.curve is None or shown.curve.axis is Axis.STEP else f" · over {axis_name(shown.curve)}"


def details(shown: ShownRun, now: datetime, width: int) -> Text:
    """A run in full, in `width` columns."""
    screen = Screen(width=width, is_terminal=True)
    invalid = shown.invalid_checkpoints
    whole = run_details(shown.view, now, lambda checkpoint: checkpoint.path not in invalid, screen=screen)
    label_width = whole.index(shown.view.run.spec.id)  # the first value
    text = Text()
    for line in whole.splitlines():
        text.append(line[:label_width], style="bold cyan")
        text.append(f"{line[label_width:_LONGEST_LINE]}\n")
    return text


def log_lines(log: Log | None) -> Text:
    """The last lines of a log; lines that do not fit are truncated."""
    if log is None:
        return Text("no output yet", style="dim")
    lines = [printable(line.replace("\t", "    ")) for line in log.lines]
    return Text("\n".join(lines) or "no output yet")


def one_line(text: str) -> str:
    """A message on one line, for a notification."""
    return printable(text[:_LONGEST_NAME])


def now() -> datetime:
    """In UTC, as records have it."""
    return datetime.now(timezone.utc)


def description(view: RunView) -> str:
    """The run and its status, for a question about it."""
    spec = view.run.spec
    name = f" ({spec.name[:60]})" if spec.name else ""
    return printable(f"{spec.id}{name}, {view.run.status.value}")
