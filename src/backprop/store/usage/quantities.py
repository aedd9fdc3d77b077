"""What is measured of a session while it trains: names, units, and how samples become one that stands for longer.

A quantity NAME is the curve `sys/NAME`, and `sys.peak_NAME` and `sys.mean_NAME` in filters. Those of a card are
measured for each of the run's cards, as `gpuN/...`, and put together: see `CARD`.
"""

import re
from collections.abc import Callable, Iterable
from enum import Enum

from backprop.records import Record

PREFIX = "sys/"


class Unit(str, Enum):
    """What a quantity is counted in."""

    PERCENT = "%"
    COUNT = ""
    BYTES = "B"
    BYTES_PER_S = "B/s"
    WATTS = "W"
    CELSIUS = "°C"

    @property
    def stored(self) -> float:
        """What one is in the file: it has whole numbers, of megabytes and of kilobytes a second."""
        return {Unit.BYTES: 1e6, Unit.BYTES_PER_S: 1e3}.get(self, 1.0)


class Quantity(Record, frozen=True):
    """One thing that is measured."""

    name: str
    unit: Unit
    label: str  # as people read it
    is_level: bool = False  # of several samples the highest counts, not the mean
    is_curve: bool = True  # False: it hardly changes, and only its peak is kept


_ALL = (
    Quantity(name="cpu", unit=Unit.PERCENT, label="CPU"),  # of one core: 800 are eight
    Quantity(name="machine_cpu", unit=Unit.PERCENT, label="CPU of the machine"),  # of all cores
    Quantity(name="ram", unit=Unit.BYTES, label="RAM", is_level=True),
    Quantity(name="machine_ram", unit=Unit.BYTES, label="RAM of the machine", is_level=True),
    Quantity(name="machine_ram_total", unit=Unit.BYTES, label="RAM in total", is_level=True, is_curve=False),
    Quantity(name="machine_swap", unit=Unit.BYTES, label="swap of the machine", is_level=True),
    Quantity(name="ram_pressure", unit=Unit.PERCENT, label="waits for memory"),  # on the machine
    Quantity(name="processes", unit=Unit.COUNT, label="processes", is_level=True),
    Quantity(name="disk_read", unit=Unit.BYTES_PER_S, label="read from disk"),
    Quantity(name="disk_write", unit=Unit.BYTES_PER_S, label="written to disk"),
    Quantity(name="gpu_util", unit=Unit.PERCENT, label="GPU"),
    Quantity(name="vram", unit=Unit.BYTES, label="VRAM", is_level=True),  # of the run
    Quantity(name="vram_others", unit=Unit.BYTES, label="VRAM of other processes", is_level=True),
    Quantity(name="vram_used", unit=Unit.BYTES, label="VRAM in use", is_level=True),  # by anyone
    Quantity(name="vram_total", unit=Unit.BYTES, label="VRAM in total", is_level=True, is_curve=False),
    Quantity(name="gpu_power", unit=Unit.WATTS, label="GPU power"),
    Quantity(name="gpu_temp", unit=Unit.CELSIUS, label="GPU temperature", is_level=True),
    # share of the time in which the clocks were held back for this reason: see Throttle
    Quantity(name="gpu_throttle_thermal", unit=Unit.PERCENT, label="throttled by heat"),
    Quantity(name="gpu_throttle_power", unit=Unit.PERCENT, label="throttled by the power limit"),
    Quantity(name="gpu_throttle_hardware", unit=Unit.PERCENT, label="throttled by the hardware"),
)
QUANTITIES = {one.name: one for one in _ALL}
ENERGY = "energy_wh"  # the integral of gpu_power


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known)


# what is measured of each card -> the quantity that all cards of a run amount to, and how
CARD: dict[str, tuple[Quantity, Callable[[Iterable[float]], float]]] = {
    "util": (QUANTITIES["gpu_util"], _mean),
    "vram": (QUANTITIES["vram"], sum),
    "vram_others": (QUANTITIES["vram_others"], sum),
    "vram_used": (QUANTITIES["vram_used"], sum),
    "vram_total": (QUANTITIES["vram_total"], sum),
    "power": (QUANTITIES["gpu_power"], sum),
    "temp": (QUANTITIES["gpu_temp"], max),
    "thermal": (QUANTITIES["gpu_throttle_thermal"], max),
    "capped": (QUANTITIES["gpu_throttle_power"], max),
    "slowed": (QUANTITIES["gpu_throttle_hardware"], max),
}
_CARD_NAME = re.compile(r"(gpu\d{1,3}(?:\.\d{1,2})?)/(\w+)")  # .1, .2, ...: further slices of the same card


def card_and_part(name: str) -> tuple[str, str] | None:
    """("gpu0", "util") for gpu0/util; None for what is not of a card."""
    found = _CARD_NAME.fullmatch(name)
    return (found[1], found[2]) if found is not None and found[2] in CARD else None


def quantity(name: str) -> Quantity | None:
    """What a name of the file or of a curve stands for; None for one that is not known."""
    if (parts := card_and_part(name)) is not None:
        return CARD[parts[1]][0]
    return QUANTITIES.get(name)


def unit_of(name: str) -> Unit:
    """What it is counted in. Raises KeyError for a name that is not known."""
    found = quantity(name)
    if found is None:
        raise KeyError(name)
    return found.unit


def is_curve(name: str) -> bool:
    """Whether it is shown over time."""
    found = quantity(name)
    return found is not None and found.is_curve
