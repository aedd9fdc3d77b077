"""Whether a process tree uses CPU, by what its processes say of their time."""

from typing import NamedTuple

import psutil
import pytest

from backprop.supervisor.process.cpu_usage import USED_SHARE, WINDOW_S, CpuMeter


class Times(NamedTuple):
    """As psutil gives them."""

    user: float
    system: float
    children_user: float
    children_system: float
    iowait: float


class FakeProcess:
    """One that has used so much CPU."""

    def __init__(self, user_s: float = 0.0, children_s: float = 0.0) -> None:
        self.user_s = user_s
        self.children_s = children_s
        self.is_gone = False

    def cpu_times(self) -> Times:
        if self.is_gone:
            raise psutil.NoSuchProcess(1)
        return Times(self.user_s, 0.0, self.children_s, 0.0, 1e6)


@pytest.mark.parametrize(("used_s", "is_used"), [(0.0, False), (0.9, False), (1.0, True), (20.0, True)])
def test_a_small_share_of_a_core_counts(used_s: float, is_used: bool):
    """What idle threads use is less. used_s: in units of the least that counts."""
    process, meter = FakeProcess(user_s=100.0), CpuMeter()
    assert meter.look([process], 10.0) is None  # type: ignore[list-item]
    process.user_s += used_s * USED_SHARE * WINDOW_S
    assert meter.look([process], 10.0 + WINDOW_S / 2) is None  # type: ignore[list-item]
    assert meter.look([process], 10.0 + WINDOW_S) is is_used  # type: ignore[list-item]


def test_processes_that_come_and_go_count():
    """A new one with all of its time, one that has ended by what its parent got of it."""
    parent, child, meter = FakeProcess(), FakeProcess(), CpuMeter()
    meter.look([parent], 0.0)  # type: ignore[list-item]
    child.user_s = 1.0
    assert meter.look([parent, child], 3.0) is True  # type: ignore[list-item]
    child.is_gone, parent.children_s = True, 1.0
    assert meter.look([parent, child], 6.0) is True  # type: ignore[list-item]
    assert meter.look([parent], 9.0) is False  # type: ignore[list-item]
