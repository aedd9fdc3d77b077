"""May a session start, and on which GPUs? Pure: limits, machine state and reservations in; a decision out."""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from backprop.records import GB, Gpu, Limits, MachineState, Record

_ABOUT_AS_FREE_BYTES = 1 << 30  # GPUs whose free memory differs by less are ranked by temperature


class Obstacle(str, Enum):
    """What keeps a session from starting."""

    LINE = "line"  # runs ahead in the queue
    SLOT = "slot"  # the maximum number of runs is active
    RAM = "ram"
    DISK = "disk"
    GPU = "gpu"  # no GPU is cool enough and has enough free memory


class Reservation(Record, frozen=True):
    """What an active run was admitted for and does not use yet."""

    run_id: str
    label: str = ""  # for people; without one its id
    ram_bytes: int = 0
    vram_bytes: Mapping[str, int] = {}  # GPU UUID -> bytes there


class AdmissionDecision(Record, frozen=True):
    """The governor's decision, and the figures that it is based on."""

    figures: dict[str, Any]
    reason: str | None = None  # of the refusal; None: admitted
    obstacle: Obstacle | None = None
    is_unsatisfiable: bool = False  # waiting does not help: this machine is too small
    gpus: tuple[Gpu, ...] | None = None  # assigned to the session; None: the trainer uses what it finds

    @property
    def is_admitted(self) -> bool:
        """Whether the session may start."""
        return self.reason is None


def admit(limits: Limits, snapshot: MachineState, others: Sequence[Reservation] = ()) -> AdmissionDecision:
    """Whether a session with these limits may start on this machine now. Unknown figures are no obstacle.

    snapshot: with only the GPUs that the session may use. others: the active runs of this home.
    """
    figures = _figures(limits, snapshot, others)
    for check in (_slot, _ram, _disk):
        if (refusal := check(limits, snapshot, others)) is not None:
            obstacle, reason, is_unsatisfiable = refusal
            return AdmissionDecision(
                figures=figures, reason=reason, obstacle=obstacle, is_unsatisfiable=is_unsatisfiable
            )
    return _with_gpus(limits, snapshot, others, figures)


_Refusal = tuple[Obstacle, str, bool]


def _figures(limits: Limits, snapshot: MachineState, others: Sequence[Reservation]) -> dict[str, Any]:
    return {
        "running": [other.run_id for other in others],
        "max_parallel": limits.max_parallel,
        "ram_available_bytes": snapshot.ram_available_bytes,
        "ram_promised_bytes": sum(other.ram_bytes for other in others),
        "min_free_ram_bytes": limits.min_free_ram_bytes,
        "disk_free_bytes": dict(snapshot.disk_free_bytes),
        "min_free_disk_bytes": limits.min_free_disk_bytes,
        "gpus": None if snapshot.gpus is None else [_gpu_figures(limits, gpu, others) for gpu in snapshot.gpus],
        "gpu_problem": snapshot.gpu_problem,
        "gpu_max_temp_c": limits.gpu_max_temp_c,
    }


def _gpu_figures(limits: Limits, gpu: Gpu, others: Sequence[Reservation]) -> dict[str, Any]:
    return {
        "index": gpu.index,
        "uuid": gpu.uuid,
        "vram_free_bytes": gpu.vram_free_bytes,
        "vram_promised_bytes": _promised_vram_bytes(gpu, others),
        "vram_needed_bytes": needed_vram_bytes(limits, gpu),
        "temp_c": gpu.temp_c,
    }


def slot_refusal(limits: Limits, others: Sequence[Reservation]) -> str | None:
    """Why there is no free slot; None when there is one."""
    if len(others) < limits.max_parallel:
        return None
    ids = ", ".join(other.label or other.run_id for other in others[:4]) + (", ..." if len(others) > 4 else "")
    noun = "run" if len(others) == 1 else "runs"
    return f"{len(others)} {noun} active (limit {limits.max_parallel}): {ids}. Wait, or raise -p/--max-parallel."


def _slot(limits: Limits, _: MachineState, others: Sequence[Reservation]) -> _Refusal | None:
    reason = slot_refusal(limits, others)
    return None if reason is None else (Obstacle.SLOT, reason, False)


def _ram(limits: Limits, snapshot: MachineState, others: Sequence[Reservation]) -> _Refusal | None:
    available, needed = snapshot.ram_available_bytes, limits.min_free_ram_bytes
    promised = sum(other.ram_bytes for other in others)
    if available is None or needed == 0 or available - promised >= needed:
        return None
    is_unsatisfiable = snapshot.ram_total_bytes is not None and snapshot.ram_total_bytes < needed
    message = f"{available / GB:.1f} GB of RAM available"
    if is_unsatisfiable:
        message += f" of {(snapshot.ram_total_bytes or 0) / GB:.1f}"
    elif promised:
        message += f", {promised / GB:.1f} GB of it reserved for other runs"
    advice = "Lower --min-free-ram." if is_unsatisfiable else "Close something, or lower --min-free-ram."
    return Obstacle.RAM, f"{message} (needed: {needed / GB:g}). {advice}", is_unsatisfiable


def _disk(limits: Limits, snapshot: MachineState, _: Sequence[Reservation]) -> _Refusal | None:
    for folder, free in snapshot.disk_free_bytes.items():
        if free < limits.min_free_disk_bytes:
            total = snapshot.disk_total_bytes.get(folder)
            reason = (
                f"{free / GB:.2f} GB of disk free in {folder} (needed: {limits.min_free_disk_bytes / GB:g}). "
                "Free some space, or lower --min-free-disk."
            )
            return Obstacle.DISK, reason, total is not None and total < limits.min_free_disk_bytes
    return None


# -- GPUs


def needed_vram_bytes(limits: Limits, gpu: Gpu) -> int:
    """The memory reserved for a session on a GPU: its limit if it has one, else --gpu-min-vram."""
    limit = vram_limit_bytes(limits, gpu)
    return limits.gpu_min_free_vram_bytes if limit is None else limit


def vram_limit_bytes(limits: Limits, gpu: Gpu) -> int | None:
    """The most that a session may use on a GPU; None without a limit, or where the GPU's size is not known."""
    if limits.gpu_memory_bytes is not None:
        return limits.gpu_memory_bytes
    if limits.gpu_memory_fraction is not None and gpu.vram_total_bytes is not None:
        return int(gpu.vram_total_bytes * limits.gpu_memory_fraction)
    return None


def _promised_vram_bytes(gpu: Gpu, others: Sequence[Reservation]) -> int:
    return sum(other.vram_bytes.get(gpu.uuid, 0) for other in others)


def _free_vram_bytes(gpu: Gpu, others: Sequence[Reservation]) -> int | None:
    return None if gpu.vram_free_bytes is None else gpu.vram_free_bytes - _promised_vram_bytes(gpu, others)


def _with_gpus(
    limits: Limits, snapshot: MachineState, others: Sequence[Reservation], figures: dict[str, Any]
) -> AdmissionDecision:
    """The decision when only the GPUs are left to check."""
    gpus, count = snapshot.gpus, limits.gpu_count
    if count == 0:
        return AdmissionDecision(figures=figures, gpus=())
    if gpus is None:
        return AdmissionDecision(figures=figures)  # the GPUs cannot be read: the other checks still count
    if count is None:
        count = min(1, len(gpus))
        if not count:
            return AdmissionDecision(figures=figures)
    if len(gpus) < count:
        found = "no GPU found" if not gpus else f"{len(gpus)} GPU(s) found"
        reason = f"{found} (requested: {count}). Lower --gpus, or check CUDA_VISIBLE_DEVICES."
        return AdmissionDecision(figures=figures, reason=reason, obstacle=Obstacle.GPU, is_unsatisfiable=True)
    problems = {gpu.uuid: _gpu_problem(limits, gpu, others) for gpu in gpus}
    fit = [gpu for gpu in gpus if problems[gpu.uuid] is None]
    if len(fit) >= count:
        chosen = sorted(fit, key=lambda gpu: _rank(gpu, others))[:count]
        return AdmissionDecision(figures=figures, gpus=tuple(chosen))
    large_enough = [gpu for gpu in gpus if (gpu.vram_total_bytes or 1 << 62) >= needed_vram_bytes(limits, gpu)]
    message = "; ".join(problem for problem in problems.values() if problem is not None)
    if len(large_enough) < count:
        reason = f"{message}. Lower --gpu-min-vram or --gpu-memory-limit."
        return AdmissionDecision(figures=figures, reason=reason, obstacle=Obstacle.GPU, is_unsatisfiable=True)
    reason = f"{message}. Wait, or change --gpu-min-vram, --gpu-memory-limit or --gpu-max-temp."
    return AdmissionDecision(figures=figures, reason=reason, obstacle=Obstacle.GPU)


def _rank(gpu: Gpu, others: Sequence[Reservation]) -> tuple[int, float, int, str]:
    """Sort key: most free memory first, then the coolest among those about equal. Unknown values come last."""
    free = _free_vram_bytes(gpu, others)
    return (
        1 if free is None else -(free // _ABOUT_AS_FREE_BYTES),
        1000.0 if gpu.temp_c is None else gpu.temp_c,
        gpu.index,
        gpu.uuid,
    )


def _gpu_problem(limits: Limits, gpu: Gpu, others: Sequence[Reservation]) -> str | None:
    """Why a session cannot use this GPU now; None when it can."""
    needed, promised = needed_vram_bytes(limits, gpu), _promised_vram_bytes(gpu, others)
    if gpu.vram_total_bytes is not None and gpu.vram_total_bytes < needed:
        return f"GPU {gpu.index} has {gpu.vram_total_bytes / GB:.1f} GB of memory in total (needed: {needed / GB:.1f})"
    if gpu.temp_c is not None and gpu.temp_c > limits.gpu_max_temp_c:
        return f"GPU {gpu.index} is at {gpu.temp_c:g} °C (limit {limits.gpu_max_temp_c:g})"
    if gpu.vram_free_bytes is not None and gpu.vram_free_bytes - promised < needed:
        also = f", {promised / GB:.1f} GB of it reserved for other runs" if promised else ""
        return f"GPU {gpu.index} has {gpu.vram_free_bytes / GB:.1f} GB of memory free{also} (needed: {needed / GB:.1f})"
    return None
