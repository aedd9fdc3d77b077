"""What a run's usage comes to in single figures, as filters and `--sort` name them: sys.peak_ram, sys.energy_wh."""

from backprop.records import Usage
from backprop.store.usage.quantities import ENERGY, QUANTITIES, Unit, quantity

PREFIX = "sys."
_PEAK, _MEAN = "peak_", "mean_"
NAMES = (
    ENERGY,
    *(f"{_PEAK}{name}" for name in QUANTITIES),
    *(f"{_MEAN}{one.name}" for one in QUANTITIES.values() if one.is_curve),
)
_SECONDS_AN_HOUR = 3600.0


def name_of(key: str) -> str | None:
    """The figure that a key such as sys.peak_ram names; None for one that names none."""
    name = key.removeprefix(PREFIX)
    return name if key.startswith(PREFIX) and name in NAMES else None


def value(usage: Usage | None, name: str) -> float | None:
    """The figure; None where it is not known."""
    if usage is None:
        return None
    if name == ENERGY:
        return usage.energy_wh
    kind = usage.peak if name.startswith(_PEAK) else usage.mean
    return kind.get(_quantity(name))


def unit(name: str) -> Unit | None:
    """What it is counted in; None for energy, which is in watt hours."""
    found = quantity(_quantity(name))
    return None if found is None else found.unit


def column(name: str) -> tuple[str, str]:
    """The name of the row in the table `usage`, and an expression over its columns, that make the figure."""
    if name == ENERGY:
        return "gpu_power", f"usage.total / {_SECONDS_AN_HOUR}"
    return _quantity(name), "usage.peak" if name.startswith(_PEAK) else "usage.total / usage.seconds"


def _quantity(name: str) -> str:
    return name.removeprefix(_PEAK if name.startswith(_PEAK) else _MEAN)
