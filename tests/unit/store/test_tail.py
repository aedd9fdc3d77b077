"""Reading a growing file by whole lines, in bounded memory."""

import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.store.output.protocol import MAX_LINE_BYTES, digest
from backprop.store.output.tail import READ_BYTES, LineBlock, Tail, size_bytes
from tests.conftest import scaled

MIB = 1 << 20


def appended(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def drained(tail: Tail, *, is_over: bool = False) -> list[LineBlock]:
    """All stretches there are, each taken."""
    stretches = []
    while (stretch := tail.read(is_over=is_over)) is not None:
        stretches.append(stretch)
        tail.move_to(stretch.end)
    return stretches


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "session-1.out"


def test_whole_lines_are_read_with_where_they_lie(path: Path):
    """A stretch is the lines that are complete, from where to where."""
    appended(path, b"one\ntwo\nhal")
    assert Tail(path, 0).read() == LineBlock(b"one\ntwo\n", 0, 8)
    assert Tail(path, 4).read() == LineBlock(b"two\n", 4, 8)


def test_reading_does_not_move(path: Path):
    """Until somebody has stored what was read, it is read again."""
    appended(path, b"one\n")
    tail = Tail(path, 0)
    assert tail.read() == tail.read() == LineBlock(b"one\n", 0, 4)
    tail.move_to(4)
    assert tail.read() is None
    assert tail.offset == 4


def test_a_file_that_is_not_there_yet_is_read_once_it_is(path: Path):
    """A trainer that has written nothing has a file that may be missing."""
    tail = Tail(path, 0)
    assert tail.read() is None
    assert tail.read(is_over=True) is None
    assert size_bytes(path) == 0
    appended(path, b"one\n")
    assert tail.read() == LineBlock(b"one\n", 0, 4)


def test_a_partial_last_line_waits_for_its_end(path: Path):
    """Half a line is read when it is whole."""
    tail = Tail(path, 0)
    appended(path, b"hal")
    assert tail.read() is None
    appended(path, b"f")
    assert tail.read() is None
    appended(path, b"\nnext")
    assert tail.read() == LineBlock(b"half\n", 0, 5)


def test_a_partial_last_line_is_a_line_when_nobody_writes_any_more(path: Path):
    """What follows the last newline of a trainer that is gone is read too, once."""
    appended(path, b"one\nlast")
    tail = Tail(path, 0)
    assert drained(tail, is_over=True) == [LineBlock(b"one\n", 0, 4), LineBlock(b"last", 4, 8)]
    assert tail.read(is_over=True) is None


def test_a_line_that_waited_is_read_when_it_is_over(path: Path):
    """Half a line that was looked at before is not forgotten at the end."""
    appended(path, b"half")
    tail = Tail(path, 0)
    assert tail.read() is None
    assert tail.read(is_over=True) == LineBlock(b"half", 0, 4)


def test_an_empty_file_has_no_lines(path: Path):
    """Nothing written is nothing to read, over or not."""
    path.touch()
    assert Tail(path, 0).read() is None
    assert Tail(path, 0).read(is_over=True) is None


def test_a_file_that_shrank_is_waited_for(path: Path):
    """A file that is shorter than what was read of it has nothing new."""
    appended(path, b"one\n")
    assert Tail(path, 100).read() is None
    assert Tail(path, 100).read(is_over=True) is None


def test_a_long_file_comes_in_stretches(path: Path):
    """A stretch is never longer than 1 MiB, and ends with a line."""
    line = b"x" * 999 + b"\n"
    appended(path, line * 3000)
    stretches = drained(Tail(path, 0))
    assert b"".join(stretch.data for stretch in stretches) == line * 3000
    assert all(len(stretch.data) <= READ_BYTES and stretch.data.endswith(b"\n") for stretch in stretches)
    assert len(stretches) == 3


@pytest.mark.parametrize("length", [MIB - 2, MIB - 1, MIB])
def test_a_line_that_the_protocol_understands_is_read(path: Path, length: int):
    """Every line that is short enough to be understood reaches the protocol, newline and all."""
    line = b'{"step": 1, "x": "' + b"x" * (length - 20) + b'"}'
    assert len(line) == length <= MAX_LINE_BYTES
    assert digest(line).last_step == 1
    appended(path, line + b"\n")
    (stretch,) = drained(Tail(path, 0))
    assert digest(stretch.data).last_step == 1


@pytest.mark.parametrize("length", [MIB + 1, 2 * MIB, 3 * MIB + 17])
def test_a_line_that_is_too_long_is_skipped_and_the_next_one_read(path: Path, length: int):
    """A line of more than 1 MiB becomes an empty stretch; what surrounds it is read."""
    appended(path, b"before\n" + b"x" * length + b"\nafter\n")
    end = 7 + length + 1
    assert drained(Tail(path, 0)) == [
        LineBlock(b"before\n", 0, 7),
        LineBlock(b"", 7, end),
        LineBlock(b"after\n", end, end + 6),
    ]


def test_a_line_that_is_too_long_may_grow_slowly(path: Path):
    """A long line is skipped however it arrives, and the next one is understood."""
    tail = Tail(path, 0)
    for _ in range(5):
        appended(path, b"x" * (MIB // 2))
        assert tail.read() is None
    appended(path, b"\nafter\n")
    end = 5 * (MIB // 2) + 1
    assert drained(tail) == [LineBlock(b"", 0, end), LineBlock(b"after\n", end, end + 6)]


@pytest.mark.parametrize("extra", [1, 2, MIB])
def test_a_line_that_is_too_long_may_be_the_last(path: Path, extra: int):
    """A long line without an end is skipped when nobody writes any more."""
    appended(path, b"x" * (MIB + extra))
    tail = Tail(path, 0)
    assert tail.read() is None
    assert drained(tail, is_over=True) == [LineBlock(b"", 0, MIB + extra)]


def endless(path: Path, size_bytes: int) -> None:
    """A file of zeros without a newline; it takes no room on the disk."""
    path.touch()
    os.truncate(path, size_bytes)


def test_an_endless_line_is_looked_through_in_bounded_memory_and_in_parts(path: Path):
    """70 MiB without a newline take a few MiB of memory, and not one long look while the trainer runs."""
    endless(path, 70 * MIB)
    tail = Tail(path, 0)
    tracemalloc.start()
    try:
        looks = [tail.read(), tail.read(), tail.read()]
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert looks == [None, None, None]
    assert peak_bytes < 4 * MIB
    appended(path, b"\nafter\n")
    end = 70 * MIB + 1
    assert drained(tail) == [LineBlock(b"", 0, end), LineBlock(b"after\n", end, end + 6)]


def test_an_endless_line_is_one_stretch_when_it_is_over(path: Path):
    """What is left of a trainer that wrote 70 MiB without a newline is passed over in one go."""
    endless(path, 70 * MIB)
    assert drained(Tail(path, 0), is_over=True) == [LineBlock(b"", 0, 70 * MIB)]


def test_moving_on_forgets_what_was_searched(path: Path):
    """After somebody else read up to a place, reading goes on from exactly there."""
    appended(path, b"half of a line")
    tail = Tail(path, 0)
    assert tail.read() is None
    appended(path, b"\ntwo\n")
    tail.move_to(15)
    assert tail.read() == LineBlock(b"two\n", 15, 19)
    tail.move_to(0)
    assert tail.read() == LineBlock(b"half of a line\ntwo\n", 0, 19)


@given(st.lists(st.binary(max_size=30), max_size=12), st.data())
@settings(max_examples=scaled(150), deadline=None)
def test_a_growing_file_gives_each_line_exactly_once(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], data: st.DataObject
):
    """However a file grows and whenever it is looked at, its lines come once, in order, and nothing is left out."""
    path = tmp_path_factory.mktemp("tail") / "out"
    tail = Tail(path, 0)
    stretches = []
    for piece in pieces:
        appended(path, piece)
        if data.draw(st.booleans()):
            stretches += drained(tail)
    stretches += drained(tail)
    whole = b"".join(pieces)
    assert b"".join(stretch.data for stretch in stretches) == whole[: whole.rfind(b"\n") + 1]
    stretches += drained(tail, is_over=True)
    assert b"".join(stretch.data for stretch in stretches) == whole
    ends = [stretch.end for stretch in stretches]
    assert [stretch.start for stretch in stretches] == [0, *ends][: len(ends)]
