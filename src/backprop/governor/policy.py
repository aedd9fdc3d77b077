"""May a session start? Pure: limits and a snapshot in, a decision out."""

from typing import Any

from backprop.records import Limits, Record, Snapshot

_GB = 1e9


class Decision(Record, frozen=True):
    """What the governor says, and the figures it said it from."""

    reason: str | None  # why not; None: go ahead
    figures: dict[str, Any]

    @property
    def is_admitted(self) -> bool:
        return self.reason is None


def admit(limits: Limits, snapshot: Snapshot) -> Decision:
    """Whether a session with these limits may start on this machine now. What is unknown does not hinder."""
    figures = {
        "ram_available_bytes": snapshot.ram_available_bytes,
        "min_free_ram_bytes": limits.min_free_ram_bytes,
        "disk_free_bytes": dict(snapshot.disk_free_bytes),
        "min_free_disk_bytes": limits.min_free_disk_bytes,
    }
    return Decision(reason=_ram_reason(limits, snapshot) or _disk_reason(limits, snapshot), figures=figures)


def _ram_reason(limits: Limits, snapshot: Snapshot) -> str | None:
    available = snapshot.ram_available_bytes
    if available is None or available >= limits.min_free_ram_bytes:
        return None
    return (
        f"{available / _GB:.1f} GB of RAM are available (limit {limits.min_free_ram_bytes / _GB:g}). "
        "Close something, or lower --min-free-ram."
    )


def _disk_reason(limits: Limits, snapshot: Snapshot) -> str | None:
    for folder, free in snapshot.disk_free_bytes.items():
        if free < limits.min_free_disk_bytes:
            return (
                f"{free / _GB:.2f} GB of disk are free in {folder} (limit {limits.min_free_disk_bytes / _GB:g}). "
                "Make room, or lower --min-free-disk."
            )
    return None
