"""The widgets of the screen. Each gets what it shows, and redraws only what has changed."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from rich.text import Text
from textual.containers import VerticalScroll
from textual.coordinate import Coordinate
from textual.events import Click
from textual.message import Message
from textual.widgets import DataTable, Static

from backprop.views.live_feed import Log, ShownRun
from backprop.views.live_rows import GroupHead, Row
from backprop.views.plots.curve_panels import unit_in
from backprop.views.run_row import RunRow
from backprop.views.watch import chart, texts

_SCROLLBAR_AND_PADDING = 3
_CURVE_EVERY_S = 3.0  # drawing is expensive
_DOTS = r"[\u2801-\u28ff]+"  # the braille characters of a curve
_USAGE_LABELS = r"(?m)^[A-Za-z][A-Za-z ]*(?= )"  # of charts; a label of an axis begins with a digit
_INDENT = "  "  # of a run in an open group
_NO_METRICS = "no metrics yet: print them as JSON lines, or use a framework that Backprop hooks into"


class Resized(Message):
    """A pane has another size: what it shows is to be drawn again."""


class Selection(NamedTuple):
    """What a row is of: a run or a group."""

    run_id: str | None = None
    group: str | None = None


class RunsTable(DataTable[Text]):
    """The runs, one cell per row: Textual renders every cell of a table again when one of them changes.

    The cursor stays on its run or group when that moves.
    """

    def __init__(self) -> None:
        super().__init__(cursor_type="row", cell_padding=0, cursor_foreground_priority="renderable")
        self._shape: list[texts.WatchColumn] = []
        self._keys: list[Selection] = []
        self._lines: list[Text] = []

    class Opened(Message):
        """The run or the group under the cursor was opened."""

    def on_resize(self) -> None:
        self.post_message(Resized())

    def action_select_cursor(self) -> None:
        self.post_message(self.Opened())

    def on_click(self, event: Click) -> None:
        if event.chain > 1:
            self.post_message(self.Opened())

    @property
    def selection(self) -> Selection:
        """What is under the cursor."""
        return self._keys[self.cursor_row] if 0 <= self.cursor_row < len(self._keys) else Selection()

    @property
    def run_id(self) -> str | None:
        """The run under the cursor."""
        return self.selection.run_id

    def show(self, rows: Sequence[Row], now: datetime, positions: Mapping[str, int], selection: Selection) -> None:
        """Show these rows, with the cursor on `selection`. A hidden table is not updated."""
        if not self.size.width:
            return
        keys = [_key(row) for row in rows]
        opened = {row.name for row in rows if isinstance(row, GroupHead)}
        indents = [_INDENT if isinstance(row, RunRow) and row.view.annotations.group in opened else "" for row in rows]
        width = max(1, self.size.width - _SCROLLBAR_AND_PADDING)
        ids = (len(indent) + len(key.run_id or "") for indent, key in zip(indents, keys, strict=True))
        shape = texts.columns_for(width, max(ids, default=0))
        lines = [
            texts.group_line(row, width)
            if isinstance(row, GroupHead)
            else texts.run_line(row, now, positions, shape, indent)
            for row, indent in zip(rows, indents, strict=True)
        ]
        if keys != self._keys or shape != self._shape:
            self._lay_out(shape, keys, lines, width, selection)
            return
        for row, (before, line) in enumerate(zip(self._lines, lines, strict=True)):
            if before != line or before.spans != line.spans:
                self.update_cell_at(Coordinate(row, 0), line)
        self._lines = lines

    def _lay_out(
        self, shape: list[texts.WatchColumn], keys: list[Selection], lines: list[Text], width: int, selection: Selection
    ) -> None:
        self._shape, self._keys, self._lines = shape, keys, lines
        with self.prevent(self.RowHighlighted):
            self.clear(columns=True)
            self.add_column(texts.title_line(shape), width=width)
            for line in lines:
                self.add_row(line)
            if selection in keys:
                self.move_cursor(row=keys.index(selection), animate=False)


def _key(row: Row) -> Selection:
    return Selection(group=row.name) if isinstance(row, GroupHead) else Selection(run_id=row.view.run.spec.id)


class CurvePane(Static):
    """The curve of the selected run, redrawn every few seconds if points were added."""

    def __init__(self) -> None:
        super().__init__(id="curve", markup=False)
        self._drawn: tuple[object, int] | None = None  # (what, number of points)
        self._drawn_at = 0.0
        self._shown: ShownRun | None = None
        self._is_log = False
        self._why_nothing = ""

    def on_resize(self) -> None:
        self.show(self._shown, is_log=self._is_log, why_nothing=self._why_nothing)

    def show(self, shown: ShownRun | None, *, is_log: bool, why_nothing: str = "") -> None:
        """Show this run's curve, or why there is none."""
        self._shown, self._is_log, self._why_nothing = shown, is_log, why_nothing
        if shown is None:
            self.border_title, self._drawn = "", None
            self.update(self._why_nothing, layout=False)
            return
        self.border_title = texts.curve_title(shown, is_log=is_log)
        curve, (width, height) = shown.curve, self.content_size
        what = (shown.view.run.spec.id, shown.metric, curve and curve.axis, is_log, width, height)
        points = 0 if curve is None else curve.point_count
        is_due = time.monotonic() - self._drawn_at >= _CURVE_EVERY_S
        if (
            self._drawn is None
            or self._drawn[0] != what
            or (self._drawn[1] != points and (is_due or not self._drawn[1]))
        ):
            self._drawn, self._drawn_at = (what, points), time.monotonic()
            unit = None if shown.metric is None else unit_in([shown.view], shown.metric)
            drawing = _NO_METRICS if curve is None else chart.chart(curve, width, height, is_log=is_log, unit=unit)
            drawn = Text(drawing, no_wrap=curve is not None)
            drawn.highlight_regex(_DOTS, "cyan")  # not the axes
            self.update(drawn, layout=False)


class TextPane(VerticalScroll):
    """The details of a run, or its log, which is followed unless it is scrolled up."""

    def __init__(self) -> None:
        super().__init__(id="text")
        self._body = Static(id="body", markup=False)
        self._content: object = None

    def compose(self):  # type: ignore[no-untyped-def]  # noqa: ANN201
        yield self._body

    def on_resize(self) -> None:
        self.post_message(Resized())

    def show_log(self, run_id: str, log: Log | None, *, is_stderr: bool) -> None:
        """Follow a log."""
        source = "stderr" if is_stderr else "stdout"
        mark = (run_id, source, log and log.session)
        is_same_place = isinstance(self._content, tuple) and self._content[0] == mark
        self._body.set_class(True, "-log")  # noqa: FBT003  one line each, truncated
        if self._content == (mark, log):
            return
        self._content = (mark, log)
        session = "" if log is None else f" of session {log.session}"
        self.border_title = Text(f"{source}{session}" + (", last lines" if log is not None and log.is_cut else ""))
        self._body.update(texts.log_lines(log))
        if not is_same_place:
            self.anchor()  # follow the end until it is scrolled up

    def show_details(self, shown: ShownRun, now: datetime) -> None:
        """Show a run in full."""
        is_same_place = self._content == shown.view.run.spec.id
        self._content = shown.view.run.spec.id
        self.border_title = Text("details")
        self._body.set_class(False, "-log")  # noqa: FBT003
        self._body.update(texts.details(shown, now, self.content_size.width - 1))
        if not is_same_place:
            self.anchor(False)  # noqa: FBT003
            self.scroll_home(animate=False)

    def show_usage(self, shown: ShownRun) -> None:
        """Show charts of what a run used; drawn only when there is more of it."""
        width, height = self.content_size
        mark = (
            "usage",
            shown.view.run.spec.id,
            shown.view.usage and shown.view.usage.counts,
            len(shown.usage),
            width,
            height,
        )
        is_same_place = isinstance(self._content, tuple) and self._content[:2] == mark[:2]
        if self._content == mark:
            return
        self._content = mark
        self.border_title = Text(f"usage over {chart.axis_name(shown.usage[0])}" if shown.usage else "usage")
        self._body.set_class(True, "-log")  # noqa: FBT003
        drawing = Text(chart.usage_charts(shown.view.usage, shown.usage, width - 1, height))
        drawing.highlight_regex(_DOTS, "cyan")
        drawing.highlight_regex(_USAGE_LABELS, "bold")
        self._body.update(drawing)
        if not is_same_place:
            self.anchor(False)  # noqa: FBT003
            self.scroll_home(animate=False)

    def show_nothing(self, why: str) -> None:
        """Show why there is no run."""
        self._content = None
        self.border_title = ""
        self._body.update(why)
