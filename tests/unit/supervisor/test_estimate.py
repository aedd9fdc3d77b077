"""How what is printed is read for an estimate: only the end of what is new."""

from pathlib import Path

from backprop.supervisor.estimate import _READ_BYTES, Estimate
from tests.unit.supervisor.fake_session import FakeSession


class FakeOutlook:
    """Keeps what it is given to read."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def read(self, data: bytes, now: float, counted_step: int | None) -> None:
        self.seen += [data] if data else []

    def remaining_s(self, now: float, counted_step: int | None) -> float:
        return 90.0


def estimate(folder: Path) -> tuple[FakeSession, Estimate, FakeOutlook]:
    session = FakeSession(folder)
    made, outlook = Estimate(session.context), FakeOutlook()
    made.outlook = outlook  # type: ignore[assignment]
    return session, made, outlook


def append(session: FakeSession, data: bytes) -> None:
    with session.context.rundir.out_path(1).open("ab") as file:
        file.write(data)


def test_each_line_is_read_once_and_whole(tmp_path: Path):
    """A line that is still being written is read again when it is complete."""
    session, made, outlook = estimate(tmp_path)
    append(session, b"epoch 1/9\nepo")
    made.look((), 1000.0)
    append(session, b"ch 2/9\n")
    made.look((), 1001.0)
    made.look((), 1002.0)
    assert outlook.seen == [b"epoch 1/9\nepo", b"epoch 2/9\n"]
    assert session.context.meter.progress.remaining_s == 90.0


def test_of_much_output_the_last_whole_lines_are_read(tmp_path: Path):
    """What it costs does not depend on how much is printed."""
    session, made, outlook = estimate(tmp_path)
    append(session, b"x" * 100_000 + b"\n" + b"epoch 2/9\n" * 10)
    made.look((), 1000.0)
    (data,) = outlook.seen
    assert len(data) < _READ_BYTES
    assert data == b"\n" + b"epoch 2/9\n" * 10


def test_it_is_read_once_a_second(tmp_path: Path):
    """Not at each look of the supervisor's loop."""
    session, made, outlook = estimate(tmp_path)
    made.look((), 1000.0)
    append(session, b"epoch 1/9\n")
    made.look((), 1000.9)
    assert outlook.seen == []
    made.look((), 1001.0)
    assert outlook.seen == [b"epoch 1/9\n"]
