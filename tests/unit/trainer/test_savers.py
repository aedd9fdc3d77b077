"""Which process of a run may resume from a checkpoint."""

from pathlib import Path

import pytest

from backprop.trainer.trainings import savers
from backprop.trainer.trainings.savers import Saver

FOLD_1, FOLD_2 = Saver(1, "digest 1", "train.py --fold 1"), Saver(1, "digest 2", "train.py --fold 2")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.pt"
    path.touch()
    return path


def in_session(saver: Saver, session: int) -> Saver:
    return saver._replace(session=session)


@pytest.mark.parametrize("is_root", [True, False])
def test_the_process_that_saved_a_checkpoint_may_resume_from_it_and_another_may_not(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch, is_root: bool
):
    monkeypatch.setattr(savers, "_is_root", lambda: is_root)
    savers.remember(str(tmp_path), FOLD_1, str(saved))
    savers.remember(str(tmp_path), FOLD_2, str(tmp_path / "other.pt"))
    assert savers.other_saver(str(tmp_path), in_session(FOLD_1, 2), str(saved)) is None
    assert savers.other_saver(str(tmp_path), in_session(FOLD_2, 2), str(saved)) == FOLD_1


@pytest.mark.parametrize(("is_root", "other"), [(True, None), (False, FOLD_1)])
def test_arguments_of_the_script_may_be_changed_where_it_alone_has_saved(
    tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch, is_root: bool, other: Saver | None
):
    """Of the script that Backprop has started, not of a process of its own."""
    monkeypatch.setattr(savers, "_is_root", lambda: is_root)
    savers.remember(str(tmp_path), FOLD_1, str(saved))
    assert savers.other_saver(str(tmp_path), in_session(FOLD_2, 2), str(saved)) == other


def test_a_checkpoint_of_a_link_is_the_one_it_leads_to(tmp_path: Path, saved: Path):
    (tmp_path / "last.pt").symlink_to(saved)
    savers.remember(str(tmp_path), FOLD_1, str(tmp_path / "last.pt"))
    savers.remember(str(tmp_path), FOLD_2, str(tmp_path / "other.pt"))
    assert savers.other_saver(str(tmp_path), in_session(FOLD_2, 2), str(saved)) == FOLD_1


def test_the_newest_own_checkpoint_that_is_there(tmp_path: Path, saved: Path):
    """A line that a full disk has cut off is left out."""
    savers.remember(str(tmp_path), FOLD_1, str(saved))
    savers.remember(str(tmp_path), in_session(FOLD_1, 2), str(tmp_path / "removed.pt"))
    with (tmp_path / "session-2.savers").open("a") as file:
        file.write('{"path": "/x", "by')
    assert savers.own_checkpoint(str(tmp_path), in_session(FOLD_1, 3)) == str(saved)
    assert savers.own_checkpoint(str(tmp_path), in_session(FOLD_2, 3)) is None
