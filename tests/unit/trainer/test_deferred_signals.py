"""SIGINT and SIGTERM during steps and saves: deferred, never lost. Real signals, sent to this process."""

import os
import signal
from collections.abc import Iterator

import pytest

from backprop.trainer.deferred_signals import DeferredSignals


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Each test must leave the handlers as they were, those of a script among them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}
    assert before[signal.SIGINT] is signal.default_int_handler
    yield
    after = {number: signal.getsignal(number) for number in before}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


def send(number: signal.Signals = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)


def deferred(*, is_stop_wanted: bool = False) -> DeferredSignals:
    return DeferredSignals(lambda: is_stop_wanted)


def test_the_first_interrupt_waits_for_the_end_of_the_step_and_the_second_does_not():
    signals = deferred()

    def loop() -> None:
        with signals.patient():
            send()
            assert signals.is_interrupted
            send()

    with pytest.raises(KeyboardInterrupt):
        loop()


def test_a_save_is_finished_before_the_interrupt():
    """Also a save within a save; it is raised once, when the last has ended."""
    signals, done = deferred(), []

    def save() -> None:
        with signals.held():
            with signals.held():
                send()
                assert signals.is_holding
            done.append("both")

    with pytest.raises(KeyboardInterrupt):
        save()
    assert done == ["both"]
    with signals.held():
        pass


def test_an_interrupt_is_raised_although_the_save_failed():
    """Neither the exception of the save nor the interrupt is lost: one is the context of the other."""
    signals = deferred()

    def save() -> None:
        with signals.held():
            send()
            raise OSError(28, "disk full")

    with pytest.raises(KeyboardInterrupt) as caught:
        save()
    assert isinstance(caught.value.__context__, OSError)


def test_what_must_be_done_before_the_interrupt_is_done():
    signals, done = deferred(), []
    signals.watch(lambda: done.append("emergency"))
    with pytest.raises(KeyboardInterrupt):
        send()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert done == ["emergency"]


def test_a_sigterm_that_comes_with_a_stop_waits_for_the_end_of_the_step():
    """`accelerate launch` answers SIGINT by sending SIGTERM to its processes."""
    signals = deferred(is_stop_wanted=True)
    with signals.patient():
        send(signal.SIGTERM)
        assert signals.is_interrupted


def test_the_scripts_own_handler_stays():
    """It gets every signal, in a loop and in a save."""
    got: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    try:
        signals = deferred()
        with signals.patient(), signals.held():
            send(signal.SIGTERM)
        assert got == [signal.SIGTERM]
        assert not signals.is_interrupted
    finally:
        signal.signal(signal.SIGTERM, before)
