"""The machine we are on as an engine: a supervisor of its own for each run, in the background."""

import os
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from backprop import host
from backprop.engines.base import Observation, Order, Phase
from backprop.records import Run
from backprop.store.holder import signal_holder
from backprop.store.home import Home
from backprop.store.journal.file import Journal


class Here:
    """Fulfils engines.contract.Engine. A run's kernel lock tells whether anybody answers for it."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._orders: dict[str, Order] = {}

    def submit(self, orders: Sequence[Order]) -> list[str]:
        """The runs' ids: nothing begins before `release`."""
        self._orders |= {order.spec.id: order for order in orders}
        return [order.spec.id for order in orders]

    def release(self, words: Sequence[str]) -> None:
        """Fork a supervisor for each, that survives this terminal. It has our open files, the run's lock among them."""
        sys.stdout.flush()
        for word in words:
            if os.fork() == 0:
                _work(self._orders[word])

    def cancel(self, run: Run) -> None:
        """Kill the supervisor; the kernel and whoever looks next end the rest. Nothing, if it is on another machine."""
        who = run.waiter or run.last_session
        if who is not None and who.host == host.name():
            signal_holder(self._home.rundir(run.spec.id).journal_path, who.supervisor_pid, signal.SIGKILL)

    def observe(self, run: Run) -> Observation:
        journal = Journal(self._home.rundir(run.spec.id).journal_path)
        try:
            is_free = journal.try_lock()
        finally:
            journal.close()
        return Observation(phase=Phase.ENDED if is_free else Phase.RUNNING)


def _work(order: Order) -> NoReturn:
    code = 1
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        log = null
        with suppress(OSError):  # it trains without a log, or tells whoever started it why it cannot
            log = os.open(order.rundir.supervisor_log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for source, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(source, target)
        code = order.work()
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        with suppress(OSError):  # a log on a full disk
            sys.stderr.flush()
        os._exit(code)  # the parent's cleanup is the parent's business
