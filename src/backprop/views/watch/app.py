"""The live view: all runs, the machine, and one run's curve, log and details.

States come from a `LiveFeed` in its own thread; requests (stop, pause, resume) are made by `RunRequests`, in threads of
their own. Nothing here touches a disk.
"""

import asyncio
import os
import shlex
import signal
import threading
from collections.abc import Callable
from typing import ClassVar

import msgspec
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.message import Message
from textual.notifications import SeverityLevel
from textual.widgets import DataTable, Footer, Input, Static

from backprop.records import RunView
from backprop.store.curves import Axis
from backprop.store.filters import quoted
from backprop.views.live_feed import LiveFeed, LiveState
from backprop.views.live_rows import FeedRequest, GroupHead
from backprop.views.run_row import RunRow
from backprop.views.watch import texts
from backprop.views.watch.dialogs import Help, Question
from backprop.views.watch.panes import CurvePane, RunsTable, Selection, TextPane
from backprop.views.watch.run_requests import RunRequests

_WIDE = 120  # columns: room for curve and text side by side
_SHORT = 18  # lines: on a shorter screen only the list is shown
_MACHINE_LINES = 4
_EXIT_TIMEOUT_S = 3.0  # then exit even if the terminal does not answer
_MESSAGE_S = 6.0  # how long a message is shown


class WatchApp(App[None]):
    """`backprop watch`."""

    TITLE = "backprop watch"
    CSS_PATH = "watch.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "quit", priority=False),
        Binding("question_mark", "help", "help", key_display="?"),
        Binding("s", "request('stop')", "stop"),
        Binding("k,S", "request('kill')", "kill", show=False),
        Binding("p", "request('pause')", "pause"),
        Binding("r", "request('resume')", "resume"),
        Binding("l", "pane('log')", "log"),
        Binding("d", "pane('details')", "details"),
        Binding("u", "pane('usage')", "usage"),
        Binding("o", "toggle_group", "group", show=False),
        Binding("O", "toggle_groups", "all groups", show=False),
        Binding("c", "pane('curve')", "curve", show=False),
        Binding("m", "metric(1)", "metric"),
        Binding("M", "metric(-1)", "previous metric", show=False),
        Binding("g", "log_scale", "log scale", show=False),
        Binding("t", "axis", "step/time", show=False),
        Binding("e", "stderr", "stderr", show=False),
        Binding("slash", "search", "search", key_display="/"),
        Binding("escape", "leave", "back", show=False),
        Binding("ctrl+z", "suspend_process", "suspend", show=False),
    ]

    class StateRead(Message):
        """A new state, or an unexpected exception."""

        def __init__(self, state: LiveState | Exception) -> None:
            super().__init__()
            self.state = state

    class RequestDone(Message):
        """The outcome of a request."""

        def __init__(self, text: str, *, is_error: bool = False) -> None:
            super().__init__()
            self.text = text
            self.is_error = is_error

    def __init__(self, feed: LiveFeed, run_id: str | None = None) -> None:
        """run_id: the run to select; None: the first in the list."""
        super().__init__()
        self.animation_level = "none"
        self.ended_by: signal.Signals | None = None  # the signal that ended the view
        self._request = FeedRequest(run_id=run_id)
        self._feed = feed
        self._run_requests = RunRequests(feed.home, self._ask, self._say, self._complain, feed.refresh)
        self._state = LiveState(at=texts.now(), limits=feed.limits)
        self._is_read = False  # a state has come
        self._pane = "curve"
        self._text = "log"  # beside the curve, if there is room
        self._is_log = False
        self._has_widgets = False  # the first resize event comes earlier
        self._screen_size = self.size
        self._gauge_lines = -1  # the layout changes with it
        self._sweep_count = -1  # likewise

    # -- the screen

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        yield Static(id="machine", markup=False)
        yield Static(id="sweeps", markup=False)
        yield RunsTable()
        with Container(id="lower"):
            yield CurvePane()
            yield TextPane()
        yield Input(id="search", placeholder="words, or status=failed lr>1e-4", compact=True)
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            loop.add_signal_handler(number, self._end_by, number)
        # after `fg` the terminal shows another screen, which is empty
        self.app_resume_signal.subscribe(self, lambda _: self.refresh(layout=True))
        self._has_widgets = True
        self._lay_out()
        self.query_one(RunsTable).focus()
        self._feed.start(self._request, lambda state: self.post_message(self.StateRead(state)))

    def on_unmount(self) -> None:
        self._feed.close()

    def _end_by(self, number: signal.Signals) -> None:
        """Exit and restore the terminal; if it is gone, exit without."""
        self.ended_by = number
        forced_exit = threading.Timer(_EXIT_TIMEOUT_S, os._exit, (128 + number,))
        forced_exit.daemon = True
        forced_exit.start()
        self.exit()

    def on_resize(self, event: events.Resize) -> None:
        self._screen_size = event.size
        self._lay_out()
        self.call_after_refresh(self._draw)

    def on_resized(self) -> None:
        self._draw()

    def _lay_out(self) -> None:
        width, height = self._screen_size
        for name, is_so in (("-narrow", width < _WIDE), ("-short", height < _SHORT), ("-curve", self._pane == "curve")):
            self.screen_stack[0].set_class(is_so, name)
        is_usage_shown = self._text == "usage" and (width >= _WIDE or self._pane == "usage")
        self._change_request(points=max(20, 2 * width), wants_usage=is_usage_shown)

    def on_watch_app_state_read(self, message: StateRead) -> None:
        if isinstance(message.state, Exception):
            raise message.state
        self._open_group_of_first(message.state)
        self._is_read = True
        self._state = message.state
        self._draw()

    def _open_group_of_first(self, state: LiveState) -> None:
        """The group of the run that was asked for stays open when the cursor leaves it."""
        first = state.rows.shown if self._state.rows.shown is None else None
        if first is not None and first.run.spec.id == self._request.run_id and first.annotations.group is not None:
            self._change_request(open_groups=self._request.open_groups | {first.annotations.group})

    def _draw(self) -> None:
        """Show the latest state; unchanged parts cost nothing."""
        if self._has_widgets and self.is_running:  # at exit the widgets are removed one by one
            self._draw_all()

    def _draw_all(self) -> None:
        state, shown = self._state, self._state.shown
        main = self.screen_stack[0]
        main.query_one("#head", Static).update(texts.headline(state, self.size.width - 2), layout=False)
        gauges = texts.gauges(state, self.size.width - 2, _MACHINE_LINES)
        main.query_one("#machine", Static).update(gauges, layout=self._gauge_lines != gauges.plain.count("\n"))
        self._gauge_lines = gauges.plain.count("\n")
        lines = texts.sweep_lines(state.sweeps, self.size.width - 2)
        main.query_one("#sweeps", Static).update(lines, layout=self._sweep_count != len(state.sweeps))
        self._sweep_count = len(state.sweeps)
        main.query_one("#sweeps").set_class(not state.sweeps, "-none")
        positions = texts.queue_positions(state.occupancy.queue)
        table = main.query_one(RunsTable)
        table.show(state.rows.rows, state.at, positions, self._selection)
        if self._selection == Selection():
            self._change_request(**table.selection._asdict())  # the cursor stays there when runs are added
        nothing = "no runs match; esc shows all" if self._request.search else "no runs yet: backprop run train.py"
        nothing = nothing if self._is_read else "reading the runs"
        main.query_one(CurvePane).show(shown, is_log=self._is_log, why_nothing=nothing)
        pane = main.query_one(TextPane)
        if shown is None:
            pane.show_nothing(nothing)
        elif self._text == "usage":
            pane.show_usage(shown)
        elif self._text == "details":
            pane.show_details(shown, state.at)
        else:
            pane.show_log(shown.view.run.spec.id, shown.log, is_stderr=self._request.is_stderr)

    # -- what is shown

    def _change_request(self, **changes: object) -> None:
        self._request = msgspec.structs.replace(self._request, **changes)
        self._feed.show(self._request)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        selection = self.query_one(RunsTable).selection if event.row_key is not None else Selection()
        if selection not in {Selection(), self._selection}:
            self._change_request(**selection._asdict())

    def on_runs_table_opened(self, _: RunsTable.Opened) -> None:
        if self.query_one(RunsTable).selection.group is not None:
            self.action_toggle_group()
            return
        self.screen.add_class("-zoom")
        self.call_after_refresh(self._draw)

    @property
    def _selection(self) -> Selection:
        return Selection(self._request.run_id, self._request.group)

    def _heads(self) -> list[GroupHead]:
        return [row for row in self._state.rows.rows if isinstance(row, GroupHead)]

    def _head(self) -> GroupHead | None:
        """The group under the cursor, or that of the run there."""
        run_id, group = self.query_one(RunsTable).selection
        view = self._view(run_id)
        own = group if view is None else view.annotations.group
        return next((head for head in self._heads() if head.name == own), None)

    def action_toggle_group(self) -> None:
        """Open or close the group under the cursor, or that of the run there."""
        head = self._head()
        if head is not None:
            opened = self._request.open_groups
            opened = opened - {head.name} if head.is_open else opened | {head.name}
            self._change_request(run_id=None, group=head.name, open_groups=opened)

    def action_toggle_groups(self) -> None:
        """Open all groups, or close them where all are open."""
        heads, head = self._heads(), self._head()
        opened = frozenset() if all(one.is_open for one in heads) else frozenset(one.name for one in heads)
        if head is not None and not opened:
            self._change_request(run_id=None, group=head.name, open_groups=opened)
        self._change_request(open_groups=opened)

    def action_leave(self) -> None:
        """Leave the search, the full screen, or the text."""
        search = self.query_one("#search", Input)
        if search.has_class("-open") or self._request.search:
            search.remove_class("-open")
            search.value = ""
            self._change_request(search="")
        else:
            self.screen.remove_class("-zoom")
        self.query_one(RunsTable).focus()
        self.call_after_refresh(self._draw)

    def action_pane(self, name: str) -> None:
        """Show this pane; where only one fits, the same key again shows the curve."""
        self._pane = "curve" if name == self._pane else name
        if name != "curve":
            self._text = name
        if self.screen.has_class("-short"):
            self.screen.add_class("-zoom")
        self._lay_out()
        self.call_after_refresh(self._draw)

    def action_metric(self, by: int) -> None:
        shown = self._state.shown
        if shown is not None and shown.metric is not None:
            names = shown.metrics
            self._change_request(metric=names[(names.index(shown.metric) + by) % len(names)])

    def action_log_scale(self) -> None:
        self._is_log = not self._is_log
        self._draw()

    def action_axis(self) -> None:
        self._change_request(axis=Axis.TIME if self._request.axis is Axis.STEP else Axis.STEP)

    def action_stderr(self) -> None:
        self._change_request(is_stderr=not self._request.is_stderr)
        self.action_pane("log")

    def action_search(self) -> None:
        search = self.query_one("#search", Input)
        search.add_class("-open")
        search.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._change_request(search=event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.input.set_class(bool(event.value), "-open")
        self.query_one(RunsTable).focus()

    def action_help(self) -> None:
        self.push_screen(Help())

    # -- requests to the run

    def _view(self, run_id: str | None) -> RunView | None:
        views = (row.view for row in self._state.rows.rows if isinstance(row, RunRow))
        return next((view for view in views if view.run.spec.id == run_id), None)

    def _chosen(self, what: str) -> RunView | None:
        """The run under the cursor. Of a group, says what to do instead: a command with this word."""
        run_id, group = self.query_one(RunsTable).selection
        if group is not None:
            words = shlex.quote(f"group={quoted(group)}")
            self._say(f"Open the group (enter) and choose a run. For all of them: backprop {what} --filter {words}")
        return self._view(run_id)

    def action_request(self, what: str) -> None:
        """Stop, kill, pause or resume the run under the cursor."""
        if (view := self._chosen({"kill": "stop --now"}.get(what, what))) is not None:
            made = self._run_requests
            {"stop": made.stop, "kill": made.kill, "pause": made.pause, "resume": made.resume}[what](view)

    def _ask(self, question: str, then: Callable[[], None]) -> None:
        self.push_screen(Question(question), lambda is_yes: then() if is_yes else None)

    def _say(self, text: str) -> None:
        """Show a message. Thread-safe."""
        self.post_message(self.RequestDone(text))

    def _complain(self, text: str) -> None:
        """Show an error. Thread-safe."""
        self.post_message(self.RequestDone(text, is_error=True))

    def on_watch_app_request_done(self, message: RequestDone) -> None:
        severity: SeverityLevel = "error" if message.is_error else "information"
        self.notify(texts.one_line(message.text), severity=severity, timeout=_MESSAGE_S, markup=False)
