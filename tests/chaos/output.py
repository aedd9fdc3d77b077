"""What the trainer of one session wrote, read with Python's own json: the truth that records are compared with."""

import json
from array import array
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
    for line in path.read_bytes().split(b"\n") if path.exists() else ():
        try:
            event = json.loads(line)
        except ValueError:
            continue  # cut short by a kill or a full disk
        if not isinstance(event, dict):
            continue
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
