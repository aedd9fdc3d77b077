"""A pretend NVML below the real `pynvml`: a machine without a GPU behaves as the JSON file $FAKE_NVML says.

    {"gpus": [{"uuid": "GPU-0", "name": "Fake", "total": 80000000000, "used": 1000000000, "temp": 45, "busy": 3,
               "milliwatts": 80500, "throttle": 4, "processes": {"1234": 900000000},
               "slices": [{"uuid": "MIG-0", "name": "Fake MIG 1g", "total": 10000000000, "used": 0, "processes": {}}]}],
     "error": null, "delay_s": 0}

Read afresh at every call, so that a test changes the cards while a run is going on. What is missing is not supported,
as on cards that lack it. "error": the NVML error number that every call gives. "lost": true on a card: it fell off the
bus. `python nvml.py ARGS` is the whole `backprop` command on such a machine.
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

SUCCESS, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED = 0, 1, 2, 3
NOT_FOUND, INSUFFICIENT_SIZE, GPU_IS_LOST = 6, 7, 15
_SLICE = 1000  # handles: 1 + index for cards, and 1000 times that plus the number of the slice

_real_cdll = ctypes.CDLL


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Replace the state, so that nobody reads half of it."""
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(state))
    draft.replace(path)


class Library:
    """The C functions that pynvml looks up, by name.

    As with the driver's own, each that opens it in a process closes it once, and it is open until the last has: also
    where a thread of an earlier test does so late.
    """

    _opened = 0  # of all in this process

    def __getattr__(self, name: str) -> Any:
        try:
            function = object.__getattribute__(self, "_" + name.removesuffix("_v2").removesuffix("_v3"))
        except AttributeError:
            raise AttributeError(name) from None

        def call(*arguments: Any) -> int:
            state = json.loads(Path(os.environ["FAKE_NVML"]).read_text())
            time.sleep(state.get("delay_s", 0))
            if state.get("error"):
                return state["error"]
            if not Library._opened and not name.startswith("nvmlInit"):
                return UNINITIALIZED
            return function(state, *arguments)

        if name == "nvmlErrorString":
            return object.__getattribute__(self, "_nvmlErrorString")
        return call

    def _device(self, state: dict, handle: Any) -> dict | None:
        number = ctypes.cast(handle, ctypes.c_void_p).value or 0
        if number >= _SLICE:
            card = state["gpus"][number // _SLICE - 1]
            return card["slices"][number % _SLICE]
        card = state["gpus"][number - 1]
        return None if card.get("lost") else card

    def _number(self, state: dict, handle: Any, key: str, out: Any) -> int:
        device = self._device(state, handle)
        if device is None:
            return GPU_IS_LOST
        if device.get(key) is None:
            return NOT_SUPPORTED
        out._obj.value = device[key]
        return SUCCESS

    def _text(self, state: dict, handle: Any, key: str, buffer: Any) -> int:
        device = self._device(state, handle)
        if device is None:
            return GPU_IS_LOST
        buffer.value = device[key].encode()
        return SUCCESS

    def _nvmlInitWithFlags(self, state: dict, flags: Any) -> int:
        Library._opened += 1
        return SUCCESS

    def _nvmlShutdown(self, state: dict) -> int:
        Library._opened -= 1
        return SUCCESS

    def _nvmlErrorString(self, code: int) -> bytes:
        return f"fake error {code}".encode()

    def _nvmlDeviceGetCount(self, state: dict, out: Any) -> int:
        out._obj.value = len(state["gpus"])
        return SUCCESS

    def _nvmlDeviceGetHandleByIndex(self, state: dict, index: Any, out: Any) -> int:
        ctypes.cast(out, ctypes.POINTER(ctypes.c_void_p))[0] = index.value + 1
        return SUCCESS

    def _nvmlDeviceGetUUID(self, state: dict, handle: Any, buffer: Any, size: Any) -> int:
        return self._text(state, handle, "uuid", buffer)

    def _nvmlDeviceGetName(self, state: dict, handle: Any, buffer: Any, size: Any) -> int:
        return self._text(state, handle, "name", buffer)

    def _nvmlDeviceGetMemoryInfo(self, state: dict, handle: Any, out: Any) -> int:
        device = self._device(state, handle)
        if device is None:
            return GPU_IS_LOST
        if device.get("total") is None:
            return NOT_SUPPORTED
        memory = out._obj
        memory.total, memory.used = device["total"], device["used"]
        memory.free = memory.total - memory.used
        return SUCCESS

    def _nvmlDeviceGetTemperature(self, state: dict, handle: Any, sensor: Any, out: Any) -> int:
        return self._number(state, handle, "temp", out)

    def _nvmlDeviceGetPowerUsage(self, state: dict, handle: Any, out: Any) -> int:
        return self._number(state, handle, "milliwatts", out)

    def _nvmlDeviceGetCurrentClocksThrottleReasons(self, state: dict, handle: Any, out: Any) -> int:
        return self._number(state, handle, "throttle", out)

    def _nvmlDeviceGetUtilizationRates(self, state: dict, handle: Any, out: Any) -> int:
        device = self._device(state, handle)
        if device is None or device.get("busy") is None:
            return NOT_SUPPORTED
        out._obj.gpu = device["busy"]
        return SUCCESS

    def _nvmlDeviceGetComputeRunningProcesses(self, state: dict, handle: Any, count: Any, out: Any) -> int:
        return self._processes(state, handle, "processes", count, out)

    def _nvmlDeviceGetGraphicsRunningProcesses(self, state: dict, handle: Any, count: Any, out: Any) -> int:
        return self._processes(state, handle, "drawing", count, out)

    def _processes(self, state: dict, handle: Any, key: str, count: Any, out: Any) -> int:
        device = self._device(state, handle)
        if device is None or device.get(key) is None:
            return NOT_SUPPORTED
        held = device[key]
        room, count._obj.value = count._obj.value, len(held)
        if room < len(held):
            return INSUFFICIENT_SIZE
        for number, (pid, size) in enumerate(held.items()):
            out[number].pid = int(pid)
            out[number].usedGpuMemory = 2**64 - 1 if size is None else size
        return SUCCESS

    def _nvmlDeviceGetMigMode(self, state: dict, handle: Any, current: Any, pending: Any) -> int:
        device = self._device(state, handle)
        if device is None or "slices" not in device:
            return NOT_SUPPORTED
        current._obj.value = pending._obj.value = 1
        return SUCCESS

    def _nvmlDeviceGetMaxMigDeviceCount(self, state: dict, handle: Any, out: Any) -> int:
        out._obj.value = 7
        return SUCCESS

    def _nvmlDeviceGetMigDeviceHandleByIndex(self, state: dict, handle: Any, index: Any, out: Any) -> int:
        card = ctypes.cast(handle, ctypes.c_void_p).value or 0
        if index.value >= len(state["gpus"][card - 1]["slices"]):
            return NOT_FOUND
        ctypes.cast(out, ctypes.POINTER(ctypes.c_void_p))[0] = card * _SLICE + index.value
        return SUCCESS


def loader() -> Any:
    """What stands in for `ctypes.CDLL`, with the pretend library under the real one's name."""
    library = Library()

    def load(name: Any, *arguments: Any, **options: Any) -> Any:
        return library if name == "libnvidia-ml.so.1" else _real_cdll(name, *arguments, **options)

    return load


def install(patch: "pytest.MonkeyPatch", state: Path) -> None:
    """For the time of a test this process finds the pretend library."""
    import pynvml

    load = loader()
    patch.setenv("FAKE_NVML", str(state))
    patch.setattr(ctypes, "CDLL", load)
    patch.setattr(pynvml, "CDLL", load)
    # the binding keeps what it has looked up
    patch.setattr(pynvml, "nvmlLib", None)
    patch.setattr(pynvml, "_nvmlLib_refcount", 0)
    patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})


if __name__ == "__main__":
    ctypes.CDLL = loader()
    sys.argv[0] = "backprop"
    from backprop.__main__ import main

    main()
