"""Samples of one session for the runtime policy, and what other runs learn of them."""

import os
from pathlib import Path

import psutil
import pytest

from backprop.governor.probes.gpus import GpuReading
from backprop.governor.run_policy import PauseState, Sample
from backprop.governor.run_queue import QueueEntry
from backprop.records import Gpu, Pauser, Ticket
from backprop.supervisor import monitor as monitors
from backprop.supervisor.monitor import SAMPLE_EVERY_S, ResourceMonitor
from tests.unit.supervisor.fake_session import limits

GB = 10**9


class FakeSlot:
    """A ticket that nobody else sees, and the tickets of others."""

    def __init__(self, *others: QueueEntry) -> None:
        self.number = 1
        self.ticket = Ticket(run_id="r", pid=1, user="u", since_unix_s=0.0, max_parallel=2, is_running=True)
        self._others = others
        self.changes: list[dict] = []

    def others(self) -> list[QueueEntry]:
        return list(self._others)

    def try_to_change(self, **changes: object) -> None:
        self.changes.append(changes)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of memory that the tree holds at each sample; the last value stays."""
    values = [0]
    from backprop.supervisor.process import memory_usage

    monkeypatch.setattr(memory_usage, "memory_bytes", lambda *_: values.pop(0) if len(values) > 1 else values[0])
    return values


def look(monitor: ResourceMonitor, now: float) -> None:
    monitor.look(now, PauseState(), list, 0.0, has_stepped=False)


def test_a_sample_is_taken_once_a_second(tmp_path: Path, held: list[int]):
    """However often the loop looks; the first one only when a short script is over."""
    slot = FakeSlot()
    held[:] = [GB, 2 * GB, 3 * GB]
    monitor = ResourceMonitor(limits(), [str(tmp_path)], (), "auto", slot)  # type: ignore[arg-type]
    monitor.start(100.0)
    look(monitor, 100.0 + SAMPLE_EVERY_S / 2)
    assert slot.changes == []
    for n in range(8):
        look(monitor, 101.0 + n / 4)
    assert [change["ram_seen_bytes"] for change in slot.changes] == [GB, 2 * GB]


def test_a_tree_close_to_its_limit_is_sampled_more_often(tmp_path: Path, held: list[int]):
    """Four times a second from half of --ram-limit on."""
    slot = FakeSlot()
    held[:] = [GB, 2 * GB, 3 * GB, 4 * GB]
    monitor = ResourceMonitor(limits(ram_limit_bytes=5 * GB // 3), [str(tmp_path)], (), "auto", slot)  # type: ignore[arg-type]
    monitor.start(100.0)
    for n in range(4):
        look(monitor, 100.25 + n / 4)
    assert len(slot.changes) == 4


def test_others_learn_of_growth_only(tmp_path: Path, held: list[int]):
    """Of five per cent or more: what the run was promised is not owed to it any more."""
    slot = FakeSlot()
    slot.ticket = Ticket(
        run_id="r", pid=1, user="u", since_unix_s=0.0, max_parallel=2, is_running=True, ram_seen_bytes=2 * GB
    )
    held[:] = [GB, 2 * GB, 2 * GB + GB // 20, 3 * GB]
    monitor = ResourceMonitor(limits(), [str(tmp_path)], (), "auto", slot)  # type: ignore[arg-type]
    monitor.start(0.0)
    for n in range(4):
        look(monitor, 1.0 + n)
    assert [change["ram_seen_bytes"] for change in slot.changes] == [3 * GB]


def test_others_learn_when_it_is_paused_and_goes_on(tmp_path: Path, held: list[int]):
    """For that time its reservation does not shrink: it may grow when it continues."""
    slot = FakeSlot()
    held[:] = [GB]
    monitor = ResourceMonitor(limits(), [str(tmp_path)], (), "auto", slot)  # type: ignore[arg-type]
    monitor.start(0.0)
    slot.ticket = Ticket(
        run_id="r", pid=1, user="u", since_unix_s=0.0, max_parallel=2, is_running=True, ram_seen_bytes=GB
    )
    paused = PauseState().held(Pauser.USER, "by me", 2.0)
    for now, pauses in [(1.0, PauseState()), (2.0, paused), (3.0, paused), (4.0, PauseState()), (5.0, PauseState())]:
        monitor.look(now, pauses, list, 0.0, has_stepped=True)
    assert [change["grown_unix_s"] is None for change in slot.changes] == [False, True, False]


def test_before_its_first_step_a_run_is_not_known_to_be_steady(tmp_path: Path, held: list[int]):
    """It may read its data for minutes, and take its memory only then: nothing of its reservation is free for others."""
    slot = FakeSlot()
    held[:] = [GB]
    monitor = ResourceMonitor(limits(), [str(tmp_path)], (), "auto", slot)  # type: ignore[arg-type]
    monitor.start(0.0)
    slot.ticket = Ticket(
        run_id="r", pid=1, user="u", since_unix_s=0.0, max_parallel=2, is_running=True, ram_seen_bytes=GB // 2
    )
    monitor.look(1.0, PauseState(), list, 0.0, has_stepped=False)
    monitor.look(2.0, PauseState(), list, 0.0, has_stepped=True)
    assert [change["grown_unix_s"] is None for change in slot.changes] == [True, False]


class FakePoller:
    """A reading that a test sets."""

    latest_reading: object = None

    def __init__(self, kind: str) -> None: ...
    def start(self, detach: object, *, has_failed: bool) -> None: ...
    def close(self) -> None: ...
    def latest(self) -> object:
        return self.latest_reading


def test_an_old_reading_of_the_gpus_is_reported_as_blindness(
    tmp_path: Path, held: list[int], monkeypatch: pytest.MonkeyPatch
):
    """One missed reading is not: a tree that is paused for heat would continue over it."""
    monkeypatch.setattr(monitors, "GpuPoller", FakePoller)
    card = Gpu(index=0, uuid="GPU-0", name="Fake", vendor="nvidia", vram_total_bytes=GB)
    monitor = ResourceMonitor(limits(), [str(tmp_path)], (card,), "auto", FakeSlot())  # type: ignore[arg-type]
    monitor.start(100.0)
    look(monitor, 109.0)
    assert monitor.gpu_problem is None
    look(monitor, 111.0)
    assert monitor.gpu_problem == "the probe does not answer"


@pytest.mark.parametrize(
    ("visible", "first", "then"), [("0,1", (), ("GPU-1",)), ("0", ("GPU-0",), ("GPU-0",))], ids=["several", "one"]
)
def test_a_session_that_began_blind_has_the_gpus_that_it_uses(
    tmp_path: Path, held: list[int], monkeypatch: pytest.MonkeyPatch, visible: str, first: object, then: object
):
    """Where it sees only one, that: of several, another user's may be the hot one. Once it has one, it keeps it."""
    monkeypatch.setattr(monitors, "GpuPoller", FakePoller)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    seen: list[tuple[str, ...] | None] = []
    judge = monitors.run_policy.judge

    def spy(limits: object, state: object, sample: Sample) -> object:
        seen.append(None if sample.gpus is None else tuple(gpu.uuid for gpu in sample.gpus))
        return judge(limits, state, sample)  # type: ignore[arg-type]

    def read(now: float, *holders: int | None) -> None:
        gpus = tuple(
            Gpu(
                index=n,
                uuid=f"GPU-{n}",
                name="g",
                vendor="nvidia",
                process_vram_bytes=None if pid is None else {pid: GB},
            )
            for n, pid in enumerate(holders)
        )
        monitor._poller.latest_reading = (GpuReading(gpus=gpus), now)  # type: ignore[union-attr]

    monkeypatch.setattr(monitors.run_policy, "judge", spy)
    monitor = ResourceMonitor(limits(), [str(tmp_path)], (), "auto", FakeSlot(), "no answer")  # type: ignore[arg-type]
    monitor.start(100.0)
    look(monitor, 102.0)
    assert (seen, monitor.gpu_problem) == ([None], "the probe does not answer")
    tree = [psutil.Process()]
    for now, holders in ((104.0, (1, 1, 1)), (106.0, (1, os.getpid(), 1)), (108.0, (None, None, None))):
        read(now, *holders)
        monitor.look(now, PauseState(), lambda: tree, 0.0, has_stepped=False)
    assert (seen[1:], monitor.gpu_problem) == ([first, then, then], None)


def card(percent: float | None, held: dict[int, int] | None) -> Gpu:
    return Gpu(index=0, uuid="GPU-0", name="g", vendor="nvidia", utilization_percent=percent, process_vram_bytes=held)


@pytest.mark.parametrize(
    ("gpu", "is_used"),
    [
        (card(80.0, {7: GB}), True),
        (card(80.0, None), True),  # nobody can tell whose work it is, and it was given to this run
        (card(80.0, {7: GB, 8: GB}), False),  # another process may do the work
        (card(80.0, {}), False),
        (card(1.0, {7: GB}), False),
        (card(None, {7: GB}), False),
    ],
)
def test_a_busy_gpu_is_a_sign_of_life_of_the_processes_that_have_it_alone(gpu: Gpu, is_used: bool):
    sample = Sample(at=0.0, gpus=(gpu,))
    assert bool(monitors.uses_gpu(sample, {7, 9})) is is_used
