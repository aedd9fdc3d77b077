"""Must a session be paused, saved or stopped? Pure: limits, the state so far and a new sample in; a verdict out.

too hot            pause the tree; continue 5 °C below
paused too long    by the user or for heat, all pauses together: stop
over its own limit stop gracefully; kill at once far beyond it
machine running out, by the trend of the last samples: ask for a checkpoint first, then stop gracefully
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import msgspec

from backprop.governor.start_policy import vram_limit_bytes
from backprop.records import GB, Gpu, Limits, Pauser, Record

COOLER_BY_C = 5.0  # a session that was paused for heat continues this far below the limit
VRAM_PATIENCE_S = 3.0  # a framework may be over its limit for a moment while it reorganizes
HEADROOM = 0.25  # share by which the hard limit exceeds --ram-limit: memory to react to the stop, and to save
MIN_HEADROOM_BYTES = 1_000_000_000
UNKNOWN_SAVE_S = 2.0  # assumed length of a save until one was seen
KEEP_SAMPLES_S = 30.0

_RAM_WINDOW_S = 5.0
_DISK_WINDOW_S = 20.0  # long, because a checkpoint is written in a burst, which is no trend
_MIN_SAMPLES = 4
_RAM_LOW = (
    0.15  # share of the total: above it a falling trend is no sign of trouble, because loading data looks the same
)
_RAM_CRITICAL = 0.01  # share of the total: below it the kernel's out-of-memory killer is about to act
_DISK_LOW_BYTES = 5_000_000_000
_SAVE_AGAIN_S = 60.0
_LIMITED = {Pauser.USER, Pauser.GOVERNOR}  # whose pauses --max-pause-minutes limits


class Action(str, Enum):
    """What to do about a session now, from harmless to final."""

    NONE = "none"  # leave it running
    SAVE = "save"  # ask for a checkpoint
    PAUSE = "pause"  # stop the whole process tree in place
    CONTINUE = "continue"  # end the pause for heat
    STOP = "stop"  # gracefully, by the stop ladder
    KILL = "kill"  # at once: a graceful stop would be too late


class Stopwatch(Record, frozen=True):
    """Time spent in a state that begins and ends several times, in monotonic seconds."""

    since: float | None = None  # None: stopped
    earlier_s: float = 0.0  # measured before that

    def switched(self, now: float, *, is_on: bool) -> "Stopwatch":
        """The stopwatch after it is started or stopped at `now`; unchanged when it is in that state already."""
        if is_on == (self.since is not None):
            return self
        return Stopwatch(since=now if is_on else None, earlier_s=self.elapsed_s(now))

    def elapsed_s(self, now: float) -> float:
        """The total time measured until `now`."""
        return self.earlier_s + (0.0 if self.since is None else now - self.since)


class PauseState(Record, frozen=True):
    """Who is pausing a session, and how long it has been paused. The only record of that in a supervisor."""

    reasons: Mapping[Pauser, str] = {}  # of each pauser, oldest first; empty: the session is running
    paused: Stopwatch = Stopwatch()  # by anyone
    limited: Stopwatch = Stopwatch()  # by the user or the governor: see --max-pause-minutes

    @property
    def is_paused(self) -> bool:
        """Whether the session is paused by anyone."""
        return bool(self.reasons)

    @property
    def reason(self) -> str:
        """The reasons of all pausers in one line; "" when the session is running."""
        return "; ".join(self.reasons.values())

    def held(self, by: Pauser, reason: str, now: float) -> "PauseState":
        """The state after `by` paused the session at `now`."""
        return self._changed({**self.reasons, by: reason}, now)

    def released(self, by: Pauser, now: float) -> "PauseState":
        """The state after `by` ended its pause at `now`."""
        return self._changed({each: reason for each, reason in self.reasons.items() if each is not by}, now)

    def ended(self, now: float) -> "PauseState":
        """The state after all pauses ended at `now`."""
        return self._changed({}, now)

    def _changed(self, reasons: Mapping[Pauser, str], now: float) -> "PauseState":
        return PauseState(
            reasons=reasons,
            paused=self.paused.switched(now, is_on=bool(reasons)),
            limited=self.limited.switched(now, is_on=not _LIMITED.isdisjoint(reasons)),
        )


class Sample(Record, frozen=True):
    """One reading of a session and its machine. None for what could not be read."""

    at: float  # monotonic seconds
    ram_available_bytes: int | None = None
    ram_total_bytes: int | None = None
    tree_ram_bytes: int | None = None
    disk_free_bytes: Mapping[str, int] = {}
    gpus: tuple[Gpu, ...] | None = None  # of the session
    tree_vram_bytes: Mapping[str, int] = {}  # GPU UUID -> bytes that the tree holds there; absent: not known
    is_biggest: bool = True  # no other run of this home holds more memory
    save_s: float = UNKNOWN_SAVE_S  # the longest save so far
    pauses: PauseState = PauseState()


class State(Record, frozen=True):
    """What the policy remembers from one sample to the next."""

    samples: tuple[Sample, ...] = ()  # oldest first
    over_vram_since: Mapping[str, float] = {}
    save_asked_at: float | None = None


class PolicyDecision(Record, frozen=True):
    """What to do, why, and from which figures."""

    action: Action = Action.NONE
    reason: str = ""
    figures: Mapping[str, Any] = {}
    is_over_own_limit: bool = False  # it uses more than its own limits allow, however much is free


def hard_ram_limit_bytes(limit_bytes: int) -> int:
    """The memory limit at which a tree with this --ram-limit is killed, by the kernel or by us."""
    return limit_bytes + max(round(limit_bytes * HEADROOM), MIN_HEADROOM_BYTES)


def judge(limits: Limits, state: State, sample: Sample) -> tuple[State, PolicyDecision]:
    """Returns the state for the next sample, and the verdict on this one."""
    kept = tuple(s for s in state.samples if sample.at - s.at <= KEEP_SAMPLES_S)
    state = msgspec.structs.replace(
        state, samples=(*kept, sample), over_vram_since=_over_vram_since(limits, state.over_vram_since, sample)
    )
    for check in (_own_ram, _own_vram, _machine_ram, _machine_disk, _heat, _long_pause):
        verdict = check(limits, state, sample)
        if verdict.action is Action.SAVE:
            state = msgspec.structs.replace(state, save_asked_at=sample.at)
        if verdict.action is not Action.NONE:
            return state, verdict
    return state, PolicyDecision()


# -- the session's own use


def _own_ram(limits: Limits, _: State, sample: Sample) -> PolicyDecision:
    limit, used = limits.ram_limit_bytes, sample.tree_ram_bytes
    if limit is None or used is None or used <= limit:
        return PolicyDecision()
    hard = hard_ram_limit_bytes(limit)
    figures = {"tree_ram_bytes": used, "ram_limit_bytes": limit, "hard_ram_limit_bytes": hard}
    message = f"its processes hold {used / GB:.2f} GB of RAM (--ram-limit {limit / GB:g})"
    action = Action.KILL if used > hard else Action.STOP
    return PolicyDecision(action=action, reason=message, figures=figures, is_over_own_limit=True)


def _over_vram_since(limits: Limits, before: Mapping[str, float], sample: Sample) -> dict[str, float]:
    over = {}
    for gpu in sample.gpus or ():
        limit, used = vram_limit_bytes(limits, gpu), sample.tree_vram_bytes.get(gpu.uuid)
        if limit is not None and used is not None and used > limit:
            over[gpu.uuid] = before.get(gpu.uuid, sample.at)
    return over


def _own_vram(limits: Limits, state: State, sample: Sample) -> PolicyDecision:
    for gpu in sample.gpus or ():
        since = state.over_vram_since.get(gpu.uuid)
        if since is not None and sample.at - since >= VRAM_PATIENCE_S:
            used, limit = sample.tree_vram_bytes[gpu.uuid], vram_limit_bytes(limits, gpu) or 0
            return PolicyDecision(
                action=Action.STOP,
                reason=f"it has held {used / GB:.1f} GB of GPU {gpu.index} for {sample.at - since:.0f} s "
                f"(--gpu-memory-limit {limit / GB:.1f} GB)",
                figures={"gpu": gpu.uuid, "tree_vram_bytes": used, "vram_limit_bytes": limit},
                is_over_own_limit=True,
            )
    return PolicyDecision()


# -- resources of the machine


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


def _machine_ram(_: Limits, state: State, sample: Sample) -> PolicyDecision:
    available, total = sample.ram_available_bytes, sample.ram_total_bytes
    if available is None or not total or not sample.is_biggest or available > total * _RAM_LOW:
        return PolicyDecision()
    figures: dict[str, Any] = {
        "ram_available_bytes": available,
        "ram_total_bytes": total,
        "tree_ram_bytes": sample.tree_ram_bytes,
    }
    left = f"{available / GB:.2f} GB of RAM are left"
    if available < total * _RAM_CRITICAL and (sample.tree_ram_bytes or 0) > total / 10:
        return PolicyDecision(action=Action.KILL, reason=f"{left}, and this run holds the most", figures=figures)
    values = [
        (s.at, s.ram_available_bytes)
        for s in state.samples
        if s.ram_available_bytes is not None and sample.at - s.at <= _RAM_WINDOW_S
    ]
    return _forecast(state, sample, values, left, figures, 2 * sample.save_s + 3.0)


def _machine_disk(_: Limits, state: State, sample: Sample) -> PolicyDecision:
    for folder, free in sample.disk_free_bytes.items():
        if free < _DISK_LOW_BYTES:
            values = [
                (s.at, s.disk_free_bytes[folder])
                for s in state.samples
                if folder in s.disk_free_bytes and sample.at - s.at <= _DISK_WINDOW_S
            ]
            left = f"{free / GB:.2f} GB of disk are left in {folder}"
            figures = {"folder": folder, "disk_free_bytes": free}
            verdict = _forecast(state, sample, values, left, figures, 2 * sample.save_s + 10.0)
            if verdict.action is not Action.NONE:
                return verdict
    return PolicyDecision()


def _forecast(
    state: State,
    sample: Sample,
    values: Sequence[tuple[float, float]],
    left: str,
    figures: dict[str, Any],
    need_s: float,
) -> PolicyDecision:
    """SAVE when at this rate twice the needed time is left; STOP when no more than the needed time is.

    left: how much is left, in words. need_s: seconds to react to a stop and to save, with a margin.
    """
    if len(values) < _MIN_SAMPLES:
        return PolicyDecision()
    left_s = time_to_exhaustion_s(values)
    if left_s is None or left_s > 2 * need_s:
        return PolicyDecision()
    figures = {**figures, "forecast_s": left_s, "save_s": sample.save_s}
    message = f"{left}, at this rate for {left_s:.0f} s more"
    if left_s <= need_s:
        return PolicyDecision(action=Action.STOP, reason=message, figures=figures)
    if state.save_asked_at is not None and sample.at - state.save_asked_at < _SAVE_AGAIN_S:
        return PolicyDecision()
    return PolicyDecision(action=Action.SAVE, reason=message, figures=figures)


# -- pauses


def _heat(limits: Limits, _: State, sample: Sample) -> PolicyDecision:
    hottest = max((gpu for gpu in sample.gpus or () if gpu.temp_c is not None), key=_temp_c, default=None)
    limit = limits.gpu_max_temp_c
    if Pauser.GOVERNOR not in sample.pauses.reasons:
        if hottest is None or _temp_c(hottest) <= limit:
            return PolicyDecision()
        return _verdict_on_heat(Action.PAUSE, hottest, f"GPU {hottest.index} is at {_temp_c(hottest):g} °C", limit)
    if hottest is None:
        return PolicyDecision(action=Action.CONTINUE, reason="the temperature cannot be read any more")
    message = f"GPU {hottest.index} is at {_temp_c(hottest):g} °C"
    if _temp_c(hottest) <= limit - COOLER_BY_C:
        return _verdict_on_heat(Action.CONTINUE, hottest, message, limit)
    paused_s = sample.pauses.limited.elapsed_s(sample.at)
    if paused_s >= limits.max_pause_s:
        return _verdict_on_heat(Action.STOP, hottest, f"{message} after {paused_s / 60:.3g} min of pause", limit)
    return PolicyDecision()


def _long_pause(limits: Limits, _: State, sample: Sample) -> PolicyDecision:
    paused_s = sample.pauses.limited.elapsed_s(sample.at)
    if Pauser.USER not in sample.pauses.reasons or paused_s < limits.max_pause_s:
        return PolicyDecision()
    message = f"it was paused for {paused_s / 60:.3g} min in all (--max-pause-minutes {limits.max_pause_s / 60:g})"
    figures = {"paused_s": paused_s, "max_pause_s": limits.max_pause_s}
    return PolicyDecision(action=Action.STOP, reason=message, figures=figures)


def _temp_c(gpu: Gpu) -> float:
    return gpu.temp_c or 0.0


def _verdict_on_heat(action: Action, gpu: Gpu, message: str, limit_c: float) -> PolicyDecision:
    figures = {"gpu": gpu.uuid, "temp_c": gpu.temp_c, "gpu_max_temp_c": limit_c}
    return PolicyDecision(action=action, reason=f"{message} (limit {limit_c:g})", figures=figures)
