"""GPUs through NVML, NVIDIA's own library, in this process: microseconds per GPU once it is open.

The library comes with the driver. It is opened at the first reading and kept open; when the driver goes away under it
(a reset, an update), the next reading opens it again. Not for use from several threads.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from backprop.records import Gpu, Throttle

_LIBRARY = "libnvidia-ml.so.1"
_MILLIWATTS = 1000.0
# bits of nvmlClocksEventReasons; the others are no loss: idle, clocks that the user set, cards that run in step
_THROTTLES = {
    0x4: Throttle.POWER,  # SwPowerCap
    0x8: Throttle.HARDWARE,  # HwSlowdown
    0x20: Throttle.THERMAL,  # SwThermalSlowdown
    0x40: Throttle.THERMAL,  # HwThermalSlowdown
    0x80: Throttle.POWER,  # HwPowerBrakeSlowdown
}


class NvmlError(Exception):
    """NVML failed; the text says why, in one line."""


def is_present() -> bool:
    """Whether the library is installed. A hundred times faster than importing `pynvml` to find out."""
    try:
        ctypes.CDLL(_LIBRARY)
    except OSError:
        return False
    return True


def import_binding() -> None:
    """Import what reads the library: 50 ms of CPU time. Raises nothing: where that fails, a reading says so."""
    with suppress(Exception):
        import pynvml  # noqa: F401


def throttles(bits: int | None) -> tuple[Throttle, ...] | None:
    """The reasons in a bit mask of NVML, each once; None where the mask is unknown."""
    return None if bits is None else tuple(dict.fromkeys(why for bit, why in _THROTTLES.items() if bits & bit))


class _Device(NamedTuple):
    """A GPU, or a slice of one, and what never changes about it."""

    handle: Any
    card: Any  # the same, or the card that a slice belongs to: it has the sensors
    number: int  # of the card, in the order of the PCI bus
    uuid: str
    name: str
    is_slice: bool


class Nvml:
    """The library, open from the first reading on."""

    def __init__(self) -> None:
        self._is_open = False

    def read(self) -> tuple[Gpu, ...]:
        """All cards; MIG slices instead of the cards that are cut into them. Raises NvmlError."""
        if not is_present():
            raise NvmlError(f"{_LIBRARY} is not installed")
        import pynvml  # 50 ms

        try:
            if not self._is_open:
                pynvml.nvmlInit()
                self._is_open = True
            return tuple(_read_gpu(pynvml, device) for device in _devices(pynvml))
        except pynvml.NVMLError as error:
            self.close()  # whatever it was: start over at the next reading
            raise NvmlError(str(error)) from error

    def close(self) -> None:
        """Close the library. A later reading opens it again."""
        if self._is_open:
            import pynvml

            self._is_open = False
            _or_none(pynvml, pynvml.nvmlShutdown)


def _devices(pynvml: Any) -> Iterator[_Device]:
    for index in range(pynvml.nvmlDeviceGetCount()):
        card = _or_none(pynvml, pynvml.nvmlDeviceGetHandleByIndex, index)
        if card is None:
            continue  # it fell off the bus; the others are there
        slices = list(_slices(pynvml, card))
        for handle in slices or [card]:
            uuid = _or_none(pynvml, pynvml.nvmlDeviceGetUUID, handle)
            if uuid is not None:
                name = _or_none(pynvml, pynvml.nvmlDeviceGetName, handle) or "NVIDIA GPU"
                yield _Device(handle, card, index, uuid, name, is_slice=bool(slices))


def _slices(pynvml: Any, card: Any) -> Iterator[Any]:
    """The MIG devices of a card that is cut into them."""
    mode = _or_none(pynvml, pynvml.nvmlDeviceGetMigMode, card)
    if mode is not None and mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE:
        for number in range(_or_none(pynvml, pynvml.nvmlDeviceGetMaxMigDeviceCount, card) or 0):
            handle = _or_none(pynvml, pynvml.nvmlDeviceGetMigDeviceHandleByIndex, card, number)
            if handle is not None:  # an unused slot
                yield handle


def _read_gpu(pynvml: Any, device: _Device) -> Gpu:
    memory = _or_none(pynvml, pynvml.nvmlDeviceGetMemoryInfo, device.handle)
    rates = _or_none(pynvml, pynvml.nvmlDeviceGetUtilizationRates, device.handle)
    temp_c = _or_none(pynvml, pynvml.nvmlDeviceGetTemperature, device.card, pynvml.NVML_TEMPERATURE_GPU)
    milliwatts = _or_none(pynvml, pynvml.nvmlDeviceGetPowerUsage, device.card)
    return Gpu(
        index=device.number,
        uuid=device.uuid,
        name=device.name,
        vendor="nvidia",
        vram_total_bytes=None if memory is None else memory.total,
        vram_free_bytes=None if memory is None else memory.free,
        temp_c=None if temp_c is None else float(temp_c),
        utilization_percent=None if rates is None else float(rates.gpu),
        power_w=None if milliwatts is None else milliwatts / _MILLIWATTS,
        throttled=throttles(_or_none(pynvml, pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, device.card)),
        is_slice=device.is_slice,
        process_vram_bytes=_processes(pynvml, device.handle),
    )


def _processes(pynvml: Any, handle: Any) -> dict[int, int] | None:
    """Process id -> bytes that it holds on a GPU; None when the GPU does not report it."""
    held: dict[int, int] = {}
    computing = _or_none(pynvml, pynvml.nvmlDeviceGetComputeRunningProcesses, handle)
    if computing is None:
        return None
    drawing = _or_none(pynvml, pynvml.nvmlDeviceGetGraphicsRunningProcesses, handle) or []
    for process in (*computing, *drawing):
        if process.usedGpuMemory is not None:
            # one that computes and draws is in both lists, with the same figure
            held[process.pid] = max(held.get(process.pid, 0), process.usedGpuMemory)
    return held


def _or_none(pynvml: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """NVML's answer; None where this GPU or driver does not support it. Raises NVMLError when the driver is gone."""
    try:
        return function(*arguments)
    except pynvml.NVMLError as error:
        gone = {
            pynvml.NVML_ERROR_UNINITIALIZED,
            pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
            pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
            pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
        }
        if error.value in gone and function is not pynvml.nvmlShutdown:
            raise
        return None
