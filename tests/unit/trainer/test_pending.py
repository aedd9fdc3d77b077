"""Under which name a checkpoint is reported that the script may still rename."""

import os
from pathlib import Path

import pytest

from backprop.trainer.hooks.saved_files.pending import PendingSaves, SaveInfo
from backprop.trainer.overwrites import kept_names

MARK = SaveInfo(1, is_weights_only=False)


@pytest.fixture
def reported() -> list[str]:
    return []


@pytest.fixture
def saves(reported: list[str]) -> PendingSaves:
    return PendingSaves(lambda path, _mark: reported.append(path), "r")


@pytest.mark.parametrize(
    ("name", "is_temporary"),
    [
        ("last.pt.tmp", True),
        ("tmpa1b2c3.pt", True),
        ("last.temp", True),
        ("last.partial.pt", True),
        ("7.tmp/model.pt", True),
        ("incomplete_last.pt", True),
        ("attempt-1/last.pt", False),
        ("temperature_0.7/last.pt", False),
        ("template/last.pt", False),
        ("partially_frozen.pt", False),
    ],
)
def test_what_may_still_be_renamed_is_reported_later(
    tmp_path: Path, saves: PendingSaves, reported: list[str], name: str, is_temporary: bool
):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    saves.add(str(path), MARK)
    assert reported == ([] if is_temporary else [str(path)])
    saves.report_final_names(at_step=True)
    assert reported == [str(path)]


def test_what_is_kept_from_being_overwritten_is_no_final_name(tmp_path: Path, saves: PendingSaves, reported: list[str]):
    """The next save to that name has begun, and the old file has our name for as long as it takes."""
    path = tmp_path / "last.tmp"
    path.touch()
    saves.add(str(path), MARK)
    os.rename(path, kept_names.before_save(str(path), "r"))
    saves.report_final_names(at_step=True)
    assert reported == []
