"""In which order stdout and stderr grew."""

from pathlib import Path

import pytest

from backprop.store import output_order
from backprop.store.output_order import OrderNote, OrderNotes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "session-1.order"


def test_what_is_noted_is_read(path: Path):
    """A note whenever stderr has grown: for stdout alone there is no order to keep."""
    notes = OrderNotes(path)
    for at_s, out_bytes, err_bytes in ((1.0, 10, 0), (2.0, 20, 5), (3.0, 30, 5), (4.0, 40, 7)):
        notes.look(at_s, out_bytes, err_bytes)
    assert output_order.read(path) == [OrderNote(20, 5), OrderNote(40, 7)]
    assert path.stat().st_mode & 0o077 == 0


def test_no_notes_are_no_order(path: Path):
    assert output_order.read(path) == []


def test_half_a_note_is_none_and_the_last(path: Path):
    """A full disk cut it short."""
    OrderNotes(path).look(1.0, 10, 5)
    path.write_bytes(path.read_bytes() + b"half")
    assert output_order.read(path) == [OrderNote(10, 5)]


def test_a_day_of_progress_bars_needs_little_room(path: Path):
    """Notes are the further apart the longer the session lasts; the first seconds are known best."""
    notes = OrderNotes(path)
    for look in range(4 * 86_400):
        notes.look(look / 4, 0, look)
    found = output_order.read(path)
    assert len(found) < 10_000
    assert found[:9] == [OrderNote(0, look) for look in range(1, 10)]


def test_where_nothing_can_be_written_nothing_breaks(tmp_path: Path):
    """The order is for a view; training goes on."""
    notes = OrderNotes(tmp_path / "gone" / "session-1.order")
    for look in range(3):
        notes.look(look, look, look)
    assert output_order.read(tmp_path / "gone" / "session-1.order") == []
