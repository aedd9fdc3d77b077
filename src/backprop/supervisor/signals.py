"""Signals to the supervisor as a queue that its loop reads, so that none of them ends it before its trainer."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator

from backprop.supervisor import early_sigint

# All that could end the supervisor before its trainer. All but SIGINT and SIGTSTP mean: stop.
_SIGNALS = {
    signal.SIGINT,
    signal.SIGTSTP,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
}
DOUBLE_PRESS_S = 0.2  # a second SIGINT within this time is the first one again: some wrappers forward it
_ENDS_A_COMMAND = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGQUIT})


class Signals:
    """Signals to the supervisor as a queue; also wakes the loop when a child dies. Use it in the main thread."""

    def __init__(self, *, ignore_hangup: bool) -> None:
        """ignore_hangup: ignore SIGHUP even where this process did not inherit that."""
        self._received: list[signal.Signals] = []
        # set by `nohup` and `trap '' HUP`: a trainer without a supervisor would ignore it, too
        self.inherits_ignored_hangup = not ignore_hangup and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        self._ignored = {signal.SIGHUP} if ignore_hangup or self.inherits_ignored_hangup else set()

    @contextlib.contextmanager
    def caught(self) -> Iterator["Signals"]:
        """Between entering and leaving, signals land here instead of ending the process.

        Also where the parent of this process had blocked them.
        """
        self._wake_reader, wake_writer = os.pipe()
        os.set_blocking(self._wake_reader, False)
        os.set_blocking(wake_writer, False)
        before_fd = signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        before = {
            number: signal.signal(number, signal.SIG_IGN if number in self._ignored else self._handle)
            for number in (*_SIGNALS, signal.SIGCHLD)
        }
        blocked_before = signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
        if early_sigint.take_dropped():
            self._received.append(signal.SIGINT)
        try:
            yield self
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(before_fd)
            os.close(self._wake_reader)
            os.close(wake_writer)

    def _handle(self, number: int, _frame: object) -> None:
        if number != signal.SIGCHLD:
            self._received.append(signal.Signals(number))

    def wait(self, timeout_s: float, reader: int | None = None) -> None:
        """Sleep until a signal comes, a child dies, there is something to read, or the time is over."""
        poll = select.poll()  # select() cannot watch descriptors above 1023
        poll.register(self._wake_reader, select.POLLIN)
        if reader is not None:
            poll.register(reader, select.POLLIN)
        if poll.poll(max(0.0, timeout_s) * 1000):
            with contextlib.suppress(BlockingIOError):
                while os.read(self._wake_reader, 512):
                    pass

    @property
    def want_end(self) -> bool:
        """For a command that starts something: whether `take_end` will return True."""
        return not _ENDS_A_COMMAND.isdisjoint(self._received)

    def rest(self, duration_s: float) -> None:
        """Sleep until the command is to end, or the time is over. A child that dies does not end the sleep."""
        until = time.monotonic() + duration_s
        while not self.want_end and (left_s := until - time.monotonic()) > 0:
            self.wait(left_s)

    def take_end(self) -> bool:
        """For a command that starts something: whether it is to end. Ctrl-Z suspends it here."""
        taken = self.take()
        if signal.SIGTSTP in taken:
            os.kill(os.getpid(), signal.SIGSTOP)
        return not _ENDS_A_COMMAND.isdisjoint(taken)

    def take(self) -> list[signal.Signals]:
        """The signals since the last call, oldest first."""
        taken, self._received = self._received, []
        return taken
