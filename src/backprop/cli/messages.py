"""Messages about a run from the process that started it: that it is queued, starts and ends; and its document."""

import os
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from backprop.cli.context import is_valid, print_json, say
from backprop.records import Gpu, RunSpec, RunView, Session, Status, in_minutes
from backprop.text import printable
from backprop.views.terminal import formatting

if TYPE_CHECKING:
    from backprop.lifecycle.admission import NotAdmitted
    from backprop.lifecycle.owned_run import OwnedRun
    from backprop.supervisor.plan import Outcome, SessionPlan


def say_if_refused(owned: "OwnedRun", result: "Outcome | NotAdmitted") -> None:
    """Say why a run had no session, where it had none."""
    from backprop.lifecycle.admission import NotAdmitted

    if isinstance(result, NotAdmitted):
        say(f"run {owned.spec.id} was not started: {result.reason}")


class QueueStatusLine:
    """One line with what a run is queued for, rewritten in a terminal; in a pipe a line for each kind of reason."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._is_open = False
        self._shown_words = ""

    def show(self, text: str) -> None:
        """Show this in the place of what was shown before."""
        if self._is_terminal:
            line = f"backprop: {printable(text)}"[: shutil.get_terminal_size().columns - 1]
            print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)
            self._is_open = True
            return
        words = "".join(character for character in text if not character.isdigit())
        if words != self._shown_words:  # not for every figure that changes
            self._shown_words = words
            say(text)

    def end(self) -> None:
        """Let the next message begin on a line of its own."""
        if self._is_open:
            self._is_open = False
            print(file=sys.stderr, flush=True)


def start_line(spec: RunSpec, timebox_s: float, began_at: datetime, gpus: Sequence[Gpu] = ()) -> str:
    """The message when a session starts: until when, and on which GPUs."""
    ends_at = (began_at + timedelta(seconds=timebox_s)).astimezone()
    day = "" if ends_at.date() == datetime.now().astimezone().date() else f"{ends_at:%Y-%m-%d} "
    cards = "".join(f" · GPU {gpu.index} ({gpu.name})" for gpu in gpus)
    timebox = f"timebox {in_minutes(timebox_s)}, ends {day}{ends_at:%H:%M:%S}"
    return f"run {spec.id}{cards} · {timebox} (change it with -m MINUTES)"


def planned_start_line(spec: RunSpec, plan: "SessionPlan") -> str:
    """The message when a session starts that is about to."""
    return start_line(spec, plan.limits.timebox_s, datetime.now(timezone.utc), plan.gpus or ())


def say_end(owned: "OwnedRun", session: Session) -> None:
    """Show how a session ended, and how to continue."""
    spec, view = owned.spec, owned.recorder.view()
    message = f"run {spec.id} {session.status.value} after {formatting.duration(session.elapsed_s)}"
    if view is not None and view.last_step is not None:
        message += f" at step {view.last_step:,}"
    if why := session.full_reason:
        message += f": {why}"
    has_checkpoint = view is not None and any(not checkpoint.is_emergency for checkpoint in view.checkpoints)
    if session.status is not Status.COMPLETED:
        if has_checkpoint:
            message += f" · resume with: backprop resume {spec.id}"
            if (option := session.resume_option) is not None:
                message += f" · this script has {option.partition('=')[0]}; resume with --resume-arg {option}"
        elif session.status is not Status.FAILED:
            message += f" · no checkpoint was found; resume with: backprop resume {spec.id}"
            message += " (starts over, unless the script finds one by itself)"  # or skips what it has finished
    say(message)


def print_document(owned: "OwnedRun") -> None:
    """Print a run as JSON, as far as its record is known. Raises OSError."""
    from backprop.views.documents import run_json

    document = run_json.run_document(owned.recorder.newest_view(), datetime.now(timezone.utc), is_valid)
    print_json(document, has_result=True)


def print_documents(views: Sequence[RunView], *, is_full: bool) -> None:
    """The same for several runs, in an array. is_full: with all fields."""
    from backprop.views.documents import run_json

    now = datetime.now(timezone.utc)
    documents = [run_json.run_document(view, now, is_valid) for view in views]
    print_json(documents, short=() if is_full else run_json.SHORT, has_result=True)
