"""The widgets of the screen. Each gets what it shows, and redraws only what has changed."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime

from rich.text import Text
from textual.containers import VerticalScroll
from textual.coordinate import Coordinate
from textual.events import Click
from textual.message import Message
from textual.widgets import DataTable, Static

from backprop.views.live_feed import Log, ShownRun
from backprop.views.run_row import RunRow
from backprop.views.watch import chart, texts

_SCROLLBAR_AND_PADDING = 3
_CURVE_EVERY_S = 3.0  # drawing is expensive
_DOTS = r"[\u2801-\u28ff]+"  # the braille characters of a curve
_NO_METRICS = "no metrics yet: print them as JSON lines, or use a framework that Backprop hooks into"


class RunsTable(DataTable[Text]):
    """The runs, one cell per row: Textual renders every cell of a table again when one of them changes.

    The cursor stays on its run when that moves.
    """

    def __init__(self) -> None:
        super().__init__(cursor_type="row", cell_padding=0, cursor_foreground_priority="renderable")
        self._shape: list[texts.Column] = []
        self._ids: list[str] = []
        self._lines: list[Text] = []

    class Opened(Message):
        """The run under the cursor was opened."""

    def action_select_cursor(self) -> None:
        self.post_message(self.Opened())

    def on_click(self, event: Click) -> None:
        if event.chain > 1:
            self.post_message(self.Opened())

    @property
    def run_id(self) -> str | None:
        """The run under the cursor."""
        return self._ids[self.cursor_row] if 0 <= self.cursor_row < len(self._ids) else None

    def show(self, rows: Sequence[RunRow], now: datetime, positions: Mapping[str, int], run_id: str | None) -> None:
        """Show these runs, with the cursor on `run_id`. A hidden table is not updated."""
        if not self.size.width:
            return
        ids = [row.view.run.spec.id for row in rows]
        width = max(1, self.size.width - _SCROLLBAR_AND_PADDING)
        shape = texts.columns_for(width, max(map(len, ids), default=0))
        lines = [texts.run_line(row, now, positions, shape) for row in rows]
        if ids != self._ids or shape != self._shape:
            self._lay_out(shape, ids, lines, width, run_id)
            return
        for row, (before, line) in enumerate(zip(self._lines, lines, strict=True)):
            if before != line or before.spans != line.spans:
                self.update_cell_at(Coordinate(row, 0), line)
        self._lines = lines

    def _lay_out(
        self, shape: list[texts.Column], ids: list[str], lines: list[Text], width: int, run_id: str | None
    ) -> None:
        self._shape, self._ids, self._lines = shape, ids, lines
        with self.prevent(self.RowHighlighted):
            self.clear(columns=True)
            self.add_column(texts.title_line(shape), width=width)
            for line in lines:
                self.add_row(line)
            if run_id in ids:
                self.move_cursor(row=ids.index(run_id), animate=False)


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
            drawing = _NO_METRICS if curve is None else chart.chart(curve, width, height, is_log=is_log)
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

    def show_nothing(self, why: str) -> None:
        """Show why there is no run."""
        self._content = None
        self.border_title = ""
        self._body.update(why)
