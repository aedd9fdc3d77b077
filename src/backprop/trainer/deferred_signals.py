"""SIGINT and SIGTERM during training and saves: they are deferred to the end of the step, or of the save.

A KeyboardInterrupt in the middle of a save leaves half a file; in the middle of a step it loses everything since the
last save. The supervisor sends SIGINT when the timebox ends, and SIGTERM late in the grace period: a hook answers the
first by stopping at the end of the step; only the second interrupts at once. Nothing is ever saved in a signal handler:
it may have interrupted code that holds a lock which saving needs.

Python runs signal handlers in the main thread only. A loop in another thread works the same way if `listen` was called
in the main thread before; after it was stopped, the main thread is ended by a SIGINT to itself.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, Callable, Iterator, Optional

from .thread_frames import thread_frames

_AGAIN_AFTER_S = 0.01


class DeferredSignals:
    """The signals that came so far, and what to do about them. The script's own handlers are left in place."""

    def __init__(self, is_stop_wanted: Callable[[], bool]) -> None:
        """is_stop_wanted: whether the supervisor requests a stop, as of now."""
        self._is_stop_wanted = is_stop_wanted
        self.is_interrupted = False
        self._is_held = 0  # how many saves are being written
        self._is_due = False  # a KeyboardInterrupt is raised when the last save ends
        self._is_fatal = False  # the process ends by an unexpected SIGTERM when the last save ends
        self._is_patient = 0  # how many loops are driven that stop at the end of a step
        self._stays = False  # patient until the process ends
        self._pid = os.getpid()
        self._before_break: Optional[Callable[[], None]] = None
        self._ending: Optional[type[BaseException]] = None  # to be raised in the main thread, at the next SIGINT

    @property
    def is_holding(self) -> bool:
        """Whether a save is being written, and interrupts are deferred."""
        return self._is_held > 0

    def watch(self, before_break: Callable[[], None]) -> None:
        """Call this right before a KeyboardInterrupt is raised in the main thread."""
        self._before_break = before_break
        self.listen()

    def listen(self) -> None:
        """Handle SIGINT from now on, for loops in other threads: they cannot set handlers."""
        if self._can_handle() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._watched)

    def end_main_thread(self, ending: type[BaseException]) -> None:
        """Raise an exception in the main thread, whatever it is doing. Called in the thread whose loop was stopped.

        ending: a SystemExit class, or KeyboardInterrupt. If the script handles SIGINT itself, the main thread gets the
        same as from Ctrl-C; if that ends it, the process exits as `ending` says.
        """
        main = threading.main_thread()
        if main.ident is None or not main.is_alive():  # the script has ended, and Python waits for this thread
            if ending is KeyboardInterrupt:
                atexit.register(_die, signal.SIGINT)
            return
        self._ending = ending
        if ending is not KeyboardInterrupt:
            _end_by(ending)
        signal.pthread_kill(main.ident, signal.SIGINT)  # a real signal: it also interrupts system calls

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Inside, the first interrupt only sets `is_interrupted`, which the caller checks at the end of every step."""
        self._is_patient += 1
        try:
            with self._caught():
                yield
        finally:
            self._is_patient -= 1

    def stay_patient(self) -> None:
        """Stay patient: the script checks `should_stop` by itself, or its loop is ending because of a stop.

        Further interrupts must not interrupt what the script does after the loop, nor the exit of the process.
        """
        if self._stays or not (is_main_thread() or self._is_handling()):
            return
        self._stays = True
        self._is_patient += 1
        with self._caught():
            atexit.register(self._ignore)

    def _ignore(self) -> None:
        # Python resets its handlers before libraries shut down, which takes PyTorch half a second
        if os.getpid() == self._pid and self._is_handling():
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside, nothing is interrupted; a KeyboardInterrupt that was due is raised at the end."""
        self._is_held += 1
        try:
            with self._caught(), self._deaf_to_children():
                yield
        finally:
            self._is_held -= 1
            if not self._is_held:
                self._catch_up()  # also after a save that failed

    @contextmanager
    def _caught(self) -> Iterator[None]:
        before = {}
        if self._can_handle():
            # the script's own handlers stay, and so do ours from an outer block
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
        """Inside, a child process that dies interrupts nothing.

        PyTorch's data loader raises an error from its SIGCHLD handler when a SIGTERM to the process tree ends one of
        its workers: torch/utils/data/_utils/signal_handling.py. It notices anyway when it needs the next batch.
        """
        before = signal.getsignal(signal.SIGCHLD)
        is_ours = self._can_handle()
        is_theirs = (getattr(before, "__module__", None) or "").startswith("torch.utils.data")
        if not (is_ours and is_theirs):  # the script's own handler must get every signal
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
        """Whether handlers may be set here: in the main thread, and not in a fork of the original process."""
        return is_main_thread() and os.getpid() == self._pid

    def _interrupt(self, number: int, frame: Any) -> None:
        if os.getpid() != self._pid:  # a forked worker inherits our handlers
            signal.default_int_handler(number, frame)
        if self._ending is None:
            is_first, self.is_interrupted = not self.is_interrupted, True
            if self._is_patient and is_first:
                return
        self._break_off()

    def _watched(self, number: int, frame: Any) -> None:
        # a second name tells `listen`'s handler from that of a loop, which restores this one
        self._interrupt(number, frame)

    def _terminate(self, number: int, _: Any) -> None:
        if os.getpid() != self._pid:
            _die(number)
        if self.is_interrupted:
            self._break_off()
        elif self._is_patient and self._is_stop_wanted():
            # our parent died of the SIGINT and sends us SIGTERM, as `accelerate launch` does
            self.is_interrupted = True
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
        if not is_main_thread():  # the save was in another thread
            self.end_main_thread(ending)
            return
        self._ending = None
        if ending is KeyboardInterrupt and self._before_break is not None:
            self._before_break()
        raise ending


def send_again(hook: CodeType) -> None:
    """Send an interrupt again that Python dropped. It may be dropped again, and is sent again then.

    hook: of `sys.unraisablehook`, which calls this. What comes while it runs is dropped for good.
    """
    threading.Thread(target=_send_after, args=(hook,), daemon=True).start()


def _send_after(hook: CodeType) -> None:
    codes = (hook, getattr(sys.unraisablehook, "__code__", None))  # the script may have put its own around it
    main: Any = threading.main_thread().ident
    is_in_hook = True
    while is_in_hook:
        time.sleep(_AGAIN_AFTER_S)
        frame: Optional[FrameType] = thread_frames().get(main)
        while frame is not None and frame.f_code not in codes:
            frame = frame.f_back
        is_in_hook = frame is not None
    os.kill(os.getpid(), signal.SIGINT)


def is_main_thread() -> bool:
    """Whether this is the thread that signals interrupt."""
    return threading.current_thread() is threading.main_thread()


def _end_by(ending: type[BaseException]) -> None:
    """Let an uncaught KeyboardInterrupt end the process like this SystemExit: with its code and no traceback."""
    chained = sys.excepthook

    def excepthook(kind: Any, value: Any, traceback: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            raise ending
        chained(kind, value, traceback)

    sys.excepthook = excepthook


def _die(number: int) -> None:
    """End the process by this signal's default action."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
