"""May a session start? Limits and a snapshot in, a decision out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.governor.policy import admit
from backprop.records import Limits, Snapshot

GB = 1_000_000_000


def limits(ram: int = 2 * GB, disk: int = GB // 10) -> Limits:
    return Limits(timebox_s=600, grace_s=30, min_free_ram_bytes=ram, min_free_disk_bytes=disk)


@pytest.mark.parametrize(
    ("snapshot", "is_admitted"),
    [
        (Snapshot(ram_available_bytes=2 * GB), True),
        (Snapshot(ram_available_bytes=2 * GB - 1), False),
        (Snapshot(ram_available_bytes=0), False),
        (Snapshot(ram_available_bytes=4 * GB, disk_free_bytes={"/a": GB // 10}), True),
        (Snapshot(ram_available_bytes=4 * GB, disk_free_bytes={"/a": GB, "/b": GB // 10 - 1}), False),
        (Snapshot(disk_free_bytes={"/a": 0}), False),
        (Snapshot(), True),  # what is unknown does not hinder
    ],
)
def test_a_session_starts_only_with_room(snapshot: Snapshot, is_admitted: bool):
    """Exactly at a limit is enough, one byte less is not, and what could not be read does not hinder."""
    assert admit(limits(), snapshot).is_admitted is is_admitted


def test_a_refusal_for_want_of_ram_says_what_to_do():
    """Figures, limit and the option that changes it are in the reason."""
    reason = admit(limits(), Snapshot(ram_available_bytes=GB)).reason
    assert reason == "1.0 GB of RAM are available (limit 2). Close something, or lower --min-free-ram."


def test_a_refusal_for_want_of_disk_says_where_and_what_to_do():
    """Folder, figures, limit and the option that changes it are in the reason."""
    reason = admit(limits(), Snapshot(disk_free_bytes={"/full": GB // 20})).reason
    assert reason == "0.05 GB of disk are free in /full (limit 0.1). Make room, or lower --min-free-disk."


def test_the_figures_are_told_whatever_is_decided():
    """A decision can be checked later: it carries the numbers it was made from."""
    for ram in (GB, 4 * GB):
        told = admit(limits(), Snapshot(ram_available_bytes=ram, disk_free_bytes={"/a": GB})).figures
        assert told["ram_available_bytes"] == ram
        assert told["min_free_ram_bytes"] == 2 * GB
        assert told["disk_free_bytes"] == {"/a": GB}
        assert told["min_free_disk_bytes"] == GB // 10


sizes = st.integers(0, 2**50)


@given(sizes, sizes, st.none() | sizes, st.dictionaries(st.text(max_size=4), sizes, max_size=3))
@settings(deadline=None)
def test_nothing_is_admitted_below_a_limit(min_ram: int, min_disk: int, ram: int | None, disk: dict[str, int]):
    """A session is admitted exactly when every value that is known is at its limit or above."""
    decision = admit(limits(min_ram, min_disk), Snapshot(ram_available_bytes=ram, disk_free_bytes=disk))
    has_room = (ram is None or ram >= min_ram) and all(free >= min_disk for free in disk.values())
    assert decision.is_admitted is has_room
    assert (decision.reason is None) is has_room
