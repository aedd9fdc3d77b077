"""NVML through the real binding, below it a pretend library: see tests/fakes/nvml.py."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backprop.governor.probes.nvml import Nvml, NvmlError, is_present
from backprop.records import Throttle
from tests.fakes import nvml as fake

GB = 10**9
CARD = {
    "uuid": "GPU-0",
    "name": "Fake H100",
    "total": 80 * GB,
    "used": 2 * GB,
    "temp": 45,
    "busy": 3,
    "milliwatts": 80_500,
    "processes": {"4711": GB},
}
Cards = Callable[..., None]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cards:
    """A machine whose cards are what is said last."""
    state = tmp_path / "nvml.json"
    fake.install(monkeypatch, state)

    def say(*cards: dict[str, Any], **more: Any) -> None:
        fake.write_state(state, {"gpus": cards, **more})

    say(CARD)
    return say


def test_a_card(driver: Cards):
    """Bytes, °C, percent and watts; what processes hold by process id."""
    (gpu,) = Nvml().read()
    assert (gpu.index, gpu.uuid, gpu.name, gpu.vendor, gpu.is_slice) == (0, "GPU-0", "Fake H100", "nvidia", False)
    assert (gpu.vram_total_bytes, gpu.vram_free_bytes) == (80 * GB, 78 * GB)
    assert (gpu.temp_c, gpu.utilization_percent, gpu.power_w) == (45, 3, 80.5)
    assert gpu.process_vram_bytes == {4711: GB}


@pytest.mark.parametrize(
    ("bits", "reasons"),
    [
        (0, ()),
        (0x1 | 0x2 | 0x10 | 0x100, ()),  # idle, and clocks that somebody set, are no loss
        (0x4, (Throttle.POWER,)),
        (0x20 | 0x40, (Throttle.THERMAL,)),
        (0x8 | 0x80, (Throttle.HARDWARE, Throttle.POWER)),
        (None, None),
    ],
)
def test_why_clocks_are_held_back(driver: Cards, bits: int | None, reasons: tuple[Throttle, ...] | None):
    """Each reason once, of those that make a card slower than it could be."""
    driver(CARD | {"throttle": bits})
    assert Nvml().read()[0].throttled == reasons


def test_one_reader_that_closes_leaves_the_library_to_the_others(driver: Cards):
    """It is open for a process until the last has closed it: a thread that ends late takes it from nobody."""
    late, other = Nvml(), Nvml()
    assert late.read() == other.read()
    late.close()
    assert len(other.read()) == 1


def test_what_a_card_does_not_say_is_unknown(driver: Cards):
    """An error for one value is that value missing, and nothing else."""
    driver({"uuid": "GPU-0", "name": "old"}, CARD | {"uuid": "GPU-1"})
    old, other = Nvml().read()
    assert old.vram_total_bytes is old.vram_free_bytes is old.temp_c is old.utilization_percent is old.power_w is None
    assert old.process_vram_bytes is None
    assert (other.index, other.temp_c) == (1, 45)


def test_a_process_that_computes_and_draws_counts_once(driver: Cards):
    driver(CARD | {"processes": {"1": GB, "2": None}, "drawing": {"1": GB, "3": 2 * GB}})
    assert Nvml().read()[0].process_vram_bytes == {1: GB, 3: 2 * GB}


def test_slices_stand_for_the_card_that_is_cut(driver: Cards):
    """With a memory of their own, and the card's sensors."""
    pieces = [{"uuid": f"MIG-{n}", "name": "Fake MIG 1g", "total": 10 * GB, "used": n * GB} for n in range(2)]
    driver(CARD | {"slices": pieces}, CARD | {"uuid": "GPU-1"})
    gpus = Nvml().read()
    assert [(gpu.index, gpu.uuid, gpu.is_slice, gpu.vram_free_bytes) for gpu in gpus] == [
        (0, "MIG-0", True, 10 * GB),
        (0, "MIG-1", True, 9 * GB),
        (1, "GPU-1", False, 78 * GB),
    ]
    assert {gpu.temp_c for gpu in gpus} == {45}


def test_a_card_that_fell_off_the_bus_is_left_out(driver: Cards):
    """The others go on being read."""
    driver(CARD | {"lost": True}, CARD | {"uuid": "GPU-1"})
    assert [gpu.uuid for gpu in Nvml().read()] == ["GPU-1"]


def test_a_driver_that_vanishes_and_comes_back(driver: Cards):
    """Nobody can tell meanwhile; afterwards the same object reads on."""
    library = Nvml()
    assert len(library.read()) == 1
    driver(CARD, error=9)  # NVML_ERROR_DRIVER_NOT_LOADED
    for _ in range(2):
        with pytest.raises(NvmlError, match="Driver Not Loaded|fake error 9"):
            library.read()
    driver(CARD)
    assert len(library.read()) == 1


def test_a_closed_library_opens_again(driver: Cards):
    library = Nvml()
    library.close()
    assert len(library.read()) == 1
    library.close()
    assert len(library.read()) == 1


def test_a_machine_without_the_library(monkeypatch: pytest.MonkeyPatch):
    """Is told apart from one where it fails, without importing the binding."""

    def nothing(*_: Any, **__: Any) -> None:
        raise OSError("cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", nothing)
    assert not is_present()
    with pytest.raises(NvmlError, match="is not installed"):
        Nvml().read()
