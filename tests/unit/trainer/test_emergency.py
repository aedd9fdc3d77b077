"""What is copied while threads train is of one step. No framework is needed."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backprop.trainer.hooks.pytorch.emergency import StepPause
from tests.conftest import wait_for


class Training:
    """Two weights that are equal between two steps, and a count that a hook keeps within the step, as PyTorch's do."""

    def __init__(self) -> None:
        self.weights, self.count = [0, 0], 0
        self.is_over = False
        self.standstill = StepPause(type(self).step.__code__, type(self).look.__code__)
        self.look_at_end: Callable[[], None] = lambda: None

    def step(self) -> None:
        self.standstill.wait()
        self.weights[0] += 1
        time.sleep(0.002)
        self.weights[1] += 1
        self.count += 1
        self.look()

    def look(self) -> None:
        self.look_at_end()

    def train(self) -> None:
        while not self.is_over:
            self.step()

    @contextmanager
    def going_on(self) -> Iterator[None]:
        thread = threading.Thread(target=self.train)
        thread.start()
        try:
            wait_for(lambda: self.count)
            yield
        finally:
            self.is_over = True
            thread.join()


def test_no_thread_is_in_the_middle_of_a_step():
    """Nor makes one while the others are held; then it goes on."""
    training = Training()
    with training.going_on():
        for _ in range(50):
            with training.standstill.held() as is_still:
                assert is_still
                before = (*training.weights, training.count)
                assert len(set(before)) == 1
                time.sleep(0.003)  # longer than a step
                assert (*training.weights, training.count) == before
            wait_for(lambda before=before: training.count > before[0])


def test_threads_that_want_to_copy_at_once_do_so_one_after_the_other():
    """One that waits for its turn has made its step, and does not keep the other waiting."""
    first, copies = Training(), []

    def copy() -> None:
        with first.standstill.held() as is_still:
            copies.append((is_still, len(set(first.weights))))

    first.look_at_end = copy
    with first.going_on():
        for _ in range(20):
            copy()
    assert len(copies) > 20
    assert set(copies) == {(True, 1)}


def test_a_step_that_failed_is_over():
    """A thread that goes on after it, or has ended by it, is in no step."""
    training = Training()

    def fail() -> None:
        raise ValueError

    training.look_at_end = fail
    failed, end = threading.Event(), threading.Event()

    def train() -> None:
        try:
            training.step()
        except ValueError:
            failed.set()
        end.wait()

    thread = threading.Thread(target=train)
    thread.start()
    failed.wait()
    with training.standstill.held() as is_still:
        assert is_still
    end.set()
    thread.join()
