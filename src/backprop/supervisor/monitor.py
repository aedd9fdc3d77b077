"""Monitors one session's resources: takes samples, asks the runtime policy, keeps the session's ticket up to date.

The supervisor's loop calls `look`; nothing here blocks, and nothing here acts on the trainer.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from backprop.governor import run_policy
from backprop.governor.gpu_environment import visible
from backprop.governor.probes import machine
from backprop.governor.probes.gpus import GpuPoller
from backprop.governor.run_policy import PauseState, PolicyDecision, Sample, State
from backprop.governor.run_queue import QueueSlot
from backprop.records import Gpu, Limits, MachineState
from backprop.supervisor.process.launch import start_detached

if TYPE_CHECKING:
    from psutil import Process

    from backprop.supervisor.process.tree_usage import CpuWindow, TreeMeter

SAMPLE_EVERY_S = 1.0
_HURRIED_EVERY_S = 0.25  # once the tree holds more than half of its limit
_STALE_AFTER_S = 10.0  # an older reading of the GPUs does not count
_RAM_GETS_SCARCE = 0.2  # share of the total: below it, it matters which run holds most
_GPU_USED_PERCENT = 5.0  # of the time since the reading before: less may be a desktop
_WORTH_PUBLISHING = 1.05  # growth by this factor is written to the ticket


class ResourceMonitor:
    """Takes a sample once a second. Call `start` before the trainer is launched, `close` when it is gone."""

    def __init__(
        self,
        limits: Limits,
        folders: Sequence[str],
        gpus: Sequence[Gpu],
        gpu_probe: str,
        place: QueueSlot,
        gpu_problem: str | None = None,
    ) -> None:
        """gpus: assigned to the session. gpu_problem: why none could be read, and so none is assigned: see `_own`."""
        self._limits = limits
        self._folders = folders
        self._uuids = {gpu.uuid for gpu in gpus}
        self._is_unassigned = gpu_problem is not None
        self._place = place
        self._was_settled = False  # as others know it: it trains, and is not paused
        self._state = State()
        self._due_at = 0.0
        # GPU probes may be slow: they run in parallel to the loop, and not at all for a session without GPUs
        self._poller = GpuPoller(gpu_probe) if gpus or gpu_problem is not None else None
        self._gpus_seen: tuple[tuple[Gpu, ...] | None, float] = (None, 0.0)  # latest reading and its time
        self.gpu_problem = gpu_problem  # why the GPUs cannot be read now
        self._meter: TreeMeter | None = None
        self._window: CpuWindow | None = None
        self._is_gpu_used = False  # in a sample since the last window
        self._measured: Mapping[str, float] | None = None
        self.windows = 0  # how many stretches of time were judged so far
        self.is_used = False  # CPU or GPU were used in the latest one

    def start(self, now: float) -> None:
        """The trainer was launched. now: in monotonic seconds."""
        # not at once: importing psutil would delay a very short script
        self._due_at = now + (SAMPLE_EVERY_S if self._limits.ram_limit_bytes is None else _HURRIED_EVERY_S)
        if self._poller is not None:
            self._gpus_seen = (None, now if self.gpu_problem is None else -math.inf)
            self._poller.start(start_detached, has_failed=self.gpu_problem is not None)

    def close(self) -> None:
        """End the GPU probes."""
        if self._poller is not None:
            self._poller.close()

    def look(
        self,
        now: float,
        pauses: PauseState,
        members: Callable[[], "list[Process]"],
        longest_save_s: float,
        *,
        has_stepped: bool,
    ) -> PolicyDecision:
        """What to do about the session, from a sample taken now; Action.NONE when none is due.

        now: monotonic seconds. longest_save_s: 0 when no save was seen yet. has_stepped: its trainer has made a step.
        """
        if now < self._due_at:
            return PolicyDecision()
        tree = members()
        snapshot = machine.read_snapshot(self._folders)
        sample = self._sample(now, snapshot, pauses, tree, longest_save_s or run_policy.UNKNOWN_SAVE_S)
        self._due_at = now + self._period_s(sample)
        self._publish(sample, is_settled=has_stepped and not pauses.is_paused)
        self._note_use(tree, sample, snapshot)
        self._state, verdict = run_policy.judge(self._limits, self._state, sample)
        return verdict

    def take_measured(self) -> Mapping[str, float] | None:
        """What the latest sample measured, once; None when it was taken already. See store/usage/quantities.py."""
        measured, self._measured = self._measured, None
        return measured

    def _note_use(self, tree: "list[Process]", sample: Sample, snapshot: MachineState) -> None:
        """Measure what the tree uses; judge whether it uses CPU or GPUs, when a window of time is over."""
        import psutil

        from backprop.supervisor.process.tree_usage import CpuWindow, TreeMeter
        from backprop.supervisor.usage_log import measured

        self._meter, self._window = self._meter or TreeMeter(), self._window or CpuWindow()
        pids = {process.pid for process in tree}
        use = self._meter.look(tree, sample.at)
        cpu_percent = None
        with suppress(OSError):  # no /proc
            cpu_percent = psutil.cpu_percent()  # since the call before
        self._measured = measured(sample, snapshot, use, None if use is None else cpu_percent, pids)
        self._is_gpu_used = self._is_gpu_used or uses_gpu(sample, pids)
        is_cpu_used = None if use is None else self._window.add(use)
        if is_cpu_used is not None:
            self.is_used, self._is_gpu_used = is_cpu_used or self._is_gpu_used, False
            self.windows += 1

    def _period_s(self, sample: Sample) -> float:
        limit, used = self._limits.ram_limit_bytes, sample.tree_ram_bytes
        return _HURRIED_EVERY_S if limit is not None and used is not None and used > limit / 2 else SAMPLE_EVERY_S

    def _sample(
        self, now: float, snapshot: MachineState, pauses: PauseState, tree: "list[Process]", save_s: float
    ) -> Sample:
        from backprop.supervisor.process import memory_usage

        pids = {process.pid for process in tree}
        gpus = self._gpus(now, pids)
        ram_bytes = memory_usage.memory_bytes(tree, self._limits.ram_limit_bytes)
        available, total = snapshot.ram_available_bytes, snapshot.ram_total_bytes
        is_scarce = available is not None and total is not None and available < total * _RAM_GETS_SCARCE
        return Sample(
            at=now,
            ram_available_bytes=available,
            ram_total_bytes=total,
            tree_ram_bytes=ram_bytes,
            disk_free_bytes=snapshot.disk_free_bytes,
            gpus=gpus,
            tree_vram_bytes=_held_vram_bytes(gpus or (), pids),
            is_biggest=not is_scarce or self._is_biggest(ram_bytes or 0),
            save_s=save_s,
            pauses=pauses,
        )

    def _gpus(self, now: float, pids: set[int]) -> tuple[Gpu, ...] | None:
        """The session's GPUs as last read; None when no reading is recent enough."""
        if self._poller is None:
            return None
        latest = self._poller.latest()
        if latest is not None and latest[0].gpus is not None:
            self._gpus_seen = (self._own(latest[0].gpus, pids), latest[1])
        gpus, seen_at = self._gpus_seen
        # one failed probe is no blindness yet: a tree that is paused for heat would continue because of it
        if now - seen_at <= _STALE_AFTER_S:
            self.gpu_problem = None
            return gpus
        self.gpu_problem = (latest[0].problem if latest is not None else None) or "the probe does not answer"
        return None

    def _own(self, gpus: Sequence[Gpu], pids: set[int]) -> tuple[Gpu, ...]:
        """Those of the session. Where none was assigned: those it has held memory on, or the only one that it sees."""
        if self._is_unassigned:
            seen = visible(gpus, os.environ)
            self._uuids |= {
                gpu.uuid for gpu in seen if len(seen) == 1 or pids.intersection(gpu.process_vram_bytes or ())
            }
        return tuple(gpu for gpu in gpus if gpu.uuid in self._uuids)

    def _is_biggest(self, ram_bytes: int) -> bool:
        own = (ram_bytes, self._place.number)
        others = (entry for entry in self._place.others() if entry.ticket is not None)
        return all(own > (entry.ticket.ram_seen_bytes, entry.number) for entry in others if entry.ticket is not None)

    def _publish(self, sample: Sample, *, is_settled: bool) -> None:
        """Write to the ticket what the session has been seen to hold: that part of its reservation is used."""
        before, now = self._place.ticket, sample.tree_ram_bytes or 0
        vram: dict[str, int] | None = None
        if sample.gpus and any(gpu.process_vram_bytes is not None for gpu in sample.gpus):
            seen = before.vram_seen_bytes or {}
            vram = {uuid: max(held, seen.get(uuid, 0)) for uuid, held in sample.tree_vram_bytes.items()}
        has_grown = now > before.ram_seen_bytes * _WORTH_PUBLISHING or _has_grown(before.vram_seen_bytes, vram)
        if has_grown or is_settled != self._was_settled:
            self._was_settled = is_settled
            self._place.try_to_change(
                # before its first step it may still read its data; one that continues after a pause may grow again
                grown_unix_s=time.time() if is_settled else None,
                ram_seen_bytes=max(now, before.ram_seen_bytes),
                vram_seen_bytes=vram if vram is not None else before.vram_seen_bytes,
            )


def uses_gpu(sample: Sample, pids: set[int]) -> bool:
    """Whether a GPU is busy with these processes, if that is known: not if others hold memory there, too."""
    return any(
        (gpu.utilization_percent or 0.0) >= _GPU_USED_PERCENT
        and (gpu.process_vram_bytes is None or (gpu.process_vram_bytes and pids.issuperset(gpu.process_vram_bytes)))
        for gpu in sample.gpus or ()
    )


def _held_vram_bytes(gpus: Sequence[Gpu], pids: set[int]) -> dict[str, int]:
    """GPU UUID -> bytes that these processes hold there; without GPUs that do not report it."""
    return {
        gpu.uuid: sum(held for pid, held in gpu.process_vram_bytes.items() if pid in pids)
        for gpu in gpus
        if gpu.process_vram_bytes is not None
    }


def _has_grown(before: Mapping[str, int] | None, now: Mapping[str, int] | None) -> bool:
    if now is None:
        return False
    return before is None or any(held > before.get(uuid, 0) * _WORTH_PUBLISHING for uuid, held in now.items())
