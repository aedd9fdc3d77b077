"""A configuration to start with: every setting with a comment, and values where this machine needs other ones.

Pure: a reading of the machine and the help of the options enter, the text of a TOML file leaves, for `backprop init`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from backprop import config
from backprop.records import GB, Gpu, MachineState, Record

_MB = 1_000_000
_CORES_A_RUN = 4  # a trainer with its data loaders
_RAM_A_RUN_BYTES = 16 * GB
_MOST_RUNS = 8
_SMALL_RAM_BYTES = 16 * GB  # of less, an eighth is kept free instead of the default
_SMALL_CARD_BYTES = 5 * GB  # of less, half is required

_HEAD = """\
# Settings of Backprop, for {whom}.
# Command-line options and environment variables (BACKPROP_MAX_RUN_MINUTES) override this file.
# Lines without a '#' differ from the defaults to fit this machine; uncomment others to change them.
"""
_NOTIFY = """
# {comment}
# [[notify]]
# desktop = true
#
# [[notify]]
# webhook = "https://hooks.example.org/services/..."
# on = ["failed", "interrupted"]
#
# [[notify]]
# command = ["mail", "-s", "a run has ended", "me@example.org"]
"""


class Fitted(Record, frozen=True):
    """A value for this machine, and why."""

    value: int | float
    why: str


def fitted(snapshot: MachineState) -> dict[str, Fitted]:
    """The settings for which this machine needs another value than the default."""
    found = {}
    if (runs := _runs_at_once(snapshot)) is not None and runs.value != config.default("maxParallel"):
        found["maxParallel"] = runs
    total = snapshot.ram_total_bytes
    if total is not None and total < _SMALL_RAM_BYTES:
        found["minFreeRamGB"] = Fitted(value=round(total / 8 / GB, 1), why=f"an eighth of {total / GB:.0f} GB")
    cards = [gpu.vram_total_bytes for gpu in snapshot.gpus or () if gpu.vram_total_bytes]
    if cards and min(cards) < _SMALL_CARD_BYTES:
        found["gpu.minFreeVramMB"] = Fitted(value=min(cards) // 2 // _MB, why="half of the smallest GPU")
    return found


def _runs_at_once(snapshot: MachineState) -> Fitted | None:
    gpus: Sequence[Gpu] = snapshot.gpus or ()
    if gpus:
        return Fitted(value=len(gpus), why=f"{len(gpus)} {'GPU' if len(gpus) == 1 else 'GPUs'}, a run on each")
    if snapshot.cpu_count is None or snapshot.ram_total_bytes is None:
        return None
    room = min(snapshot.cpu_count // _CORES_A_RUN, snapshot.ram_total_bytes // _RAM_A_RUN_BYTES, _MOST_RUNS)
    return Fitted(
        value=max(1, room), why=f"{snapshot.cpu_count} cores, {snapshot.ram_total_bytes / GB:.0f} GB of RAM, no GPU"
    )


def text(comments: Mapping[str, str], values: Mapping[str, Fitted], whom: str) -> str:
    """The file. comments: a line for each key. whom: whose settings it holds."""
    parts = [_HEAD.format(whom=whom)]
    for key in config.KEYS:
        if key == "notify":
            continue
        chosen = values.get(key)
        comment = comments[key] if chosen is None else f"{comments[key]} Here: {chosen.why}."
        value = _shown(key) if chosen is None else chosen.value
        hidden = "# " if chosen is None else ""
        parts.append(f"\n# {comment}\n{hidden}{key} = {_toml(value)}\n")
    # a table ends the settings above it, and must come last
    return "".join(parts) + _NOTIFY.format(comment=comments["notify"])


def _shown(key: str) -> Any:
    example = config.SETTINGS[key].example
    return config.default(key) if example is None else example


def _toml(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(value)  # strings, whole numbers and booleans are written alike
