"""What a run used, in words: nothing that is not known, nothing that is zero."""

import msgspec

from backprop.records import Usage
from backprop.views.terminal import usage_text

NOTHING = Usage(measured_s=60.0, peak={}, mean={}, energy_wh=None, last={}, counts={})


def test_only_what_is_known_is_said():
    """A run without GPUs has no line for them."""
    usage = msgspec.structs.replace(
        NOTHING, peak={"cpu": 200.0, "ram": 2e9, "processes": 1}, mean={"cpu": 150.0, "disk_read": 0.0}
    )
    assert list(usage_text.lines(usage)) == ["CPU 150 % (peak 200 %), RAM 2.0 GB at most"]
    assert list(usage_text.lines(NOTHING)) == []


def test_throttling_names_its_reason():
    """And memory is compared with what there is."""
    usage = msgspec.structs.replace(
        NOTHING,
        peak={"vram": 4e9, "vram_total": 8e9},
        mean={"gpu_throttle_thermal": 12.0, "gpu_throttle_power": 0.0},
    )
    (line,) = usage_text.lines(usage)
    assert "VRAM 4.0 GB at most of 8.0 GB" in line
    assert "throttled by heat 12 % of the time" in line
    assert "power limit" not in line


def test_a_figure_that_is_not_known():
    assert usage_text.figure(None, "mean_cpu") == "-"
    assert usage_text.figure(msgspec.structs.replace(NOTHING, mean={"cpu": 80.0}), "mean_cpu") == "80 %"
