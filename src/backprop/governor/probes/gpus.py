"""The GPUs of this machine, from the first source that works: NVML, nvidia-smi, then the tools for AMD GPUs.

A probe that fails, hangs or prints garbage is reported as a problem, never raised: the governor then works without GPU
data. `read_gpus` reads once and waits; `GpuPoller` polls in parallel to a supervisor's loop. This module is also a
program, the poller's helper for slow tools: `python -m backprop.governor.probes.gpus KIND PERIOD_S FD`.
"""

import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from backprop.governor.probes import gpu_tools, nvml
from backprop.governor.probes.gpu_tools import ToolError
from backprop.governor.probes.nvml import Nvml, NvmlError
from backprop.records import Gpu, Record

TIMEOUT_S = 2.0  # for a probe that hangs
_RARE_AFTER_S = 30.0  # of failures in a row: where no driver works, no tool is started every second
_RARE_PERIOD_S = 10.0  # from then on

_TOOLS: dict[str, Callable[[float], tuple[Gpu, ...]]] = {
    "nvidia-smi": gpu_tools.read_nvidia_smi,
    "rocm-smi": gpu_tools.read_rocm_smi,
    "amd-smi": gpu_tools.read_amd_smi,
}
# value of --gpu-probe -> sources to try, in this order
_SOURCES = {
    "auto": ("nvml", "nvidia-smi", "rocm-smi", "amd-smi"),
    "nvml": ("nvml",),
    "nvidia-smi": ("nvidia-smi",),
    "rocm": ("rocm-smi", "amd-smi"),
    "none": (),
}

Detach = Callable[[Sequence[str], int], None]


class GpuReading(Record, frozen=True):
    """What is known of the GPUs at one instant."""

    gpus: tuple[Gpu, ...] | None = ()  # None: they could not be read
    problem: str | None = None  # why not
    source: str = "none"  # that was read


class _Message(Record, frozen=True):
    """One line of the helper's output."""

    at: float  # monotonic seconds
    reading: GpuReading


_nvml = Nvml()  # open from one reading to the next


def read_gpus(kind: str, timeout_s: float = TIMEOUT_S) -> GpuReading:
    """One reading. Never raises; blocks for up to `timeout_s` for each source that hangs.

    kind: "auto", "nvml", "nvidia-smi", "rocm" or "none", as --gpu-probe has it. Not for use from several threads.
    """
    sources = _SOURCES[kind]
    problems = []
    for source in filter(_is_present, sources):
        reading = _nvml_within(timeout_s) if source == "nvml" else _read_tool(source, timeout_s)
        if reading.problem is None:
            return reading
        problems.append(reading.problem)
    if problems:
        return GpuReading(gpus=None, problem="; ".join(problems))
    if kind in {"auto", "none"}:
        return GpuReading()
    return GpuReading(gpus=None, problem=f"{' and '.join(sources)} cannot be found")


def _is_present(source: str) -> bool:
    return nvml.is_present() if source == "nvml" else gpu_tools.is_present(source)


def _read_tool(tool: str, timeout_s: float) -> GpuReading:
    try:
        return GpuReading(gpus=_TOOLS[tool](timeout_s), source=tool)
    except ToolError as error:
        return GpuReading(gpus=None, problem=str(error))


def _nvml_within(timeout_s: float) -> GpuReading:
    """A reading by NVML. A driver that hangs blocks a thread, and nothing else."""
    global _nvml  # noqa: PLW0603  the library is open once in a process
    library = _nvml
    nvml.import_binding()  # here: on a busy machine that takes time, which is not the driver's
    readings: queue.SimpleQueue[GpuReading] = queue.SimpleQueue()
    try:
        threading.Thread(target=lambda: readings.put(_read_nvml(library)), daemon=True).start()
    except RuntimeError as error:  # the user has as many as `ulimit -u` allows
        return GpuReading(gpus=None, problem=f"NVML cannot be read: {error}")
    try:
        return readings.get(timeout=timeout_s)
    except queue.Empty:
        _nvml = Nvml()  # the other one is stuck
        return GpuReading(gpus=None, problem=f"NVML did not answer within {timeout_s:g} s")


def _read_nvml(library: Nvml) -> GpuReading:
    try:
        return GpuReading(gpus=library.read(), source="nvml")
    except NvmlError as error:
        return GpuReading(gpus=None, problem=f"NVML failed: {error}")
    except Exception as error:  # noqa: BLE001  a broken driver may fail in any way, and the caller waits for a reading
        return GpuReading(gpus=None, problem=f"NVML failed: {type(error).__name__}: {error}")


class GpuPoller:
    """Polls the GPUs once a second, in parallel to a supervisor's loop: NVML in a thread, tools in a separate process.

    Less often after half a minute of failures. The supervisor takes unknown child processes for its trainer's: the
    process that polls must not descend from it.
    """

    def __init__(self, kind: str, period_s: float = 1.0) -> None:
        self._kind = kind
        self._period_s = period_s
        self._uses_nvml = False
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._reader: int | None = None
        self._unread = b""
        self._latest: tuple[GpuReading, float] | None = None

    def start(self, detach: Detach, *, has_failed: bool = False) -> None:
        """To be called before the trainer is launched. has_failed: a moment ago no source worked.

        detach: starts a command that does not descend from us and inherits one file descriptor. Raises nothing: without
        a helper there is no reading.
        """
        present = list(filter(_is_present, _SOURCES[self._kind]))
        # a tool may work where the library fails; where there is none, a driver that is slow now is asked again
        self._uses_nvml = present == ["nvml"] or (
            "nvml" in present and not has_failed and read_gpus("nvml").problem is None
        )
        if self._uses_nvml or not present:
            return
        with suppress(OSError):
            self._reader, writer = os.pipe()
            os.set_blocking(self._reader, False)
            try:
                detach([sys.executable, "-m", __name__, self._kind, str(self._period_s), str(writer)], writer)
            finally:
                os.close(writer)

    def latest(self) -> tuple[GpuReading, float] | None:
        """The latest reading and its time (monotonic seconds); None before the first one. Never blocks."""
        if self._reader is not None:
            self._read_messages(self._reader)
        elif self._uses_nvml and self._thread is None:
            # started late: processes are launched while this process has only one thread
            thread = threading.Thread(target=self._poll_nvml, daemon=True)
            with suppress(RuntimeError):  # the user has as many as `ulimit -u` allows: the next look tries again
                thread.start()
                self._thread = thread
        return self._latest

    def close(self) -> None:
        """End the helper or the thread; one that hangs in a driver is left behind."""
        self._closed.set()
        if self._reader is not None:
            os.close(self._reader)  # the helper notices, and ends
            self._reader = None
        if self._thread is not None:
            self._thread.join(TIMEOUT_S)

    def _poll_nvml(self) -> None:
        library, pace = Nvml(), _Pace(self._period_s)
        while not self._closed.is_set():
            reading = _read_nvml(library)
            self._latest = (reading, time.monotonic())
            self._closed.wait(pace.wait_s(reading, time.monotonic()))
        library.close()

    def _read_messages(self, reader: int) -> None:
        with suppress(BlockingIOError):
            while more := os.read(reader, 65_536):
                self._unread += more
        *lines, self._unread = self._unread.split(b"\n")
        if lines:
            message = msgspec.json.decode(lines[-1], type=_Message)
            self._latest = (message.reading, message.at)


def _help(kind: str, period_s: float, writer: int) -> None:
    """Write readings until the pipe has no reader: one per period, fewer after long failure."""
    listener, pace = select.poll(), _Pace(period_s)
    listener.register(writer, 0)
    encode = msgspec.json.Encoder().encode
    with suppress(BrokenPipeError):
        while not listener.poll(0):
            message = _Message(at=time.monotonic(), reading=read_gpus(kind))
            os.write(writer, encode(message) + b"\n")
            listener.poll(pace.wait_s(message.reading, message.at) * 1000)


class _Pace:
    """How often the GPUs are read."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._failing_since: float | None = None

    def wait_s(self, reading: GpuReading, now: float) -> float:
        """The time until the next reading, after this one."""
        if reading.problem is None:
            self._failing_since = None
        elif self._failing_since is None:
            self._failing_since = now
        is_rare = self._failing_since is not None and now - self._failing_since >= _RARE_AFTER_S
        return max(self._period_s, _RARE_PERIOD_S) if is_rare else self._period_s


if __name__ == "__main__":
    _help(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
