"""Losses on a GPU, which is a pretend one here: see tests/frameworks/test_sampled_loss.py for those on a CPU."""

import gc
from typing import Any

import pytest

from backprop.trainer.hooks.pytorch.sampled_loss import LossCurve, LossSampler


class Tensor:
    """A scalar on a pretend GPU, or the pinned memory that it is copied to. Whoever reads the former would wait."""

    is_cpu, is_cuda = False, True
    dtype = "float64"

    def __init__(self, value: float, device: str = "cuda:0") -> None:
        self.value, self.device = value, device

    def numel(self) -> int:
        return 1

    def detach(self) -> "Tensor":
        return self

    def to(self, device: str = "", **_: Any) -> "Tensor":
        return Tensor(self.value, device or self.device)

    def copy_(self, source: "Tensor", *, non_blocking: bool) -> None:
        assert non_blocking
        self.value = source.value

    def item(self) -> float:
        assert self.device == "cpu"
        return self.value

    def __add__(self, other: "Tensor") -> "Tensor":
        assert self.device == other.device
        return Tensor(self.value + other.value, self.device)

    def __truediv__(self, other: "Tensor") -> "Tensor":
        assert self.device == other.device
        return Tensor(self.value / other.value, self.device)


class Torch:
    """As much of PyTorch as is used for a GPU."""

    Tensor = Tensor
    float64 = "float64"

    def __init__(self) -> None:
        self.cuda = self
        self.is_done = self.is_capturing = False
        self.copies = 0
        self.Event = lambda: Event(self)

    def is_current_stream_capturing(self) -> bool:
        return self.is_capturing

    def current_stream(self, device: str) -> str:
        return f"stream of {device}"

    def empty(self, _shape: tuple[()], *, dtype: str, device: str, pin_memory: bool) -> Tensor:
        assert (dtype, device, pin_memory) == ("float64", "cpu", True)
        self.copies += 1
        return Tensor(0.0, "cpu")


class Event:
    """Passes when the test says so."""

    def __init__(self, torch: Torch) -> None:
        self.torch = torch

    def record(self, stream: str) -> None:
        assert stream == "stream of cuda:0"

    def query(self) -> bool:
        return self.torch.is_done


class Optimizer:
    """Nothing of it is used."""


class Training:
    """Steps of one optimizer."""

    def __init__(self) -> None:
        self.torch = Torch()
        self.losses = LossSampler(self.torch)
        self.curve: LossCurve | None = None
        self.optimizer = Optimizer()
        self.step, self.now = 0, 0.0

    def make_step(self, *losses: Tensor, scaler: Any = None) -> None:
        if scaler is not None:
            self.losses.scaled(scaler)
        self.losses.thread.parts += [self.losses.value_of(loss) for loss in losses]
        self.step += 1
        self.curve = self.losses.stepped(self.curve, self.optimizer, self.step)

    def samples(self) -> list[tuple[int, str, float]]:
        self.now += 0.6
        return [tuple(sample) for sample in self.losses.samples(self.now)]


@pytest.fixture
def training() -> Training:
    return Training()


def test_a_value_is_read_when_its_copy_is_there(training: Training):
    """Not before; and meanwhile no other copy is made."""
    for value in (5.0, 4.0, 3.0):
        training.make_step(Tensor(value))
    assert training.samples() == []
    assert training.torch.copies == 1
    training.torch.is_done = True
    assert training.samples() == [(1, "loss", 5.0)]
    training.make_step(Tensor(2.0))
    assert training.samples() == [(4, "loss", 2.0)]
    assert training.torch.copies == 2


def test_it_is_summed_and_unscaled_on_the_gpu(training: Training):
    class Scaler:
        _scale = Tensor(4.0, "cuda:1")

        def is_enabled(self) -> bool:
            return True

    training.torch.is_done = True
    for _ in range(2):
        training.make_step(Tensor(8.0), Tensor(16.0), scaler=Scaler())
    assert training.samples() == [(1, "loss", 6.0)]


@pytest.mark.parametrize("losses", [(Tensor(1.0), Tensor(1.0, "cuda:1")), (Tensor(1.0, "cuda:1"), Tensor(1.0))])
def test_what_is_spread_over_gpus_has_no_value(training: Training, losses: tuple[Tensor, ...]):
    training.torch.is_done = True
    for _ in range(2):
        training.make_step(*losses)
    assert training.samples() == []


def test_nothing_is_copied_into_a_graph_that_is_captured(training: Training):
    training.torch.is_capturing = True
    for _ in range(2):
        training.make_step(Tensor(1.0))
    assert training.torch.copies == 0
    assert training.samples() == []


def test_optimizers_that_are_gone_leave_nothing(training: Training):
    """As in meta-learning, which makes one for each task: for a week."""
    training.torch.is_done = True
    for _ in range(50):
        training.curve, training.optimizer = None, Optimizer()
        for _ in range(2):
            training.make_step(Tensor(1.0))
    assert len(training.samples()) == 50  # what was not reported yet is not lost
    training.curve, training.optimizer = None, Optimizer()
    training.make_step(Tensor(1.0))
    assert sum(isinstance(one, LossCurve) for one in gc.get_objects()) <= 2
