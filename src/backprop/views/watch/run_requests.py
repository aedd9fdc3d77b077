"""What the keys of the live view ask of a run, made by `lifecycle.requests`; each in a thread of its own."""

import sqlite3
import threading
from collections.abc import Callable

from backprop.errors import BackpropError
from backprop.lifecycle import requests
from backprop.records import RunView, Status
from backprop.store.home import Home, HomeBusyError
from backprop.views.watch import texts


class RunRequests:
    """Makes requests, and says what came of them."""

    def __init__(
        self,
        home: Home,
        ask: Callable[[str, Callable[[], None]], None],
        say: Callable[[str], None],
        complain: Callable[[str], None],
        refresh: Callable[[], None],
    ) -> None:
        """ask: shows a question, and calls the function if the answer is yes. say, complain: show a message, an error.

        refresh: called when a request was made. All but `ask` are called in other threads.
        """
        self._home = home
        self._ask = ask
        self._say = say
        self._complain = complain
        self._refresh = refresh

    def stop(self, view: RunView) -> None:
        """Stop it gracefully, after asking."""
        stop = self._bound(requests.request_stop, view, "s")
        self._end(view, "Stop", stop)

    def kill(self, view: RunView) -> None:
        """Kill it, after asking."""

        def kill() -> str:
            return requests.stop_now(self._home, view.run, self._say, by=_by("k")).summary

        self._end(view, "Kill without saving:", kill)

    def pause(self, view: RunView) -> None:
        """Suspend it."""
        self._make(view, self._bound(requests.request_pause, view, "p"), "asked to pause")

    def resume(self, view: RunView) -> None:
        """Continue a paused run, or start another session of one that has ended."""
        run_id, status = view.run.spec.id, view.run.status
        if not status.is_final:
            self._make(view, self._bound(requests.request_resume, view, "r"), "asked to resume")
        elif status is Status.COMPLETED:
            self._ask(f"Run {run_id} has completed. Start another session?", lambda: self._start_session(view))
        else:
            self._start_session(view)

    def _bound(self, request: Callable[..., object], view: RunView, key: str) -> Callable[[], object]:
        return lambda: request(self._home, view.run, by=_by(key))

    def _end(self, view: RunView, what: str, end: Callable[[], object]) -> None:
        if view.run.status.is_final:
            self._say(f"{texts.description(view)}: it is not running.")
            return
        self._ask(f"{what} {texts.description(view)}?", lambda: self._make(view, end, "asked to stop"))

    def _start_session(self, view: RunView) -> None:
        run_id = view.run.spec.id
        self._say(f"run {run_id}: starting another session ...")
        self._make(view, lambda: requests.start_resume(self._home, run_id), "started")

    def _make(self, view: RunView, request: Callable[[], object], done: str) -> None:
        """Make a request in a thread. A daemon: quitting need not wait for a dead disk."""

        def work() -> None:
            try:
                outcome = request()
            except (BackpropError, HomeBusyError, OSError, sqlite3.Error) as error:
                self._complain(str(error))
                return
            words = outcome.splitlines() if isinstance(outcome, str) else []
            self._say(words[-1] if words else f"run {view.run.spec.id}: {done}")
            self._refresh()

        threading.Thread(target=work, daemon=True).start()


def _by(key: str) -> str:
    return f"{key} in backprop watch"
