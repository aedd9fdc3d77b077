"""Exported files appear whole, and replace nothing by accident."""

from pathlib import Path

import pytest

from backprop.errors import UsageError
from backprop.views.exports import drafts


def test_a_file_that_could_not_be_written_leaves_the_old_one(tmp_path: Path):
    """And no draft; of several none appears."""
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    paths[0].write_text("old")

    def write(*, is_broken: bool) -> None:
        with drafts.all_drafted(paths, replace=True) as made:
            for draft in made:
                draft.write_text("new")
            if is_broken:
                raise OSError(28, "disk full")

    with pytest.raises(OSError, match="disk full"):
        write(is_broken=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert paths[0].read_text() == "old"
    write(is_broken=False)
    assert [path.read_text() for path in paths] == ["new", "new"]


def test_what_is_there_is_replaced_only_when_asked(tmp_path: Path):
    """A folder never."""
    path = tmp_path / "a.csv"
    path.touch()
    with pytest.raises(UsageError, match="exists already; to replace it: --force"):
        drafts.check_free(path, replace=False)
    drafts.check_free(path, replace=True)
    with pytest.raises(UsageError, match="is a folder"):
        drafts.check_free(tmp_path, replace=True)


@pytest.mark.parametrize(
    ("destination", "is_file"),
    [("points.csv", True), ("POINTS.CSV", True), ("folder", False), ("folder.txt/", False), ("there.d", False)],
)
def test_whether_a_file_or_a_folder_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, destination: str, is_file: bool
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.d").mkdir()
    assert drafts.is_file(destination, ".csv") is is_file
    with pytest.raises(UsageError, match=r"ends in \.txt, not in \.csv"):
        drafts.is_file("points.txt", ".csv")
