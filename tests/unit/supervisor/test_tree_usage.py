"""What a process tree uses, by what its processes say of their time and of the disks."""

from typing import NamedTuple

import psutil
import pytest

from backprop.supervisor.process.tree_usage import USED_SHARE, WINDOW_S, CpuWindow, TreeMeter, TreeUse


class Times(NamedTuple):
    """As psutil gives them."""

    user: float
    system: float
    children_user: float
    children_system: float
    iowait: float


class Disk(NamedTuple):
    read_bytes: int
    write_bytes: int


class FakeProcess:
    """One that has used so much CPU, and read and written so much."""

    def __init__(self, user_s: float = 0.0, children_s: float = 0.0) -> None:
        self.user_s = user_s
        self.children_s = children_s
        self.disk: Disk | None = Disk(0, 0)
        self.is_gone = False

    def cpu_times(self) -> Times:
        if self.is_gone:
            raise psutil.NoSuchProcess(1)
        return Times(self.user_s, 0.0, self.children_s, 0.0, 1e6)

    def is_running(self) -> bool:
        return not self.is_gone

    def io_counters(self) -> Disk:
        if self.disk is None:
            raise psutil.AccessDenied(1)
        return self.disk


def look(meter: TreeMeter, now: float, *processes: FakeProcess) -> TreeUse | None:
    return meter.look(processes, now)  # type: ignore[arg-type]


@pytest.mark.parametrize(("used_s", "is_used"), [(0.0, False), (0.9, False), (1.0, True), (20.0, True)])
def test_a_small_share_of_a_core_counts(used_s: float, is_used: bool):
    """What idle threads use is less. used_s: in units of the least that counts."""
    window, half = CpuWindow(), used_s * USED_SHARE * WINDOW_S / 2
    assert window.add(TreeUse(WINDOW_S / 2, half)) is None
    assert window.add(TreeUse(WINDOW_S / 2, half)) is is_used


def test_each_window_is_judged_by_itself():
    window = CpuWindow()
    assert window.add(TreeUse(WINDOW_S, 1.0)) is True
    assert window.add(TreeUse(WINDOW_S, 0.0)) is False


def test_processes_that_come_and_go_count():
    """A new one with all of its time; one that has ended with what it used since, once its parent gets it."""
    parent, child, meter = FakeProcess(user_s=100.0), FakeProcess(), TreeMeter()
    assert look(meter, 0.0, parent) is None
    child.user_s = 1.0
    assert look(meter, 3.0, parent, child) == TreeUse(3.0, 1.0, 0.0, 0.0)
    child.is_gone, parent.children_s = True, 1.5
    assert look(meter, 6.0, parent, child) == TreeUse(3.0, 0.5, 0.0, 0.0)
    assert look(meter, 9.0, parent) == TreeUse(3.0, 0.0, 0.0, 0.0)


def test_what_a_worker_used_counts_once():
    """Its parent gets all of it a second time, when it waits for it: later, perhaps. The parent's own goes on."""
    parent, worker, meter = FakeProcess(), FakeProcess(), TreeMeter()
    look(meter, 0.0, parent)
    worker.user_s, worker.disk = 10.0, Disk(7_000, 0)
    assert look(meter, 1.0, parent, worker) == TreeUse(1.0, 10.0, 7_000, 0.0)
    assert look(meter, 2.0, parent) == TreeUse(1.0, 0.0, 0.0, 0.0)  # a zombie
    worker.is_gone, parent.children_s, parent.disk, parent.user_s = True, 10.0, Disk(7_500, 0), 1.0
    assert look(meter, 3.0, parent) == TreeUse(1.0, 1.0, 500, 0.0)


def test_a_process_that_nobody_of_the_tree_waits_for_takes_nothing_back():
    """A daemon: what it used is in no parent's time, and what others use meanwhile counts all the same."""
    parent, daemon, meter = FakeProcess(), FakeProcess(user_s=50.0), TreeMeter()
    look(meter, 0.0, parent, daemon)
    daemon.is_gone, parent.user_s = True, 1.0
    use = look(meter, 1.0, parent)
    assert use is not None
    assert use.cpu_s == 1.0


def test_what_is_read_and_written_is_summed_up_where_it_can_be_seen():
    """Not known only where no process says."""
    ours, foreign, meter = FakeProcess(), FakeProcess(), TreeMeter()
    foreign.disk = None
    look(meter, 0.0, ours, foreign)
    ours.disk = Disk(5_000, 2_000)
    assert look(meter, 1.0, ours, foreign) == TreeUse(1.0, 0.0, 5_000, 2_000)
    ours.is_gone = True
    assert look(meter, 2.0, foreign) == TreeUse(1.0, 0.0, None, None)
