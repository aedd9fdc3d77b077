"""The GPUs that the governor is measured on: the machine's own, else one that the tests' fakes pretend."""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backprop.governor.probes.gpus import read_gpus
from bench.workbench import BACKPROP, ROOT, Workbench

_FAKES = ROOT / "tests" / "fakes"
_GB, _MIB = 10**9, 1 << 20
_UUID, _NAME = "GPU-bench", "Pretend card"
_USER_FIELDS = "index,name,utilization.gpu,memory.used,memory.total,temperature.gpu,power.draw"
# What people put into a script, or a status bar. It ends with the bench: a shell knows its parent
_LOOP = 'while kill -0 "$PPID" && nvidia-smi "$@"; do sleep 1; done'


@dataclass(frozen=True)
class Cards:
    """How to ask for them."""

    backprop: Sequence[str]  # the command that finds NVML
    has_tool: bool
    library: str  # what was asked, for the table
    tool: str
    gpustat: str | None  # the program, where there is one and something for it to see


def find_cards(place: Workbench) -> Cards:
    """The machine's GPUs; where NVML sees none, `place` becomes a machine with a pretend card."""
    seen = read_gpus("nvml").gpus
    if seen:
        names = f"{len(seen)} x {seen[0].name}"
        return Cards(
            backprop=(BACKPROP,),
            has_tool=shutil.which("nvidia-smi") is not None,
            library=f"NVML, {names}",
            tool=f"nvidia-smi, {names}",
            gpustat=shutil.which("gpustat", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"),
        )
    _pretend(place)
    return Cards(
        backprop=(sys.executable, str(_FAKES / "nvml.py")),
        has_tool=True,
        library="one card of a **pretend** NVML, Python that reads a file at each call: slower than the real library",
        tool="a **pretend** nvidia-smi, a Python script that reads a file: what the real one costs is another matter",
        gpustat=None,
    )


def polling_loop() -> list[str]:
    """A shell that starts nvidia-smi once a second for as long as we live."""
    return ["/bin/sh", "-c", _LOOP, "sh", f"--query-gpu={_USER_FIELDS}", "--format=csv"]


def _pretend(place: Workbench) -> None:
    by_library = {"uuid": _UUID, "name": _NAME, "total": 80 * _GB, "used": _GB, "temp": 45, "busy": 3}
    by_library |= {"milliwatts": 80_500, "processes": {}}
    by_tool = {"index": 0, "uuid": _UUID, "name": _NAME, "memory.total": 80 * _GB // _MIB, "memory.used": 1000}
    by_tool |= {"temperature.gpu": 45, "utilization.gpu": 3, "power.draw": 80.5}
    files = {"FAKE_NVML": {"gpus": [by_library]}, "FAKE_NVIDIA_SMI": {"gpus": [by_tool], "apps": []}}
    for variable, state in files.items():
        path = place.folder / f"{variable}.json"
        path.write_text(json.dumps(state))
        place.environment[variable] = str(path)
    # its `#!/usr/bin/env python3` is to be this Python
    first = (str(_FAKES), str(Path(sys.executable).parent))
    place.environment["PATH"] = os.pathsep.join((*first, place.environment["PATH"]))
    place.environment.pop("CUDA_VISIBLE_DEVICES", None)
