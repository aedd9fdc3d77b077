"""What a run used, as single figures that filters and `--sort` name."""

import pytest

from backprop.records import Usage
from backprop.store.usage import figures
from backprop.store.usage.quantities import Unit

USAGE = Usage(measured_s=60.0, peak={"ram": 8e9}, mean={"ram": 4e9}, energy_wh=2.5, last={}, counts={})


@pytest.mark.parametrize(
    ("key", "name"),
    [("sys.peak_ram", "peak_ram"), ("sys.energy_wh", "energy_wh"), ("peak_ram", None), ("sys.ram", None)],
)
def test_a_key_names_a_figure_or_none(key: str, name: str | None):
    assert figures.name_of(key) == name


@pytest.mark.parametrize(
    ("name", "value"), [("peak_ram", 8e9), ("mean_ram", 4e9), ("energy_wh", 2.5), ("peak_vram", None)]
)
def test_a_figure_is_none_where_it_was_not_measured(name: str, value: float | None):
    assert figures.value(USAGE, name) == value
    assert figures.value(None, name) is None


def test_every_figure_has_a_column_and_a_unit():
    """Energy alone has none: it is in watt hours, added up from what a GPU drew."""
    assert figures.column("energy_wh")[0] == "gpu_power"
    assert [name for name in figures.NAMES if figures.unit(name) is None] == ["energy_wh"]
    assert figures.unit("peak_ram") is Unit.BYTES
    assert figures.column("mean_ram") == ("ram", "usage.total / usage.seconds")
