"""The GPUs of this machine from whoever can tell: NVML, else nvidia-smi, else the tools for AMD cards.

A probe that fails, hangs or prints rubbish is a problem to be told, never an error: the governor is blind to GPUs then.
`read_gpus` asks once and waits; `GpuPoller` asks again and again beside a supervisor's loop. This module is also a
program, the poller's helper for tools that are slow: `python -m backprop.governor.probes.gpus KIND PERIOD_S FD`.
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

_TOOLS: dict[str, Callable[[float], tuple[Gpu, ...]]] = {
    "nvidia-smi": gpu_tools.read_nvidia_smi,
    "rocm-smi": gpu_tools.read_rocm_smi,
    "amd-smi": gpu_tools.read_amd_smi,
}
# what --gpu-probe may say -> whom to ask, in this order
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

    gpus: tuple[Gpu, ...] | None = ()  # None: nobody can tell
    problem: str | None = None  # why not
    source: str = "none"  # who told


class _Message(Record, frozen=True):
    """What the helper says."""

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
    """What NVML says. A driver that hangs keeps a thread, and nothing else."""
    global _nvml  # noqa: PLW0603  the library is open once in a process, whoever asks
    library = _nvml
    readings: queue.SimpleQueue[GpuReading] = queue.SimpleQueue()
    try:
        threading.Thread(target=lambda: readings.put(_read_nvml(library)), daemon=True).start()
    except RuntimeError as error:  # the user has as many as `ulimit -u` allows
        return GpuReading(gpus=None, problem=f"NVML cannot be asked: {error}")
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
    except Exception as error:  # noqa: BLE001  whatever a broken driver makes of the binding, somebody waits for a word
        return GpuReading(gpus=None, problem=f"NVML failed: {type(error).__name__}: {error}")


class GpuPoller:
    """Readings once a second, beside a supervisor's loop: NVML on a thread, tools in a process of their own.

    The supervisor collects every child it has, and takes those that it did not know for its trainer's: a process that
    polls must not descend from it.
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

    def start(self, detach: Detach) -> None:
        """To be called before the trainer is launched.

        detach: starts a command that does not descend from us and keeps one file descriptor. Raises nothing: without a
        helper there is no reading.
        """
        sources = _SOURCES[self._kind]
        # where the library is there but does not answer, a tool may
        self._uses_nvml = "nvml" in sources and read_gpus("nvml").problem is None
        if self._uses_nvml or not any(_is_present(source) for source in sources if source != "nvml"):
            return
        with suppress(OSError):
            self._reader, writer = os.pipe()
            os.set_blocking(self._reader, False)
            try:
                detach([sys.executable, "-m", __name__, self._kind, str(self._period_s), str(writer)], writer)
            finally:
                os.close(writer)

    def latest(self) -> tuple[GpuReading, float] | None:
        """The newest reading and when it was taken (monotonic seconds); None as long as there is none. Never blocks."""
        if self._reader is not None:
            self._handle_requests(self._reader)
        elif self._uses_nvml and self._thread is None:
            # only now: processes are launched while there is one thread
            thread = threading.Thread(target=self._poll_nvml, daemon=True)
            with suppress(RuntimeError):  # the user has as many as `ulimit -u` allows: the next look tries again
                thread.start()
                self._thread = thread
        return self._latest

    def close(self) -> None:
        """End the helper or the thread; one that hangs in a driver is left to itself."""
        self._closed.set()
        if self._reader is not None:
            os.close(self._reader)  # the helper sees that nobody listens
            self._reader = None
        if self._thread is not None:
            self._thread.join(TIMEOUT_S)

    def _poll_nvml(self) -> None:
        library = Nvml()
        while not self._closed.is_set():
            self._latest = (_read_nvml(library), time.monotonic())
            self._closed.wait(self._period_s)
        library.close()

    def _handle_requests(self, reader: int) -> None:
        with suppress(BlockingIOError):
            while more := os.read(reader, 65_536):
                self._unread += more
        *lines, self._unread = self._unread.split(b"\n")
        if lines:
            message = msgspec.json.decode(lines[-1], type=_Message)
            self._latest = (message.reading, message.at)


def _help(kind: str, period_s: float, writer: int) -> None:
    """Write a reading a period until nobody reads any more."""
    listener = select.poll()
    listener.register(writer, 0)
    encode = msgspec.json.Encoder().encode
    with suppress(BrokenPipeError):
        while not listener.poll(0):
            message = _Message(at=time.monotonic(), reading=read_gpus(kind))
            os.write(writer, encode(message) + b"\n")
            listener.poll(period_s * 1000)


if __name__ == "__main__":
    _help(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
