"""The lines of a session's usage file: what is written comes back, and what is damaged loses only itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backprop.store.usage import blocks
from backprop.store.usage.blocks import Total
from backprop.store.usage.quantities import CARD, QUANTITIES, unit_of

NAMES = [*QUANTITIES, "gpu0/util", "gpu0/vram", "gpu1/util", "gpu1/power"]


@st.composite
def samples(draw: st.DrawFn) -> dict[str, float]:
    names = draw(st.lists(st.sampled_from(list(QUANTITIES)), unique=True))
    return {name: draw(st.integers(0, 10**6)) * unit_of(name).stored for name in names}


@given(st.lists(samples(), min_size=1, max_size=12))
def test_samples_come_back_as_they_were(given_samples: list[dict[str, float]]):
    """In whole megabytes and kilobytes a second, spread evenly over their time."""
    line = blocks.encode(10.0, 10.0 + len(given_samples), given_samples)
    found = list(blocks.moments(line))
    assert [moment.values for moment in found] == given_samples
    assert [moment.at_s for moment in found] == pytest.approx([11.0 + n for n in range(len(given_samples))])
    assert line.count(b"\n") == 1


@given(st.binary(max_size=200))
def test_any_bytes_can_be_read(data: bytes):
    blocks.totals(data)


@pytest.mark.parametrize(
    "line",
    [
        b'{"since":0,"until":2,"count":2,"values":{"cpu":[1]}}',  # a column that is too short
        b'{"since":2,"until":1,"count":1,"values":{"cpu":1}}',
        b'{"since":0,"until":1,"count":0,"values":{"cpu":1}}',
        b'{"since":0,"until":1,"count":1000000000,"values":{"cpu":1}}',
        b'{"since":0,"until":1,"count":1,"values":{"cpu":1e300}}',
        b'{"since":0,"until":1,"count":1,"values":{"ram":-5}}',
        b'{"since":0,"until":1e300,"count":1,"values":{"cpu":1}}',
        b'{"since":0,"until":1,"count":1,"values":{"cpu":"1"}}',
        b'{"since":0,"until":1,"count":1,"values":{"of_tomorrow":1}}',
        b"null",
    ],
)
def test_a_line_that_makes_no_sense_counts_for_nothing(line: bytes):
    assert blocks.totals(line) == {}


def test_a_torn_line_loses_no_other():
    """A kill or a full disk cut it short; the next one began on a line of its own."""
    first, second = blocks.encode(0, 1, [{"cpu": 100}]), blocks.encode(1, 3, [{"cpu": 50}, {"cpu": 30}])
    assert blocks.totals(first + first[:30] + b"\n" + second)["cpu"] == Total(3.0, 180.0, 100.0, 3, 30.0)
    assert blocks.totals(first + second[:30])["cpu"] == Total(1.0, 100.0, 100.0, 1, 100.0)


def test_totals_know_for_how_long_a_value_was_known():
    """A mean is over that time, not over all of it."""
    line = blocks.encode(0, 4, [{"cpu": 100, "ram": 5e6}, {"ram": 7e6}, {"ram": 6e6}, {"cpu": 300, "ram": 6e6}])
    found = blocks.totals(line)
    assert found["cpu"] == Total(2.0, 400.0, 300.0, 2, 300.0)
    assert found["cpu"].mean == 200.0
    assert found["ram"].peak == 7e6


def test_several_cards_are_shown_together_and_each_by_itself():
    """Memory and power add up, utilization is averaged, of temperatures the highest counts."""
    sample = {"gpu0/util": 90, "gpu1/util": 10, "gpu0/vram": 3e9, "gpu1/vram": 1e9, "gpu0/temp": 60, "gpu1/temp": 70}
    (moment,) = blocks.moments(blocks.encode(0, 1, [sample]))
    assert moment.values == {**sample, "gpu_util": 50, "vram": 4e9, "gpu_temp": 70}


def test_one_card_has_no_curves_of_its_own():
    """They would be the same."""
    (moment,) = blocks.moments(blocks.encode(0, 1, [{"gpu3/util": 90}]))
    assert moment.values == {"gpu_util": 90}


def test_of_cards_of_which_one_is_unknown_the_sum_is_unknown():
    line = blocks.encode(0, 2, [{"gpu0/power": 100, "gpu1/power": 50}, {"gpu0/power": 100}])
    assert [moment.values.get("gpu_power") for moment in blocks.moments(line)] == [150, None]


@pytest.mark.parametrize("name", [*QUANTITIES, "gpu0/util", "gpu1/power"])
def test_a_curve_is_the_same_column(name: str):
    given_samples = [
        {
            **dict.fromkeys(QUANTITIES, float(n) * 10**6),
            "gpu0/util": n,
            "gpu1/util": 2 * n,
            "gpu1/power": n,
            "gpu0/power": 1,
        }
        for n in range(5)
    ]
    line = blocks.encode(0, 5, given_samples)
    seconds, values = blocks.curve(line, name)
    found = [(moment.at_s, moment.values[name]) for moment in blocks.moments(line) if name in moment.values]
    assert list(zip(seconds, values, strict=True)) == found
    assert len(found) == 5


def test_every_part_of_a_card_amounts_to_a_quantity():
    assert {whole.name for whole, _ in CARD.values()} <= set(QUANTITIES)
