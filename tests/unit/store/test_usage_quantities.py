"""Names of what is measured: of a card or of the run, and in which unit."""

import pytest

from backprop.store.usage import quantities
from backprop.store.usage.quantities import Unit


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gpu0/util", ("gpu0", "util")),
        ("gpu12.3/vram", ("gpu12.3", "vram")),  # a slice of a card
        ("gpu0/nothing", None),
        ("gpu/util", None),
        ("xgpu0/util", None),
        ("cpu", None),
    ],
)
def test_what_is_of_a_card(name: str, found: tuple[str, str] | None):
    assert quantities.card_and_part(name) == found


def test_each_part_of_a_card_has_the_unit_of_the_runs():
    """A file of a later version may have names that this one does not know."""
    assert quantities.unit_of("gpu3/power") is quantities.unit_of("gpu_power") is Unit.WATTS
    assert not quantities.is_curve("gpu0/vram_total")
    assert not quantities.is_curve("from_tomorrow")
    with pytest.raises(KeyError):
        quantities.unit_of("from_tomorrow")


def test_several_cards_are_put_together():
    """Memory and power add up, use is the mean, and the hottest card counts."""
    together = {part: how([1.0, 3.0]) for part, (_, how) in quantities.CARD.items()}
    assert [together[part] for part in ("vram", "power", "util", "temp", "thermal")] == [4, 4, 2, 3, 3]
