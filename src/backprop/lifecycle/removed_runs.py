"""Runs that are running though their record was removed: nothing on disk tells of them, and `stop` still reaches them.

Their supervisors have the journal open all the same, and hear what is written into it. Linux shows the file in /proc.
"""

import signal
import time
from collections.abc import Sequence
from datetime import datetime, timezone

from backprop.errors import BackpropError, BusyError
from backprop.lifecycle import recovery, requests, run_state
from backprop.records import RunView, StopReason
from backprop.store.holder import open_removed_journals, own_path, signal_holder
from backprop.store.home import Home
from backprop.store.journal.entries import StopAsked
from backprop.store.journal.file import Journal
from backprop.store.journal.fold import fold, fold_on
from backprop.store.rundir import LAST, RunDir
from backprop.supervisor.process import tree

_POLL_S = 0.05


class RemovedRun:
    """A run whose journal was removed, as its supervisor still writes it."""

    def __init__(self, rundir: RunDir, journal_fd: int) -> None:
        self.run_id = rundir.run_id
        self._run_dir = str(rundir.path)  # the mark of its processes
        self._open_path = own_path(journal_fd)
        self._journal = Journal(rundir.journal_path, fd=journal_fd)
        self._run = fold(recovery.unknown_spec(rundir.run_id, time.time(), "?"), ())

    def look(self) -> run_state.Standing:
        """How the run stands now."""
        self._run = fold_on(self._run, self._journal.read_new())
        return run_state.Standing(self._run)

    def view(self) -> RunView:
        """What a view may show of it."""
        return RunView(run=self.look().run, run_dir=self._run_dir)

    def is_called(self, word: str) -> bool:
        """Whether the word of a command line means this run."""
        return word in {LAST, self.look().run.spec.name} or self.run_id.startswith(word)

    def ask_stop(self, *, now: bool, by: str) -> run_state.Answering:
        """Ask it to stop. Does not wait. Raises BackpropError when it has ended, or the disk is full."""
        run = self.look().run
        if (answering := run_state.who_answers(run)) is None:
            raise requests.not_running(run)
        detail, at = requests.asked_by(by), datetime.now(timezone.utc)
        asked = StopAsked(at=at, session=answering.session, by=StopReason.USER, detail=detail, now=now)
        if not self._journal.append(asked):
            raise BackpropError(f"the disk is full: run {self.run_id} cannot be asked to stop.")
        signal_holder(self._open_path, answering.pid, signal.SIGCONT)  # it may be suspended by Ctrl-Z
        return answering

    def wait_for_end(self, timeout_s: float) -> run_state.Standing | None:
        """How it ended; None when it still runs after the timeout."""
        deadline = time.monotonic() + timeout_s
        while not (standing := self.look()).has_ended:
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_S)
        return standing

    def stop_now(self, *, by: str) -> str:
        """Kill it, and its supervisor too if that does not answer; what came of it. Raises BackpropError."""
        answering = self.ask_stop(now=True, by=by)
        ended = self.wait_for_end(requests.STOP_NOW_S)
        if ended is not None:
            return self.summary(ended)
        signal_holder(self._open_path, answering.pid, signal.SIGKILL)
        tree.end_orphans(lambda: tree.orphans(self._run_dir, ()), 0.0)
        if not self._journal.try_lock():
            raise BusyError(
                f"run {self.run_id} has not stopped yet: its supervisor, process {answering.pid}, is alive."
            )
        return f"run {self.run_id} was killed, and its supervisor, which did not answer"

    def summary(self, ended: run_state.Standing) -> str:
        """How it ended, in one line."""
        return f"{ended.told} (its record was removed while it ran)"


def removed_runs(home: Home) -> Sequence[RemovedRun]:
    """The runs of this home that are running on this machine though their journals were removed."""
    opened = open_removed_journals(home.runs_path)
    found = [RemovedRun(home.rundir(run_id), fd) for run_id, fd in opened.items()]
    return [run for run in found if not run.look().has_ended]
