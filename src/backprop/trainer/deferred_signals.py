"""SIGINT and SIGTERM while somebody else's loop runs: they wait for the end of a step, or of a save.

A KeyboardInterrupt in the middle of a save leaves half a file; in the middle of a step it loses all since the last
save. The supervisor sends SIGINT when the timebox ends, and SIGTERM late in the grace: the first is an invitation to
stop at the end of the step, which whoever drives the loop accepts; only the second breaks off. Nothing is ever saved
in a signal handler: it may have interrupted whoever holds the lock that saving needs.

Signals only ever come to the main thread. A loop that runs in another is asked in the same way, if `listen` was called
in the main thread before; and when it was stopped, the main thread is ended by a SIGINT to itself.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from contextlib import contextmanager
from typing import Any, Callable, Iterator, Optional

_AGAIN_AFTER_S = 0.01


class Interrupts:
    """What was asked by signal so far. Handlers of the script's own are left alone."""

    def __init__(self, is_stop_wanted: Callable[[], bool]) -> None:
        """is_stop_wanted: whether the supervisor wants us to stop, as of now."""
        self._is_stop_wanted = is_stop_wanted
        self.is_asked = False
        self._is_held = 0  # somebody saves
        self._is_due = False  # a KeyboardInterrupt, once nobody saves any more
        self._is_fatal = False  # a SIGTERM that nobody announced, once nobody saves any more
        self._is_patient = 0  # somebody drives a loop, and stops at the end of a step
        self._stays = False  # for good
        self._pid = os.getpid()
        self._before_break: Optional[Callable[[], None]] = None
        self._ending: Optional[type[BaseException]] = None  # to be raised in the main thread, at the next SIGINT

    @property
    def is_holding(self) -> bool:
        """Whether somebody saves, and nothing is broken off."""
        return self._is_held > 0

    def watch(self, before_break: Callable[[], None]) -> None:
        """Have this called right before a KeyboardInterrupt ends the frames of the main thread."""
        self._before_break = before_break
        self.listen()

    def listen(self) -> None:
        """Handle SIGINT from here on, for loops in other threads: they cannot set handlers."""
        if self._can_handle() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._watched)

    def end_main_thread(self, ending: type[BaseException]) -> None:
        """Raise this in the main thread, whatever it is doing. To be called in another, whose loop was stopped.

        ending: a SystemExit, or KeyboardInterrupt. Where SIGINT is not ours to handle, the main thread gets what it
        gets from Ctrl-C; if that ends it, it ends as `ending` would have ended it.
        """
        main = threading.main_thread()
        if main.ident is None or not main.is_alive():  # the script came to its end, and Python waits for this thread
            if ending is KeyboardInterrupt:
                atexit.register(_die, signal.SIGINT)
            return
        self._ending = ending
        if ending is not KeyboardInterrupt:
            _end_by(ending)
        signal.pthread_kill(main.ident, signal.SIGINT)  # a real one: it also wakes a main thread that waits

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Within, a first interrupt only sets `is_asked`: the caller looks at it at the end of every step."""
        self._is_patient += 1
        try:
            with self._caught():
                yield
        finally:
            self._is_patient -= 1

    def stay_patient(self) -> None:
        """Be patient for good, because the script asks by itself, or because a loop ends as it was told to.

        An interrupt that comes after that has nothing to ask any more, and must not break off what is done after the
        loop, nor the end of the process.
        """
        if self._stays or not (_is_main_thread() or self._is_handling()):
            return
        self._stays = True
        self._is_patient += 1
        with self._caught():
            atexit.register(self._ignore)

    def _ignore(self) -> None:
        # Python gives up its handlers before the libraries take themselves down, which PyTorch's do for half a second
        if os.getpid() == self._pid and self._is_handling():
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, nothing is broken off; a KeyboardInterrupt that was due comes at the end."""
        self._is_held += 1
        try:
            with self._caught(), self._deaf_to_children():
                yield
        finally:
            self._is_held -= 1
            if not self._is_held:
                self._catch_up()  # also after a save that failed: an interrupt is not forgotten over that

    @contextmanager
    def _caught(self) -> Iterator[None]:
        before = {}
        if self._can_handle():
            # handlers of the script's own, or ours from further out, stay
            if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, self._watched):
                before[signal.SIGINT] = signal.signal(signal.SIGINT, self._interrupt)
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminate)
        try:
            yield
        finally:
            for number, handler in before.items():
                if not self._stays and signal.getsignal(number) in (self._interrupt, self._terminate):
                    signal.signal(number, handler)

    @contextmanager
    def _deaf_to_children(self) -> Iterator[None]:
        """Within, a child that dies breaks nothing off.

        PyTorch's data loader raises an error from SIGCHLD, wherever we are, when a SIGTERM to the whole tree ends one
        of its workers: torch/utils/data/_utils/signal_handling.py. It finds out by itself when it wants the next batch.
        """
        before = signal.getsignal(signal.SIGCHLD)
        is_ours = self._can_handle()
        is_theirs = (getattr(before, "__module__", None) or "").startswith("torch.utils.data")
        if not (is_ours and is_theirs):  # a handler of the script's own hears of every child
            yield
            return
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            yield
        finally:
            signal.signal(signal.SIGCHLD, before)

    def _is_handling(self) -> bool:
        return signal.getsignal(signal.SIGINT) in (self._watched, self._interrupt)

    def _can_handle(self) -> bool:
        """Whether handlers may be set here: in the main thread, and in no fork of the process that made this."""
        return _is_main_thread() and os.getpid() == self._pid

    def _interrupt(self, number: int, frame: Any) -> None:
        if os.getpid() != self._pid:  # a forked worker has our handlers too
            signal.default_int_handler(number, frame)
        if self._ending is None:
            is_first, self.is_asked = not self.is_asked, True
            if self._is_patient and is_first:
                return
        self._break_off()

    def _watched(self, number: int, frame: Any) -> None:
        # the same, under a name of its own: a loop of the main thread puts it back
        self._interrupt(number, frame)

    def _terminate(self, number: int, _: Any) -> None:
        if os.getpid() != self._pid:
            _die(number)
        if self.is_asked:
            self._break_off()
        elif self._is_patient and self._is_stop_wanted():
            # whoever started us died of the SIGINT that was meant for all of us, as `accelerate launch` does
            self.is_asked = True
        elif self._is_held:
            self._is_fatal = True
        else:
            _die(number)

    def _catch_up(self) -> None:
        if self._is_fatal:
            _die(signal.SIGTERM)
        if self._is_due:
            self._break_off()

    def _break_off(self) -> None:
        self._is_due = bool(self._is_held)
        if self._is_held:
            return
        ending = self._ending or KeyboardInterrupt
        if not _is_main_thread():  # it was another that saved
            self.end_main_thread(ending)
            return
        self._ending = None
        if ending is KeyboardInterrupt and self._before_break is not None:
            self._before_break()
        raise ending


def send_again() -> None:
    """Send an interrupt that Python dropped once more; if what dropped it is not over by then, it is dropped again."""
    timer = threading.Timer(_AGAIN_AFTER_S, os.kill, (os.getpid(), signal.SIGINT))
    timer.daemon = True
    timer.start()


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _end_by(ending: type[BaseException]) -> None:
    """Let a KeyboardInterrupt that nobody catches end the process like this SystemExit: with its code, and quietly."""
    chained = sys.excepthook

    def excepthook(kind: Any, value: Any, traceback: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            raise ending
        chained(kind, value, traceback)

    sys.excepthook = excepthook


def _die(number: int) -> None:
    """End by this signal, as if we were not there."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
