"""Signals as a queue: none is lost, none ends this process, and all is as before afterwards."""

import os
import signal
import time

import pytest

from backprop.supervisor import early_sigint
from backprop.supervisor.signals import Signals
from tests.conftest import HANG_S


def test_signals_come_in_their_order_and_once():
    with Signals(ignore_hangup=False).caught() as signals:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP):
            os.kill(os.getpid(), number)
        assert signals.want_end
        assert signals.take() == [signal.SIGTERM, signal.SIGINT, signal.SIGTSTP]
        assert signals.take() == []
        assert not signals.want_end


def test_handlers_are_put_back():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}
    with Signals(ignore_hangup=True).caught():
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert {number: signal.getsignal(number) for number in before} == before
    assert signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN


def test_a_signal_that_the_parent_had_blocked_arrives():
    """A wrapper that blocks SIGTERM must not make a run unstoppable; the mask is put back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        with Signals(ignore_hangup=False).caught() as signals:
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.take() == [signal.SIGTERM]
        assert signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.sigtimedwait({signal.SIGTERM}, 0)  # one that did not arrive must not end this process
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_signal_ends_a_sleep_and_the_death_of_a_child_does_not_end_a_rest():
    with Signals(ignore_hangup=False).caught() as signals:
        os.kill(os.getpid(), signal.SIGCHLD)
        began = time.monotonic()
        signals.rest(0.05)
        assert time.monotonic() - began >= 0.05
        os.kill(os.getpid(), signal.SIGTERM)
        signals.rest(HANG_S)  # returns at once: the test would time out
        assert signals.take() == [signal.SIGTERM]


def test_a_ctrl_c_that_python_dropped_counts(monkeypatch: pytest.MonkeyPatch):
    """One that came while a module was imported: see early_sigint."""
    monkeypatch.setattr(early_sigint, "_was_pressed", True)
    with Signals(ignore_hangup=False).caught() as signals:
        assert signals.take() == [signal.SIGINT]
    with Signals(ignore_hangup=False).caught() as signals:
        assert signals.take() == []
