"""The live view: runs, the machine, and one run's curve, log and details, as long as somebody looks.

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

_WIDE = 120  # columns: room for the curve and a text beside one another
_SHORT = 18  # lines: below, the list stands alone
_MACHINE_LINES = 4
_LAST_RESORT_S = 3.0  # to leave a terminal that may be gone
_SAID_S = 6.0  # how long an answer stands


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
        Binding("M", "metric(-1)", "metric before", show=False),
        Binding("g", "log_scale", "log scale", show=False),
        Binding("t", "axis", "step/time", show=False),
        Binding("e", "stderr", "stderr", show=False),
        Binding("slash", "search", "search", key_display="/"),
        Binding("escape", "leave", "back", show=False),
        Binding("ctrl+z", "suspend_process", "suspend", show=False),
    ]
    KEYS: ClassVar[list[tuple[str, str]]] = [
        ("↑ ↓", "choose a run; the mouse does, too"),
        ("enter", "curve and text on the whole screen, as a double click; esc: back"),
        ("c l d", "curve, log, details"),
        ("e", "stdout or stderr in the log"),
        ("m M", "next metric, the one before"),
        ("g", "logarithmic scale"),
        ("t", "over steps or over time"),
        ("s", "stop gracefully (asks)"),
        ("k S", "kill (asks)"),
        ("p", "pause"),
        ("r", "go on after a pause; another session of a run that has ended"),
        ("/", "search: words, or status=failed lr>1e-4; esc: all runs again"),
        ("tab", "to the text, to scroll it"),
        ("ctrl-z", "suspend; fg comes back"),
        ("q", "quit; runs go on"),
    ]

    class Pictured(Message):
        """A picture was taken, or taking it failed for a reason that is a bug."""

        def __init__(self, picture: LiveState | Exception) -> None:
            super().__init__()
            self.picture = picture

    class Answered(Message):
        """What came of an order."""

        def __init__(self, text: str, *, is_error: bool = False) -> None:
            super().__init__()
            self.text = text
            self.is_error = is_error

    def __init__(self, feed: LiveFeed, run_id: str | None = None) -> None:
        """run_id: the run to look at first; None: the first in the list."""
        super().__init__()
        self.animation_level = "none"
        self.ended_by: signal.Signals | None = None  # what ended the view, when a signal did
        self._wish = FeedRequest(run_id=run_id)
        self._feed = feed
        self._picture = LiveState(at=texts.now(), limits=feed.limits)
        self._pane = "curve"
        self._text = "log"  # beside the curve, where both have room
        self._is_log = False
        self._has_widgets = False  # the first resize comes before they are there
        self._screen_size = self.size
        self._gauge_lines = -1  # the screen is laid out anew when there are more or fewer

    # -- the screen

    def compose(self) -> ComposeResult:
        yield Static(id="head", markup=False)
        yield Static(id="machine", markup=False)
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
        self._feed.start(self._wish, lambda picture: self.post_message(self.Pictured(picture)))

    def on_unmount(self) -> None:
        self._feed.close()

    def _end_by(self, number: signal.Signals) -> None:
        """Leave the terminal as it was. One that is gone cannot be written to: then leave all the same."""
        self.ended_by = number
        last_resort = threading.Timer(_LAST_RESORT_S, os._exit, (128 + number,))
        last_resort.daemon = True
        last_resort.start()
        self.exit()

    def on_resize(self, event: events.Resize) -> None:
        self._screen_size = event.size
        self._lay_out()
        self.call_after_refresh(self._draw)

    def _lay_out(self) -> None:
        width, height = self._screen_size
        for name, is_so in (("-narrow", width < _WIDE), ("-short", height < _SHORT), ("-curve", self._pane == "curve")):
            self.screen_stack[0].set_class(is_so, name)
        self._wish_for(points=max(20, 2 * width))

    def on_watch_app_pictured(self, message: Pictured) -> None:
        if isinstance(message.picture, Exception):
            raise message.picture
        self._picture = message.picture
        self._draw()

    def _draw(self) -> None:
        """Show the last picture; what is the same as before costs nothing."""
        if self._has_widgets and self.is_running:  # when it ends, its widgets go one after the other
            self._draw_all()

    def _draw_all(self) -> None:
        picture, shown = self._picture, self._picture.shown
        main = self.screen_stack[0]
        main.query_one("#head", Static).update(texts.headline(picture, self.size.width - 2), layout=False)
        gauges = texts.gauges(picture, self.size.width - 2, _MACHINE_LINES)
        main.query_one("#machine", Static).update(gauges, layout=self._gauge_lines != gauges.plain.count("\n"))
        self._gauge_lines = gauges.plain.count("\n")
        places = texts.places_in_line(picture.tickets)
        table = main.query_one(RunsTable)
        table.show(picture.rows, picture.at, places, self._wish.run_id)
        if self._wish.run_id is None and table.run_id is not None:
            self._wish_for(run_id=table.run_id)  # the cursor stays there when others come
        nothing = "no such runs; esc shows all" if self._wish.search else "no runs yet: backprop run train.py"
        main.query_one(CurvePane).show(shown, is_log=self._is_log, why_nothing=nothing)
        pane = main.query_one(TextPane)
        if shown is None:
            pane.show_nothing(nothing)
        elif self._text == "details":
            pane.show_details(shown, picture.at)
        else:
            pane.show_log(shown.view.run.spec.id, shown.log, is_stderr=self._wish.is_stderr)

    # -- what is looked at

    def _wish_for(self, **changes: object) -> None:
        self._wish = msgspec.structs.replace(self._wish, **changes)
        self._feed.look_at(self._wish)

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        run_id = self.query_one(RunsTable).run_id if event.row_key is not None else None
        if run_id is not None and run_id != self._wish.run_id:
            self._wish_for(run_id=run_id)

    def on_runs_table_opened(self, _: RunsTable.Opened) -> None:
        self.screen.add_class("-zoom")
        self.call_after_refresh(self._draw)

    def action_leave(self) -> None:
        """Out of the search, out of the whole screen, back to all runs."""
        search = self.query_one("#search", Input)
        if search.has_class("-open") or self._wish.search:
            search.remove_class("-open")
            search.value = ""
            self._wish_for(search="")
        else:
            self.screen.remove_class("-zoom")
        self.query_one(RunsTable).focus()
        self.call_after_refresh(self._draw)

    def action_pane(self, name: str) -> None:
        """Show this; where only one has room the same key again shows the curve."""
        self._pane = "curve" if name == self._pane else name
        if name != "curve":
            self._text = name
        if self.screen.has_class("-short"):
            self.screen.add_class("-zoom")
        self._lay_out()
        self.call_after_refresh(self._draw)

    def action_metric(self, by: int) -> None:
        shown = self._picture.shown
        if shown is not None and shown.metric is not None:
            names = shown.metrics
            self._wish_for(metric=names[(names.index(shown.metric) + by) % len(names)])

    def action_log_scale(self) -> None:
        self._is_log = not self._is_log
        self._draw()

    def action_axis(self) -> None:
        self._wish_for(axis=Axis.TIME if self._wish.axis is Axis.STEP else Axis.STEP)

    def action_stderr(self) -> None:
        self._wish_for(is_stderr=not self._wish.is_stderr)
        self.action_pane("log")

    def action_search(self) -> None:
        search = self.query_one("#search", Input)
        search.add_class("-open")
        search.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._wish_for(search=event.value)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.input.set_class(bool(event.value), "-open")
        self.query_one(RunsTable).focus()

    def action_help(self) -> None:
        self.push_screen(Help(self.KEYS))

    # -- what is asked of the run

    def _chosen(self) -> RunView | None:
        run_id = self.query_one(RunsTable).run_id
        return next((row.view for row in self._picture.rows if row.view.run.spec.id == run_id), None)

    def action_stop(self) -> None:
        self._ask_before("Stop", now=False)

    def action_kill(self) -> None:
        self._ask_before("Kill, without time to save:", now=True)

    def _ask_before(self, what: str, *, now: bool) -> None:
        view = self._chosen()
        if view is None:
            return
        if view.run.status.is_final:
            self._tell(f"{texts.why(view)}: it is not running.")
            return

        def stop(is_yes: bool | None) -> None:
            if is_yes:
                self._ask((lambda: self._kill(view)) if now else (lambda: self._stop(view)), "asked to stop")

        self.push_screen(Question(f"{what} {texts.why(view)}?"), stop)

    def _stop(self, view: RunView) -> None:
        requests.request_stop(self._feed.home, view.run, by="s in backprop watch")

    def _kill(self, view: RunView) -> str:
        return requests.stop_now(self._feed.home, view.run, self._say, by="k in backprop watch").summary

    def action_pause(self) -> None:
        if (view := self._chosen()) is not None:
            self._ask(
                lambda: requests.request_pause(self._feed.home, view.run, by="p in backprop watch"), "asked to pause"
            )

    def action_resume(self) -> None:
        """Let a run that is paused go on; give one that has ended another session."""
        view = self._chosen()
        if view is None:
            return
        run_id = view.run.spec.id
        if view.run.status is Status.QUEUED or not view.run.status.is_final:
            self._ask(
                lambda: requests.request_resume(self._feed.home, view.run, by="r in backprop watch"), "asked to go on"
            )
        elif view.run.status is Status.COMPLETED:
            question = Question(f"Run {run_id} has completed. Start another session?")
            self.push_screen(question, lambda is_yes: self._start_session(run_id) if is_yes else None)
        else:
            self._start_session(run_id)

    def _start_session(self, run_id: str) -> None:
        self._tell(f"run {run_id}: starting another session ...")
        self._ask(lambda: requests.start_resume(self._feed.home, run_id), "started")

    def _ask(self, order: Callable[[], object], done: str) -> None:
        """Give an order where it may take its time. A daemon thread: whoever quits need not wait for a dead disk."""
        run_id = self.query_one(RunsTable).run_id

        def work() -> None:
            try:
                said = order()
            except (BackpropError, HomeBusyError, OSError, sqlite3.Error) as error:
                self.post_message(self.Answered(str(error), is_error=True))
                return
            told = said.splitlines()[-1] if isinstance(said, str) and said else f"run {run_id}: {done}"
            self._say(told)
            self._feed.look_again()

        threading.Thread(target=work, daemon=True).start()

    def _say(self, text: str) -> None:
        """From any thread."""
        self.post_message(self.Answered(text))

    def on_watch_app_answered(self, message: Answered) -> None:
        self._tell(message.text, is_error=message.is_error)

    def _tell(self, text: str, *, is_error: bool = False) -> None:
        text = texts.one_line(text)
        self.notify(text, severity="error" if is_error else "information", timeout=_SAID_S, markup=False)
