"""Must a session be paused, saved or stopped? Pure: what was seen so far and one more sample in; a verdict out.

too hot            pause the tree; go on 5 °C below
paused too long    by the user or for heat, all pauses together: stop
over its own limit stop by the ladder; kill at once far beyond it
machine running out, by the trend of the last samples: a checkpoint first, then the ladder
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import msgspec

from backprop.governor.start_policy import vram_limit_bytes
from backprop.records import Gpu, Limits, Record

COOLER_BY_C = 5.0  # a paused session goes on so much below the limit
VRAM_PATIENCE_S = 3.0  # a framework may be over its limit for a moment while it reorganizes
HEADROOM = 0.25  # the hard limit lies so much above --ram-limit: room to hear of the stop, and to save
MIN_HEADROOM_BYTES = 1_000_000_000
UNKNOWN_SAVE_S = 2.0  # a save takes so long, as long as none was seen
KEEP_SAMPLES_S = 30.0

_RAM_WINDOW_S = 5.0
_DISK_WINDOW_S = 20.0  # a checkpoint is written in a burst: that alone is no trend
_MIN_SAMPLES = 4
_RAM_LOW = 0.15  # of all: above this a trend of memory says little, because loading data looks the same
_RAM_CRITICAL = 0.01  # below this the kernel is about to choose somebody
_DISK_LOW_BYTES = 5_000_000_000
_SAVE_AGAIN_S = 60.0
_GB = 1e9


class Action(str, Enum):
    """What to do about a session now. From harmless to final."""

    GO_ON = "go on"
    SAVE = "save"  # ask for a checkpoint
    PAUSE = "pause"  # stop the whole tree in place
    CONTINUE = "continue"  # a paused one may go on
    STOP = "stop"  # by the ladder
    KILL = "kill"  # at once: no ladder is fast enough


class Sample(Record, frozen=True):
    """One look at a session and its machine. None where it cannot be told."""

    at: float  # monotonic seconds
    ram_available_bytes: int | None = None
    ram_total_bytes: int | None = None
    tree_ram_bytes: int | None = None
    disk_free_bytes: Mapping[str, int] = {}
    gpus: tuple[Gpu, ...] | None = None  # the session's cards
    tree_vram_bytes: Mapping[str, int] = {}  # uuid of a card -> what the tree holds there; absent: not known
    is_biggest: bool = True  # no other run of this home holds more memory
    save_s: float = UNKNOWN_SAVE_S  # the longest save so far


class State(Record, frozen=True):
    """What was seen so far."""

    samples: tuple[Sample, ...] = ()  # oldest first
    over_vram_since: Mapping[str, float] = {}
    is_too_hot: bool = False  # paused for that
    is_held: bool = False  # paused by the user
    paused_since: float | None = None  # for either reason
    paused_s: float = 0.0  # in earlier pauses
    save_asked_at: float | None = None

    def all_paused_s(self, now: float) -> float:
        """How long the session has been paused in all."""
        return self.paused_s + (0.0 if self.paused_since is None else now - self.paused_since)

    def paused(self, now: float, *, is_too_hot: bool, is_held: bool) -> "State":
        """The same when the session stands still for these reasons from now on; for none of them: goes on."""
        goes_on = not (is_too_hot or is_held)
        since = now if self.paused_since is None else self.paused_since
        return msgspec.structs.replace(
            self,
            is_too_hot=is_too_hot,
            is_held=is_held,
            paused_since=None if goes_on else since,
            paused_s=self.all_paused_s(now) if goes_on else self.paused_s,
        )


class Verdict(Record, frozen=True):
    """What to do, why, and from which figures."""

    action: Action = Action.GO_ON
    reason: str = ""
    figures: Mapping[str, Any] = {}
    is_over_own_limit: bool = False  # it used more than it may, whatever the machine has


def hard_ram_limit_bytes(limit_bytes: int) -> int:
    """Where the kernel, or SIGKILL, ends a tree whose --ram-limit is this."""
    return limit_bytes + max(round(limit_bytes * HEADROOM), MIN_HEADROOM_BYTES)


def judge(limits: Limits, state: State, sample: Sample) -> tuple[State, Verdict]:
    """The verdict on a session at this sample, and what to remember for the next one."""
    kept = tuple(s for s in state.samples if sample.at - s.at <= KEEP_SAMPLES_S)
    state = msgspec.structs.replace(
        state, samples=(*kept, sample), over_vram_since=_over_vram_since(limits, state.over_vram_since, sample)
    )
    for check in (_own_ram, _own_vram, _machine_ram, _machine_disk, _heat, _long_pause):
        verdict = check(limits, state, sample)
        if verdict.action is not Action.GO_ON:
            return _after(state, sample, verdict), verdict
    return state, Verdict()


def _after(state: State, sample: Sample, verdict: Verdict) -> State:
    match verdict.action:
        case Action.PAUSE:
            return state.paused(sample.at, is_too_hot=True, is_held=state.is_held)
        case Action.CONTINUE:
            return state.paused(sample.at, is_too_hot=False, is_held=state.is_held)
        case Action.SAVE:
            return msgspec.structs.replace(state, save_asked_at=sample.at)
        case _:  # whatever else is to be done, a paused tree must go on for it
            return state.paused(sample.at, is_too_hot=False, is_held=False)


# -- what the session itself uses


def _own_ram(limits: Limits, _: State, sample: Sample) -> Verdict:
    limit, used = limits.ram_limit_bytes, sample.tree_ram_bytes
    if limit is None or used is None or used <= limit:
        return Verdict()
    hard = hard_ram_limit_bytes(limit)
    figures = {"tree_ram_bytes": used, "ram_limit_bytes": limit, "hard_ram_limit_bytes": hard}
    told = f"its processes hold {used / _GB:.2f} GB of RAM (--ram-limit {limit / _GB:g})"
    action = Action.KILL if used > hard else Action.STOP
    return Verdict(action=action, reason=told, figures=figures, is_over_own_limit=True)


def _over_vram_since(limits: Limits, before: Mapping[str, float], sample: Sample) -> dict[str, float]:
    over = {}
    for gpu in sample.gpus or ():
        limit, used = vram_limit_bytes(limits, gpu), sample.tree_vram_bytes.get(gpu.uuid)
        if limit is not None and used is not None and used > limit:
            over[gpu.uuid] = before.get(gpu.uuid, sample.at)
    return over


def _own_vram(limits: Limits, state: State, sample: Sample) -> Verdict:
    for gpu in sample.gpus or ():
        since = state.over_vram_since.get(gpu.uuid)
        if since is not None and sample.at - since >= VRAM_PATIENCE_S:
            used, limit = sample.tree_vram_bytes[gpu.uuid], vram_limit_bytes(limits, gpu) or 0
            return Verdict(
                action=Action.STOP,
                reason=f"it has held {used / _GB:.1f} GB of GPU {gpu.index} for {sample.at - since:.0f} s "
                f"(--gpu-memory-limit {limit / _GB:.1f} GB)",
                figures={"gpu": gpu.uuid, "tree_vram_bytes": used, "vram_limit_bytes": limit},
                is_over_own_limit=True,
            )
    return Verdict()


# -- what the machine has left


def time_to_exhaustion_s(free: Sequence[tuple[float, float]]) -> float | None:
    """Seconds until nothing is left if the trend holds; None when it is not falling.

    free: (monotonic seconds, free bytes), oldest first, at least two at different times. Least-squares line.
    """
    mean_at = sum(at for at, _ in free) / len(free)
    mean_bytes = sum(value for _, value in free) / len(free)
    spread = sum((at - mean_at) ** 2 for at, _ in free)
    if not spread:
        return None
    slope = sum((at - mean_at) * (value - mean_bytes) for at, value in free) / spread
    return max(0.0, free[-1][1]) / -slope if slope < 0 else None


def _machine_ram(_: Limits, state: State, sample: Sample) -> Verdict:
    available, total = sample.ram_available_bytes, sample.ram_total_bytes
    if available is None or not total or not sample.is_biggest or available > total * _RAM_LOW:
        return Verdict()
    figures: dict[str, Any] = {
        "ram_available_bytes": available,
        "ram_total_bytes": total,
        "tree_ram_bytes": sample.tree_ram_bytes,
    }
    left = f"{available / _GB:.2f} GB of RAM are left"
    if available < total * _RAM_CRITICAL and (sample.tree_ram_bytes or 0) > total / 10:
        return Verdict(action=Action.KILL, reason=f"{left}, and this run holds the most", figures=figures)
    values = [
        (s.at, s.ram_available_bytes)
        for s in state.samples
        if s.ram_available_bytes is not None and sample.at - s.at <= _RAM_WINDOW_S
    ]
    return _forecast(state, sample, values, left, figures, 2 * sample.save_s + 3.0)


def _machine_disk(_: Limits, state: State, sample: Sample) -> Verdict:
    for folder, free in sample.disk_free_bytes.items():
        if free < _DISK_LOW_BYTES:
            values = [
                (s.at, s.disk_free_bytes[folder])
                for s in state.samples
                if folder in s.disk_free_bytes and sample.at - s.at <= _DISK_WINDOW_S
            ]
            left = f"{free / _GB:.2f} GB of disk are left in {folder}"
            figures = {"folder": folder, "disk_free_bytes": free}
            verdict = _forecast(state, sample, values, left, figures, 2 * sample.save_s + 10.0)
            if verdict.action is not Action.GO_ON:
                return verdict
    return Verdict()


def _forecast(
    state: State,
    sample: Sample,
    values: Sequence[tuple[float, float]],
    left: str,
    figures: dict[str, Any],
    need_s: float,
) -> Verdict:
    """SAVE when twice the time needed is left at this rate, STOP when only that is.

    need_s: what it takes to hear of the stop and to save, with something to spare.
    """
    if len(values) < _MIN_SAMPLES:
        return Verdict()
    left_s = time_to_exhaustion_s(values)
    if left_s is None or left_s > 2 * need_s:
        return Verdict()
    figures = {**figures, "forecast_s": left_s, "save_s": sample.save_s}
    told = f"{left}, at this rate for {left_s:.0f} s more"
    if left_s <= need_s:
        return Verdict(action=Action.STOP, reason=told, figures=figures)
    if state.save_asked_at is not None and sample.at - state.save_asked_at < _SAVE_AGAIN_S:
        return Verdict()
    return Verdict(action=Action.SAVE, reason=told, figures=figures)


# -- pauses


def _heat(limits: Limits, state: State, sample: Sample) -> Verdict:
    hottest = max((gpu for gpu in sample.gpus or () if gpu.temp_c is not None), key=_temp_c, default=None)
    limit = limits.gpu_max_temp_c
    if not state.is_too_hot:
        if hottest is None or _temp_c(hottest) <= limit:
            return Verdict()
        return _verdict_on_heat(Action.PAUSE, hottest, f"GPU {hottest.index} is at {_temp_c(hottest):g} °C", limit)
    if hottest is None:
        return Verdict(action=Action.CONTINUE, reason="the temperature cannot be read any more")
    told = f"GPU {hottest.index} is at {_temp_c(hottest):g} °C"
    if _temp_c(hottest) <= limit - COOLER_BY_C:
        return _verdict_on_heat(Action.CONTINUE, hottest, told, limit)
    paused_s = state.all_paused_s(sample.at)
    if paused_s >= limits.max_pause_s:
        return _verdict_on_heat(Action.STOP, hottest, f"{told} after {paused_s / 60:.3g} min of pause", limit)
    return Verdict()


def _long_pause(limits: Limits, state: State, sample: Sample) -> Verdict:
    paused_s = state.all_paused_s(sample.at)
    if not state.is_held or paused_s < limits.max_pause_s:
        return Verdict()
    told = f"it was paused for {paused_s / 60:.3g} min in all (--max-pause-minutes {limits.max_pause_s / 60:g})"
    figures = {"paused_s": paused_s, "max_pause_s": limits.max_pause_s}
    return Verdict(action=Action.STOP, reason=told, figures=figures)


def _temp_c(gpu: Gpu) -> float:
    return gpu.temp_c or 0.0


def _verdict_on_heat(action: Action, gpu: Gpu, told: str, limit_c: float) -> Verdict:
    figures = {"gpu": gpu.uuid, "temp_c": gpu.temp_c, "gpu_max_temp_c": limit_c}
    return Verdict(action=action, reason=f"{told} (limit {limit_c:g})", figures=figures)
