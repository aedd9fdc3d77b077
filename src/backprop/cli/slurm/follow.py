"""A run that Slurm executes, shown as if it ran here: queued, its output and pauses, its end; and Ctrl-C.

What is shown is read from the run's folder; Slurm is asked for what no file has.
"""

import os
import signal
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import datetime, timezone

from backprop import engines
from backprop.cli import messages
from backprop.cli.context import say, say_failure
from backprop.engines.base import Phase
from backprop.engines.slurm import client as slurm_client
from backprop.errors import BackpropError, ExitCode, NoSuchRunError
from backprop.lifecycle import continuation, indexing, recovery, run_state
from backprop.lifecycle.owned_run import OwnedRun
from backprop.records import Run, Session, Source, in_minutes
from backprop.store.journal import file as journals
from backprop.store.journal.entries import (
    Entry,
    MessageShown,
    NotContinued,
    Queued,
    Refused,
    SessionEnded,
    SessionStarted,
    Submitted,
)
from backprop.store.journal.fold import fold
from backprop.store.output.progress import ProgressMeter
from backprop.store.output.protocol import digest
from backprop.store.output.tail import Tail
from backprop.store.rundir import RunDir
from backprop.supervisor.signals import DOUBLE_PRESS_S, Signals
from backprop.views.terminal.live_line import Terminal

_LOOK_EVERY_S = 0.25
_ASK_OF_A_WAITING_S = 2.0
_ASK_OF_A_RUNNING_S = 10.0  # of one that writes to its journal: its node may be lost
_AFTER_THE_END_S = 5.0  # how long a job that has ended a session may take to say that another follows


class Follower:
    """A user who waits for a run that Slurm executes."""

    def __init__(self, owned: OwnedRun, job: str, *, as_json: bool) -> None:
        self._owned = owned
        self._home = owned.home
        self._rundir = owned.rundir
        self._spec = owned.spec
        self._job = job
        self._stdout_fd = 2 if as_json else 1
        self._line = messages.QueueStatusLine()
        self._watched: _Watched | None = None
        self._shown = 0  # the newest session that was, or was there before
        self._has_shown = False
        self._waits_in_job: str | None = None  # for what, though its job has begun
        self._heard: int | None = None  # entries of the journal; None: none yet
        self._ask_slurm_at = 0.0
        self._ended_at: float | None = None
        self._interrupted_at: float | None = None

    # -- what it does

    def follow(self, signals: Signals) -> int:
        """Show session after session until there is nothing more to come; the exit code.

        Raises NoSuchRunError when the run is removed.
        """
        while True:
            signals.wait(_LOOK_EVERY_S)
            if self._handle_requests(signals.take()):
                return self._leave()
            run, entries = self._read()
            self._show(run, entries)
            code = self._end(run, entries)
            if code is not None:
                return code

    def look_for_refusal(self, patience_s: float, signals: Signals) -> int | None:
        """The exit code when Slurm can never place it; None once it has begun, or waits for something that may come.

        None, too, as soon as the user does not want it any more.
        """
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and not signals.want_end:
            run, _ = self._read()
            if run.waiter is None:
                return None
            engines.cluster().invalidate()
            seen = engines.cluster().observe(run)
            if seen.is_unsatisfiable:
                self._refresh()  # takes it out of the queue, unless it has begun meanwhile
                run, entries = self._read()
                has_begun = run.newest_number > self._newest_before(entries)
                return self._end(run, entries) if run.status.is_final and not has_begun else None
            if seen.message not in {None, slurm_client.HELD}:
                return None
            signals.rest(_LOOK_EVERY_S)
        return None

    # -- its parts

    def _read(self) -> tuple[Run, Sequence[Entry]]:
        entries, _ = journals.read(self._rundir.journal_path)
        if not entries and not self._rundir.path.exists():
            raise NoSuchRunError(f"run {self._spec.id} was removed.")
        return fold(self._spec, entries), entries

    def _show(self, run: Run, entries: Sequence[Entry]) -> None:
        """Show what has happened since the last call, in order, from the job's submission on."""
        if self._heard is None:
            self._heard = self._submitted_at(entries)
            self._shown = self._newest_before(entries)
        if self._watched is not None:
            self._watched.look(run)
        news, self._heard = entries[self._heard :], len(entries)
        for entry in news:
            if isinstance(entry, (Queued, Submitted)):
                self._waits_in_job = entry.reason if isinstance(entry, Queued) else None
            elif isinstance(entry, SessionStarted):
                self._begin(run, entry.session)
            elif isinstance(entry, MessageShown):
                self._pass_on(entry.text)
            elif isinstance(entry, SessionEnded):
                self._finish(run, entry.session)
        for session in run.sessions:  # an entry that a shared file system showed late was passed over
            self._begin(run, session.number)
            if session.status.is_final:
                self._finish(run, session.number)

    def _submitted_at(self, entries: Sequence[Entry]) -> int:
        """How many entries are older than its job's submission. Ids start over when a controller loses its state."""
        submitted = (
            number
            for number, one in enumerate(entries, start=1)
            if isinstance(one, Submitted) and one.job == self._job and not one.is_again
        )
        return max(submitted, default=0)

    def _newest_before(self, entries: Sequence[Entry]) -> int:
        """The number of the newest session that began before the job was submitted; 0: none."""
        return fold(self._spec, entries[: self._submitted_at(entries)]).newest_number

    def _begin(self, run: Run, number: int) -> None:
        if number <= self._shown:
            return
        if self._watched is not None:
            self._finish(run, self._watched.number)
        self._shown, self._has_shown, self._waits_in_job = number, True, None
        self._line.end()
        session = _session(run, number)
        started = messages.start_line(self._spec, session.timebox_s, session.started_at)
        say(f"{started} · Slurm job {session.job} on {session.where}")
        self._watched = _Watched(self._rundir, session, self._stdout_fd)

    def _finish(self, run: Run, number: int) -> None:
        if self._watched is None or self._watched.number != number:
            return
        self._watched.look(run)
        self._watched.close()
        self._watched = None
        self._refresh()
        if (session := _session(run, number)).status.is_final:
            messages.say_end(self._owned, session)
            say_failure(self._rundir, session, is_seen=True)

    def _pass_on(self, text: str) -> None:
        """A message of the supervisor to the user."""
        if self._watched is not None:
            self._watched.say(text)
        else:
            self._line.end()
            say(text)

    def _end(self, run: Run, entries: Sequence[Entry]) -> int | None:
        """The exit code once the run has ended for good."""
        if not run.status.is_final:
            self._ended_at = None
            self._look_after_it(run)
            return None
        if self._watched is not None:
            return None
        now = time.monotonic()
        self._ended_at = self._ended_at or now
        if continuation.remaining(run, entries) is not None:
            if now - self._ended_at < _AFTER_THE_END_S:
                return None
            if recovery.is_about_to_requeue(self._rundir, run):
                self._ended_at = now
                return None
        self._line.end()
        self._refresh()
        if self._has_shown:
            self._say_why_none_follows(entries)
        else:
            refused = next((entry for entry in reversed(entries) if isinstance(entry, Refused)), run)
            say(f"run {self._spec.id} was not started: {refused.reason}")
            if self._interrupted_at is not None:
                return ExitCode.INTERRUPTED  # it has left the queue
            if run.last_session is not None:
                return ExitCode.REFUSED  # and it is what its last session came to
        code, last = run_state.exit_code_of(run), run.last_session
        is_stopped_by_us = self._interrupted_at is not None and last is not None and last.stopped_by is not None
        return ExitCode.INTERRUPTED if code == ExitCode.OK and is_stopped_by_us else code

    def _say_why_none_follows(self, entries: Sequence[Entry]) -> None:
        """Say why the session that was due never started, unless its supervisor has."""
        kinds = SessionEnded, Refused, NotContinued, MessageShown
        newest = next((entry for entry in reversed(entries) if isinstance(entry, kinds)), None)
        if isinstance(newest, Refused):
            say(f"run {self._spec.id} is not continued: {newest.reason}")
        elif isinstance(newest, NotContinued):
            say(f"run {self._spec.id}: {newest.reason}")

    def _look_after_it(self, run: Run) -> None:
        """Notice what Slurm knows and the journal does not: why it waits, or that nothing will come; show the first."""
        if time.monotonic() < self._ask_slurm_at:
            return
        self._ask_slurm_at = time.monotonic() + (_ASK_OF_A_WAITING_S if self._watched is None else _ASK_OF_A_RUNNING_S)
        seen = engines.cluster().observe(run)
        if seen.phase is Phase.ENDED or (run.waiter is not None and seen.is_unsatisfiable):
            self._line.end()
            self._refresh()  # records its end, or takes it out of the queue: unless it has ended or begun meanwhile
            return
        engines.cluster().hurry(run, seen)
        if self._watched is None:
            begun = self._waits_in_job or "about to start"
            why = seen.message or (begun if seen.phase is Phase.RUNNING else "queued")
            self._line.show(f"run {self._spec.id} is Slurm job {self._job}: {why}")

    def _refresh(self) -> None:
        with closing(indexing.open_home(self._home, say)) as index:
            indexing.refresh(self._home, index, self._rundir, say)

    # -- the user

    def _handle_requests(self, received: Sequence[signal.Signals]) -> bool:
        """True when this process is to exit; the run continues."""
        for number in received:
            if number is signal.SIGINT:
                self.stop()
            elif number is signal.SIGTSTP:
                self._suspend()
            else:
                return True
        return False

    def stop(self) -> None:
        """Ask the run to stop, as Ctrl-C does; asked again, to be killed."""
        from backprop.lifecycle import requests

        first = self._interrupted_at
        if first is not None and time.monotonic() - first <= DOUBLE_PRESS_S:
            return
        run, _ = self._read()
        if requests.supervisor_to_stop(self._home, run) is None:
            return
        self._line.end()
        message = "stopping gracefully; press Ctrl-C again to kill"
        try:
            if first is None:
                requests.request_stop(self._home, run, by="Ctrl-C")
            else:
                message = ""
                say("killing")
                requests.stop_now(self._home, run, say, by="Ctrl-C, twice")
        except BackpropError as error:  # Slurm does not answer, or holds it; or it has ended just now
            message = str(error)
        # what came while Slurm was asked is the same press; what comes after the message is another
        self._interrupted_at = first or time.monotonic()
        if message:
            say(message)

    def _suspend(self) -> None:
        """Ctrl-Z: pause the run, and stop this process; continue both at `fg` or `bg`."""
        from backprop.lifecycle import requests

        run, _ = self._read()
        is_held = False
        if run.waiter is None and not run.status.is_final:
            try:
                requests.request_pause(self._home, run, by="Ctrl-Z")
                is_held = True
                say(
                    f"paused until fg, at most {in_minutes(run.spec.limits.max_pause_s)} in total (--max-pause-minutes)"
                )
            except BackpropError as error:  # it cannot be held, or is already
                say(str(error))
        os.kill(os.getpid(), signal.SIGSTOP)
        if is_held:
            with suppress(BackpropError):  # it has ended meanwhile, or was resumed by another user
                requests.request_resume(self._home, run, by="fg after Ctrl-Z")

    def _leave(self) -> int:
        if self._watched is not None:
            self._watched.close()
        self._line.end()
        say(f"run {self._spec.id} continues as Slurm job {self._job} · follow with: backprop logs {self._spec.id} -f")
        return ExitCode.OK


def _session(run: Run, number: int) -> Session:
    return next(session for session in run.sessions if session.number == number)


class _Watched:
    """One session whose output lies, and grows, in files that another machine writes."""

    def __init__(self, rundir: RunDir, session: Session, stdout_fd: int) -> None:
        self.number = session.number
        self._meter = ProgressMeter()
        events = [source for source in Source if source is not Source.USAGE]
        self._tails = [Tail(rundir.source_path(session.number, source), 0) for source in events]
        self._paths = rundir.out_path(session.number), rundir.err_path(session.number)
        self._stdout_fd = stdout_fd
        self._terminal: Terminal | None = None

    def look(self, run: Run) -> None:
        """Bring the live line up to date, in which a pause does not count."""
        if self._terminal is None and all(path.exists() for path in self._paths):
            self._terminal = Terminal(stdout_fd=self._stdout_fd, stderr_fd=2)
            self._terminal.started(*self._paths)
        for tail in self._tails:
            if (stretch := tail.read()) is not None:
                self._meter.observe(digest(stretch.data, stretch.start), time.monotonic())
                tail.move_to(stretch.end)
        if self._terminal is not None:
            session = _session(run, self.number)
            left_s = session.timebox_s - session.trained_s(datetime.now(timezone.utc))
            self._terminal.looked(self._meter.progress, left_s)

    def say(self, text: str) -> None:
        """Among the output, in its place."""
        if self._terminal is not None:
            self._terminal.message(text)
        else:
            say(text)

    def close(self) -> None:
        if self._terminal is not None:
            self._terminal.close()
