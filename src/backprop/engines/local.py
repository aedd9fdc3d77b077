"""The local machine as an engine: a supervisor in the background for each run."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import closing, suppress
from typing import NoReturn

from backprop import host
from backprop.engines.base import Observation, Phase, Submission
from backprop.errors import BackpropError
from backprop.records import Run
from backprop.store.files import open_to_append
from backprop.store.holder import signal_holder
from backprop.store.home import Home
from backprop.store.journal.file import Journal


class LocalEngine:
    """Implements `engines.base.Engine`. The kernel lock on a run's journal shows whether its supervisor is alive."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._submissions: dict[str, Submission] = {}

    def submit(self, submissions: Sequence[Submission]) -> list[str]:
        """Returns the runs' ids. Nothing starts before `release`."""
        self._submissions |= {one.spec.id: one for one in submissions}
        return [one.spec.id for one in submissions]

    def release(self, ids: Sequence[str]) -> None:
        """Fork a supervisor for each, which survives this terminal. It inherits open files, and so the run's lock.

        Raises BackpropError when no process can be started.
        """
        sys.stdout.flush()
        for run_id in ids:
            try:
                pid = os.fork()
            except OSError as error:
                raise BackpropError(f"the supervisor of run {run_id} {host.why_not_started(error)}.") from error
            if pid == 0:
                _work(self._submissions[run_id])

    def cancel(self, run: Run) -> None:
        """Kill the supervisor; the kernel and the next command end the rest. Does nothing on another machine."""
        who = run.waiter or run.last_session
        if who is not None and who.host == host.name():
            signal_holder(self._home.rundir(run.spec.id).journal_path, who.supervisor_pid, signal.SIGKILL)

    def observe(self, run: Run) -> Observation:
        """ENDED if no process holds the lock on the journal, else RUNNING. Never blocks."""
        with closing(Journal(self._home.rundir(run.spec.id).journal_path)) as journal:
            is_owned = journal.is_owned()
        return Observation(phase=Phase.RUNNING if is_owned else Phase.ENDED)


def _work(submission: Submission) -> NoReturn:
    code = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        log = null
        with suppress(OSError):  # it trains without a log, or reports to its parent why it cannot
            log = open_to_append(submission.rundir.supervisor_log_path)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        code = submission.work()
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        with suppress(OSError):  # a log on a full disk
            sys.stderr.flush()
        os._exit(code)  # the parent's cleanup is the parent's business
