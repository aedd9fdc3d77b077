"""The live view: all runs, the machine, and one run's curve, log and details.

States come from a `LiveFeed` in its own thread; requests (stop, pause, resume) are made by `lifecycle.requests`, each
in a thread of its own. Nothing here touches a disk.
"""

import asyncio
import os
import signal
import sqlite3
import threading
from collections.abc import Callable
from typing import ClassVar

import msgspec
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.message import Message
from textual.widgets import DataTable, Footer, Input, Static

from backprop.errors import BackpropError
from backprop.lifecycle import requests
from backprop.records import RunView, Status
from backprop.store.curves import Axis
from backprop.store.home import HomeBusyError
from backprop.views.live_feed import FeedRequest, LiveFeed, LiveState
from backprop.views.watch import texts
from backprop.views.watch.dialogs import Help, Question
from backprop.views.watch.panes import CurvePane, RunsTable, TextPane

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
        Binding("s", "stop", "stop"),
        Binding("k,S", "kill", "kill"),
        Binding("p", "pause", "pause"),
        Binding("r", "resume", "resume"),
        Binding("l", "pane('log')", "log"),
        Binding("d", "pane('details')", "details"),
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
        self._state = LiveState(at=texts.now(), limits=feed.limits)
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

    def _lay_out(self) -> None:
        width, height = self._screen_size
        for name, is_so in (("-narrow", width < _WIDE), ("-short", height < _SHORT), ("-curve", self._pane == "curve")):
            self.screen_stack[0].set_class(is_so, name)
        self._change_request(points=max(20, 2 * width))

    def on_watch_app_state_read(self, message: StateRead) -> None:
        if isinstance(message.state, Exception):
            raise message.state
        self._state = message.state
        self._draw()

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
        table.show(state.rows, state.at, positions, self._request.run_id)
        if self._request.run_id is None and table.run_id is not None:
            self._change_request(run_id=table.run_id)  # the cursor stays there when runs are added
        nothing = "no runs match; esc shows all" if self._request.search else "no runs yet: backprop run train.py"
        main.query_one(CurvePane).show(shown, is_log=self._is_log, why_nothing=nothing)
        pane = main.query_one(TextPane)
        if shown is None:
            pane.show_nothing(nothing)
        elif self._text == "details":
            pane.show_details(shown, state.at)
        else:
            pane.show_log(shown.view.run.spec.id, shown.log, is_stderr=self._request.is_stderr)

    # -- what is shown

    def _change_request(self, **changes: object) -> None:
        self._request = msgspec.structs.replace(self._request, **changes)
        self._feed.show(self._request)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        run_id = self.query_one(RunsTable).run_id if event.row_key is not None else None
        if run_id is not None and run_id != self._request.run_id:
            self._change_request(run_id=run_id)

    def on_runs_table_opened(self, _: RunsTable.Opened) -> None:
        self.screen.add_class("-zoom")
        self.call_after_refresh(self._draw)

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

    def _chosen(self) -> RunView | None:
        run_id = self.query_one(RunsTable).run_id
        return next((row.view for row in self._state.rows if row.view.run.spec.id == run_id), None)

    def action_stop(self) -> None:
        self._confirm_stop("Stop", now=False)

    def action_kill(self) -> None:
        self._confirm_stop("Kill without saving:", now=True)

    def _confirm_stop(self, what: str, *, now: bool) -> None:
        view = self._chosen()
        if view is None:
            return
        if view.run.status.is_final:
            self._notify(f"{texts.description(view)}: it is not running.")
            return

        def stop(is_yes: bool | None) -> None:
            if is_yes:
                self._make_request((lambda: self._kill(view)) if now else (lambda: self._stop(view)), "asked to stop")

        self.push_screen(Question(f"{what} {texts.description(view)}?"), stop)

    def _stop(self, view: RunView) -> None:
        requests.request_stop(self._feed.home, view.run, by="s in backprop watch")

    def _kill(self, view: RunView) -> str:
        return requests.stop_now(self._feed.home, view.run, self._say, by="k in backprop watch").summary

    def action_pause(self) -> None:
        if (view := self._chosen()) is not None:
            self._make_request(
                lambda: requests.request_pause(self._feed.home, view.run, by="p in backprop watch"), "asked to pause"
            )

    def action_resume(self) -> None:
        """Continue a paused run, or start another session of one that has ended."""
        view = self._chosen()
        if view is None:
            return
        run_id = view.run.spec.id
        if view.run.status is Status.QUEUED or not view.run.status.is_final:
            self._make_request(
                lambda: requests.request_resume(self._feed.home, view.run, by="r in backprop watch"), "asked to resume"
            )
        elif view.run.status is Status.COMPLETED:
            question = Question(f"Run {run_id} has completed. Start another session?")
            self.push_screen(question, lambda is_yes: self._start_session(run_id) if is_yes else None)
        else:
            self._start_session(run_id)

    def _start_session(self, run_id: str) -> None:
        self._notify(f"run {run_id}: starting another session ...")
        self._make_request(lambda: requests.start_resume(self._feed.home, run_id), "started")

    def _make_request(self, request: Callable[[], object], done: str) -> None:
        """Make a request in a thread. A daemon: quitting need not wait for a dead disk."""
        run_id = self.query_one(RunsTable).run_id

        def work() -> None:
            try:
                outcome = request()
            except (BackpropError, HomeBusyError, OSError, sqlite3.Error) as error:
                self.post_message(self.RequestDone(str(error), is_error=True))
                return
            message = outcome.splitlines()[-1] if isinstance(outcome, str) and outcome else f"run {run_id}: {done}"
            self._say(message)
            self._feed.refresh()

        threading.Thread(target=work, daemon=True).start()

    def _say(self, text: str) -> None:
        """Show a message. Thread-safe."""
        self.post_message(self.RequestDone(text))

    def on_watch_app_request_done(self, message: RequestDone) -> None:
        self._notify(message.text, is_error=message.is_error)

    def _notify(self, text: str, *, is_error: bool = False) -> None:
        text = texts.one_line(text)
        self.notify(text, severity="error" if is_error else "information", timeout=_MESSAGE_S, markup=False)
