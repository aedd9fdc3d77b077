"""What the trainer of one session wrote, read with Python's own json: the truth that records are compared with."""

import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_DECODER = json.JSONDecoder()


@dataclass
class Output:
    """One session's output, once nobody writes to it any more."""

    steps: "array[float]" = field(default_factory=lambda: array("d"))
    values: "array[float]" = field(default_factory=lambda: array("d"))
    saved: list[tuple[int, str]] = field(default_factory=list)  # step, path
    started: dict[str, Any] | None = None
    has_counted: bool = False
    crash_code: int | None = None


def read_output(path: Path, folder: Path) -> Output:
    """folder: in which the trainer worked."""
    output = Output()
    for event in events(path.read_bytes() if path.exists() else b""):
        match event.get("event"):
            case None if "value" in event:
                output.steps.append(event["step"])
                output.values.append(event["value"])
            case "checkpoint_saved":
                output.saved.append((event["step"], str(folder / event["path"])))
            case "started":
                output.started = event
            case "counted":
                output.has_counted = True
            case "crashing":
                output.crash_code = event["code"]
            case _:
                pass
    return output


def events(data: bytes) -> Iterator[dict[str, Any]]:
    """The objects in these lines: one each, or two where a signal came between a line and its end."""
    for line in data.decode(errors="replace").split("\n"):
        found, at = [], 0
        try:
            while at < len(line):
                value, at = _DECODER.raw_decode(line, at)
                found.append(value)
        except ValueError:
            continue  # cut short by a kill or a full disk
        yield from (value for value in found if isinstance(value, dict))
