"""Runs that are running though their record was removed, or moved away: `stop` still reaches them.

Their supervisors still have the journal open, and handle what is written into it. Linux shows the file in /proc.
"""

import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from datetime import datetime, timezone
from pathlib import Path

import psutil
from psutil import Process

from backprop import host
from backprop.errors import BackpropError, BusyError
from backprop.lifecycle import indexing, requests, run_state
from backprop.records import RunView, StopReason
from backprop.store.holder import signal_holder
from backprop.store.home import Home
from backprop.store.journal.entries import StopRequested
from backprop.store.journal.file import Journal
from backprop.store.journal.fold import fold, fold_on
from backprop.store.rundir import LAST, RunDir
from backprop.supervisor.process import tree
from backprop.supervisor.process.launch import RUN_DIR_VARIABLE

_PROC = Path("/proc")
_DELETED = " (deleted)"  # what the kernel adds to the name of an open file that has none any more: proc_pid_fd(5)
_JOURNAL = re.compile(r".*/([^/]+)/journal\.jsonl(?: \(deleted\))?")
_POLL_S = 0.05


class RemovedRun:
    """A run whose journal was removed, as its supervisor still writes it."""

    def __init__(self, rundir: RunDir, journal_fd: int) -> None:
        self.run_id = rundir.run_id
        self._run_dir = str(rundir.path)  # the mark of its processes
        self._open_path = _own_path(journal_fd)
        self._journal = Journal(rundir.journal_path, fd=journal_fd)
        self._run = fold(indexing.unknown_spec(rundir.run_id, time.time(), "?"), ())

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def look(self) -> run_state.RunState:
        """The present state."""
        self._run = fold_on(self._run, self._journal.read_new())
        return run_state.RunState(self._run)

    def view(self) -> RunView:
        """For display."""
        return RunView(run=self.look().run, run_dir=self._run_dir)

    def is_called(self, word: str) -> bool:
        """Whether the word of a command line means this run."""
        return word in {LAST, self.look().run.spec.name} or self.run_id.startswith(word)

    def request_stop(self, *, now: bool, by: str) -> run_state.SupervisorInfo:
        """Ask it to stop. Does not wait. Raises BackpropError when it has ended, or the disk is full."""
        run = self.look().run
        if (answering := run_state.current_supervisor(run)) is None:
            raise requests.not_running(run)
        detail, at = requests.asked_by(by), datetime.now(timezone.utc)
        asked = StopRequested(at=at, session=answering.session, by=StopReason.USER, detail=detail, now=now)
        if not self._journal.append(asked):
            raise BackpropError(f"the disk is full: run {self.run_id} cannot be asked to stop.")
        signal_holder(self._open_path, answering.pid, signal.SIGCONT)  # it may be suspended by Ctrl-Z
        return answering

    def wait_for_end(self, timeout_s: float) -> run_state.RunState | None:
        """How it ended; None when it still runs after the timeout."""
        deadline = time.monotonic() + timeout_s
        while not (standing := self.look()).has_ended:
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_S)
        return standing

    def stop_now(self, *, by: str) -> str:
        """Kill it, and its supervisor too if that does not answer; what came of it. Raises BackpropError."""
        answering = self.request_stop(now=True, by=by)
        ended = self.wait_for_end(requests.STOP_NOW_S)
        if ended is not None:
            return self.summary(ended)
        signal_holder(self._open_path, answering.pid, signal.SIGKILL)
        tree.end_orphans(lambda: tree.orphans(self._run_dir, ()), 0.0)
        if not self._journal.try_lock():
            raise BusyError(
                f"run {self.run_id} has not stopped yet: its supervisor, process {answering.pid}, is alive."
            )
        return f"run {self.run_id} was killed with its supervisor, which did not respond"

    def summary(self, ended: run_state.RunState) -> str:
        """How it ended, in one line."""
        return f"{ended.summary} (its record was removed)"


def removed_runs(home: Home) -> Sequence[RemovedRun]:
    """The runs of this home that are running on this machine though their journals are not in it any more (Linux).

    Looks at every process that we may look into. To be closed by the caller.
    """
    if sys.platform != "linux" or host.table_problem() is not None:
        return []
    found: dict[str, RemovedRun] = {}
    for path in _descriptors():
        with suppress(OSError):  # it has ended, or is not ours to look into
            name = os.readlink(path)  # noqa: PTH115  a name, not a path
            match = _JOURNAL.fullmatch(name)
            if match is None or match[1] in found:
                continue
            rundir = home.rundir(match[1])
            if rundir.journal_path.exists() or not _is_of(rundir, name, int(path.parts[-3])):
                continue
            fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            if os.readlink(_own_path(fd)) == name:  # noqa: PTH115  else the number is another process's by now
                found[rundir.run_id] = RemovedRun(rundir, fd)
            else:
                os.close(fd)
    running = []
    for run in found.values():
        if run.look().has_ended:
            run.close()
        else:
            running.append(run)
    return running


def _descriptors() -> Iterator[Path]:
    """What all processes have open, in /proc; not of such as end meanwhile, or are not ours to look into."""
    for folder in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            yield from list((folder / "fd").iterdir())


def _is_of(rundir: RunDir, name: str, pid: int) -> bool:
    """Whether the journal that a process has open is this run's: by its name; of one that was moved, by the mark.

    name: as the kernel has it.
    """
    if name == f"{rundir.journal_path}{_DELETED}":
        return True
    with suppress(psutil.Error):
        return any(child.environ().get(RUN_DIR_VARIABLE) == str(rundir.path) for child in Process(pid).children())
    return False


def _own_path(fd: int) -> Path:
    """A path of a file that this process has open: it leads there, whatever becomes of the file's names."""
    return _PROC / "self" / "fd" / str(fd)


def sentences(home: Home) -> list[str]:
    """Messages about such runs, for a user who finds no run in this home."""
    run_ids = []
    for run in removed_runs(home):
        with closing(run):
            run_ids.append(run.run_id)
    return [
        f"Run {run_id} is running although its record was removed; to stop it: backprop stop {run_id}"
        for run_id in sorted(run_ids)
    ]
