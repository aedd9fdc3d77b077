"""What a run used of the machine, in a few lines for people."""

from collections.abc import Iterator

from backprop.records import Usage
from backprop.store.usage import figures
from backprop.store.usage.quantities import ENERGY, PREFIX
from backprop.views.terminal import formatting

# figures that runs are compared by: label -> figure
COMPARED = {
    "CPU": "mean_cpu",
    "RAM, peak": "peak_ram",
    "GPU": "mean_gpu_util",
    "VRAM, peak": "peak_vram",
    "energy": ENERGY,
}


def charted(usage: Usage) -> list[str]:
    """The curves worth a chart, as sys/NAME: the run's own, then the machine's. Without what was zero all the time.

    Also without those of single cards, and the memory in use on a card where that of the run is known.
    """
    peak = {**usage.peak, "vram_used": 0.0} if "vram" in usage.peak else usage.peak
    found = [name for name in usage.counts if peak.get(name.removeprefix(PREFIX))]
    if peak.get("processes") == 1:
        found.remove(f"{PREFIX}processes")
    return sorted(found, key=lambda name: name.startswith(f"{PREFIX}machine_"))


def lines(usage: Usage) -> Iterator[str]:
    """Its processes, its GPUs, the machine around them; without what is not known."""
    yield from filter(None, (_tree(usage), _gpus(usage), _machine(usage)))


def figure(usage: Usage | None, name: str) -> str:
    """One figure with its unit; "-" where it is not known."""
    return formatting.figure(figures.value(usage, name), figures.unit(name))


def _tree(usage: Usage) -> str:
    parts = [
        _mean_and_peak(usage, "cpu", "CPU"),
        _figure(usage, "peak_ram", "RAM {} at most"),
        _figure(usage, "peak_processes", "{} processes") if usage.peak.get("processes", 1) > 1 else "",
        _figure(usage, "mean_disk_read", "{} read") if usage.mean.get("disk_read") else "",
        _figure(usage, "mean_disk_write", "{} written") if usage.mean.get("disk_write") else "",
    ]
    return ", ".join(filter(None, parts))


def _gpus(usage: Usage) -> str:
    total = usage.peak.get("vram_total")
    of = "" if total is None else f" of {formatting.size(total)}"
    parts = [
        _mean_and_peak(usage, "gpu_util", "GPU"),
        _figure(usage, "peak_vram", f"VRAM {{}} at most{of}"),
        _figure(usage, "peak_vram_others", "{} of other processes") if usage.peak.get("vram_others") else "",
        _figure(usage, "mean_gpu_power", "{}"),
        _figure(usage, ENERGY, "{}"),
        _figure(usage, "peak_gpu_temp", "{} at most"),
    ]
    for reason, words in (("thermal", "heat"), ("power", "the power limit"), ("hardware", "the hardware")):
        if usage.mean.get(f"gpu_throttle_{reason}"):
            parts.append(_figure(usage, f"mean_gpu_throttle_{reason}", f"throttled by {words} {{}} of the time"))
    return ", ".join(filter(None, parts))


def _machine(usage: Usage) -> str:
    total = usage.peak.get("machine_ram_total")
    of = "" if total is None else f" of {formatting.size(total)}"
    parts = [
        _figure(usage, "mean_machine_cpu", "CPU {}"),
        _figure(usage, "peak_machine_ram", f"RAM {{}} at most{of}"),
        _figure(usage, "peak_machine_swap", "{} of swap") if usage.peak.get("machine_swap") else "",
    ]
    text = ", ".join(filter(None, parts))
    return f"the machine: {text}" if text else ""


def _mean_and_peak(usage: Usage, quantity: str, label: str) -> str:
    return _figure(usage, f"mean_{quantity}", f"{label} {{}}") and (
        f"{label} {figure(usage, f'mean_{quantity}')} (peak {figure(usage, f'peak_{quantity}')})"
    )


def _figure(usage: Usage, name: str, text: str) -> str:
    """The figure in its words; "" where it is not known."""
    return "" if figures.value(usage, name) is None else text.format(figure(usage, name))
