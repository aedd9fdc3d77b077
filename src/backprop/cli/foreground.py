"""The user at this terminal, or at the other end of this pipe, while a run is executed here."""

from typing import TYPE_CHECKING

from backprop.cli.context import say, say_failure
from backprop.cli.messages import QueueStatusLine, planned_start_line, say_end

if TYPE_CHECKING:
    from backprop.lifecycle.owned_run import OwnedRun
    from backprop.supervisor.plan import Outcome, SessionPlan
    from backprop.views.terminal.live_line import Terminal


class Foreground:
    """The user at this terminal, or at the other end of this pipe."""

    def __init__(self, owned: "OwnedRun", *, as_json: bool) -> None:
        self._owned = owned
        self._spec = owned.spec
        self._stdout_fd = 2 if as_json else 1
        self._terminal: Terminal | None = None
        self._line = QueueStatusLine()

    def waits(self, reason: str) -> None:
        """Show what the run is queued for."""
        self._line.show(f"run {self._spec.id} queued: {reason}")

    def begins(self, plan: "SessionPlan") -> "Terminal":
        """A session starts; what is returned observes it."""
        from backprop.views.terminal.live_line import Terminal

        self._line.end()
        say(planned_start_line(self._spec, plan))
        self._terminal = Terminal(stdout_fd=self._stdout_fd, stderr_fd=2)
        return self._terminal

    def ended(self, outcome: "Outcome") -> None:
        """Show how a session ended."""
        if self._terminal is not None:
            self._terminal.close()
        say_end(self._owned, outcome.session)
        say_failure(self._owned.rundir, outcome.session, is_seen=True)

    def message(self, text: str) -> None:
        """Show a message on a line of its own."""
        self._line.end()
        say(text)
