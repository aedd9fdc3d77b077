"""From where a resumed session counts on."""

from pathlib import Path

import pytest

from backprop.trainer.save_marks import last_step_before, mark

LINE = '{"step": 9, "printed": true, "loss": 0.1}'


def written(folder: Path, session: int, *lines: str, end: str = "\n") -> None:
    (folder / f"session-{session}.printed").write_text("\n".join(lines) + end)


def test_a_mark_counts_and_not_the_last_line(tmp_path: Path):
    """The session was killed three steps after the save: these are trained again."""
    written(tmp_path, 1, mark("printed", 6, "/a"), LINE)
    assert last_step_before(str(tmp_path), "printed", 2, "/a") == 6


def test_the_last_mark_of_a_checkpoint_counts(tmp_path: Path):
    """It was saved over."""
    written(tmp_path, 1, mark("printed", 3, "/a"), mark("printed", 6, "/a"), mark("printed", 8, "/b"))
    assert last_step_before(str(tmp_path), "printed", 2, "/a") == 6


def test_a_mark_of_an_earlier_session_counts_before_a_line_of_a_later_one(tmp_path: Path):
    written(tmp_path, 1, mark("printed", 6, "/a"))
    written(tmp_path, 2, LINE)
    assert last_step_before(str(tmp_path), "printed", 3, "/a") == 6


@pytest.mark.parametrize(("end", "expected"), [("\n", 9), ('\n{"step": 10, "pri', 9), ("\n{broken}\n", 9)])
def test_without_a_mark_the_last_whole_line_counts(tmp_path: Path, end: str, expected: int):
    """A line that a kill has cut off does not."""
    written(tmp_path, 1, LINE, end=end)
    assert last_step_before(str(tmp_path), "printed", 2, "/a") == expected


def test_nothing_was_counted(tmp_path: Path):
    assert last_step_before(str(tmp_path), "printed", 2, "/a") is None
