"""Checkpoints that a process is about to write over: what is kept of them, and what becomes of that."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from backprop.trainer.overwrites import keeper as keepers
from backprop.trainer.overwrites import kept_names
from backprop.trainer.overwrites.keeper import CheckpointKeeper


class Place:
    """A folder with a checkpoint in it, and processes that know of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "last.pt"
        self.path.write_text("old")
        self.before_save = Path(kept_names.before_save(str(self.path), "r"))
        self.before_session = Path(kept_names.before_session(str(self.path), "r", 2))

    def keeper(self, offered: Path | None = None, *, is_read: bool = False, step: int | None = 10) -> CheckpointKeeper:
        environment = {
            "BACKPROP_RUN_ID": "r",
            "BACKPROP_SESSION": "2",
            "BACKPROP_CONTROL": str(self.folder / "control.json"),
        }
        if offered is not None:
            environment["BACKPROP_RESUME_FROM"] = str(offered)
            if step is not None:
                environment["BACKPROP_RESUME_STEP"] = str(step)
        keeper = CheckpointKeeper(environment)
        if is_read:
            keeper.has_read_it()
        return keeper

    def own_keeper(self) -> CheckpointKeeper:
        """Of a process that has reported the checkpoint itself."""
        keeper = self.keeper()
        keeper.reported(str(self.path), 10)
        return keeper

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())

    def control(self, **fields: object) -> None:
        """What the supervisor says from here on."""
        draft = self.folder / "control.json.new"
        draft.write_text(json.dumps({"saved": {}, **fields}))
        draft.replace(self.folder / "control.json")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def save(keeper: CheckpointKeeper, path: Path, text: str = "new") -> None:
    """As a script does: open, empty, write."""
    keeper.before_write(str(path))
    path.write_text(text)


def test_what_nobody_knows_is_left_alone(place: Place):
    save(place.keeper(), place.path)
    assert place.names() == ["last.pt"]


def test_a_save_that_goes_well_leaves_one_file(place: Place):
    """While it goes on, the old one is there; nothing was copied."""
    keeper = place.own_keeper()
    inode = place.path.stat().st_ino
    save(keeper, place.path, "half")
    assert (place.before_save.read_text(), place.before_save.stat().st_ino) == ("old", inode)
    keeper.reported(str(place.path), 20)
    assert place.names() == ["last.pt"]


@pytest.mark.parametrize("name", ["last.pt", "run/model.bin"], ids=["file", "in-a-folder"])
def test_a_file_that_is_kept_never_lacks(place: Place, name: str, monkeypatch: pytest.MonkeyPatch):
    """Whoever looks for it finds one: the supervisor would say that what was reported does not exist."""
    path = place.folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("old")
    keeper = place.keeper(path if path.parent == place.folder else path.parent, is_read=True)

    def noted(call: Any) -> Any:
        def noting(*args: Any, **kwargs: Any) -> Any:
            result = call(*args, **kwargs)
            calls.append(path.exists())
            return result

        return noting

    calls: list[bool] = []
    for each in ("link", "rename", "replace", "unlink"):
        monkeypatch.setattr(os, each, noted(getattr(os, each)))
    keeper.before_write(str(path))
    assert path.read_text() == ""
    assert len(calls) >= 2
    assert all(calls)


def test_what_another_process_has_begun_to_save_is_not_kept(place: Place, monkeypatch: pytest.MonkeyPatch):
    """The old one is, by that process."""
    keeper, link = place.own_keeper(), os.link

    def late(source: str, target: str) -> None:
        place.path.rename(place.before_save)
        place.path.write_text("half")
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    keeper.before_write(str(place.path))
    assert (place.before_save.read_text(), place.path.read_text()) == ("old", "half")
    assert place.names() == [place.before_save.name, "last.pt"]


def test_permissions_stay(place: Place):
    place.path.chmod(0o640)
    save(place.own_keeper(), place.path)
    assert place.path.stat().st_mode & 0o777 == 0o640


def test_a_save_that_failed_does_not_take_the_place_of_what_is_kept(place: Place):
    """Before it is tried again."""
    keeper = place.own_keeper()
    save(keeper, place.path, "half")
    save(keeper, place.path, "half again")
    assert place.before_save.read_text() == "old"


@pytest.mark.parametrize("step", [20, 5, None])
def test_a_session_that_has_not_read_it_keeps_it_for_good(place: Place, step: int | None, capsys):
    """Whatever it saves afterwards; and says so."""
    keeper = place.keeper(place.path)
    for _ in range(3):
        save(keeper, place.path)
        keeper.reported(str(place.path), step)
    assert place.names() == [place.before_session.name, "last.pt"]
    assert place.before_session.read_text() == "old"
    assert f"the old one (step 10) is kept as {place.before_session}" in capsys.readouterr().err


def test_a_session_that_has_read_it_goes_on_from_it(place: Place):
    keeper = place.keeper(place.path, is_read=True)
    save(keeper, place.path)
    assert place.names() == [place.before_save.name, "last.pt"]
    keeper.reported(str(place.path), 20)
    assert place.names() == ["last.pt"]


def test_the_supervisor_may_know_that_it_was_read(place: Place):
    """By a process that is not Python."""
    keeper = place.keeper(place.path)
    place.control(checkpoint_was_read=True)
    save(keeper, place.path)
    assert place.before_save.exists()


def test_the_supervisor_may_know_that_it_was_read_before_a_rename(place: Place, capsys):
    keeper, new = place.keeper(place.path), place.folder / "new"
    new.write_text("new")
    place.control(checkpoint_was_read=True)
    keeper.before_replace(str(new), str(place.path))
    assert not place.before_session.exists()
    assert capsys.readouterr().err == ""


def test_less_than_before_does_not_remove_it(place: Place):
    """A script that counts its steps anew, or another training of it."""
    keeper = place.keeper(place.path, is_read=True)
    save(keeper, place.path)
    keeper.reported(str(place.path), 5)
    assert place.names() == [place.before_session.name, "last.pt"]


@pytest.mark.parametrize("way", ["in place", "rename"])
@pytest.mark.parametrize(("before", "after"), [(10, None), (None, 20), (None, None)])
def test_where_no_steps_tell_that_the_new_one_is_as_far_the_old_one_stays(
    place: Place, way: str, before: int | None, after: int | None
):
    """The script may have read no more than its best score. What the session itself saved before is no loss."""
    keeper = place.keeper(place.path, is_read=True, step=before)
    for text in ("new", "newer"):
        if way == "in place":
            save(keeper, place.path, text)
        else:
            new = place.folder / "new"
            new.write_text(text)
            keeper.before_replace(str(new), str(place.path))
            new.replace(place.path)
        keeper.reported(str(place.path), after)
        assert place.names() == [place.before_session.name, "last.pt"]
        assert (place.before_session.read_text(), place.path.read_text()) == ("old", text)


def test_a_rename_over_it(place: Place):
    """Matters only where it was not read: the new file is whole when it gets there."""
    for is_read, expected in ((True, ["last.pt"]), (False, [place.before_session.name, "last.pt"])):
        keeper = place.keeper(place.path, is_read=is_read)
        new = place.folder / "new"
        new.write_text("new")
        place.path.write_text("old")
        keeper.before_replace(str(new), str(place.path))
        assert place.path.read_text() == "old"  # at no time is there none
        new.replace(place.path)
        keeper.reported(str(place.path), 20)
        assert place.names() == expected
    assert place.before_session.read_text() == "old"


def test_a_rename_of_it_and_over_it(place: Place):
    """Scripts keep the last two: last.pt becomes previous.pt before each save."""
    keeper, previous = place.keeper(place.path), place.folder / "previous.pt"
    for text in ("new", "newer"):
        keeper.before_replace(str(place.path), str(previous))
        place.path.replace(previous)
        save(keeper, place.path, text)
    assert Path(kept_names.before_session(str(previous), "r", 2)).read_text() == "old"


def test_a_link_to_it_that_is_replaced(place: Place):
    """Only a name is lost."""
    link, new = place.folder / "latest.pt", place.folder / "new"
    link.symlink_to("last.pt")
    new.symlink_to("other.pt")
    keeper = place.keeper(link)
    keeper.before_replace(str(new), str(link))
    new.replace(link)
    assert place.path.read_text() == "old"
    assert place.names() == ["last.pt", "latest.pt"]


@pytest.mark.parametrize("way", ["link", "relative"])
def test_a_write_by_another_name(place: Place, way: str, monkeypatch: pytest.MonkeyPatch):
    """The file is the same, however it is called; a link stays one."""
    keeper = place.keeper(place.path)
    monkeypatch.chdir(place.folder)
    path = Path("last.pt")
    if way == "link":
        path = place.folder / "latest.pt"
        path.symlink_to("last.pt")
    save(keeper, path)
    assert (place.before_session.read_text(), place.path.read_text()) == ("old", "new")


def test_who_has_the_old_file_open_goes_on_reading_it(place: Place):
    """A map of it, say: emptied under its feet, it would end the process."""
    with place.path.open() as reader:
        save(place.own_keeper(), place.path)
        assert reader.read() == "old"


def test_a_file_that_is_changed_in_place_is_copied(place: Place):
    keeper = place.own_keeper()
    keeper.before_write(str(place.path), is_emptied=False)
    assert place.path.read_text() == "old"
    assert place.before_save.read_text() == "old"
    assert place.before_save.stat().st_mtime_ns == place.path.stat().st_mtime_ns


def test_no_room_for_both(place: Place, monkeypatch: pytest.MonkeyPatch, capsys):
    """It is written over, and that is said once: a save must not fail because of us."""
    full = os.statvfs_result((4096, 4096, 10, 0, 0, 10, 10, 10, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    keeper = place.own_keeper()
    save(keeper, place.path)
    save(keeper, place.path)
    assert place.names() == ["last.pt"]
    assert capsys.readouterr().err.count("could not be kept: not enough disk space for both") == 1


def test_a_folder_that_cannot_be_written(place: Place, monkeypatch: pytest.MonkeyPatch, capsys):
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    save(place.own_keeper(), place.path)
    assert place.path.read_text() == "new"
    assert "could not be kept: Permission denied" in capsys.readouterr().err


def test_a_file_system_without_hard_links(place: Place, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    place.keeper(place.path).before_replace(str(place.folder / "new"), str(place.path))
    assert place.before_session.read_text() == "old"
    place.path.write_text("old")
    save(place.own_keeper(), place.path)
    assert (place.before_save.read_text(), place.path.read_text()) == ("old", "new")


def test_what_the_script_printed_is_known_by_control_json(place: Place):
    """A file that is as it was reported takes the place of the one that is kept; one that is not does not."""
    keeper = place.keeper()

    def report() -> None:
        info = place.path.stat()
        place.control(saved={str(place.path): [1, info.st_size, info.st_mtime]})

    report()
    save(keeper, place.path, "second")
    save(keeper, place.path, "third")
    assert place.before_save.read_text() == "old"
    report()
    save(keeper, place.path, "half")
    assert place.before_save.read_text() == "third"


# -- folders


@pytest.fixture
def folder(place: Place) -> Path:
    made = place.folder / "state"
    (made / "optimizer").mkdir(parents=True)
    (made / "model.bin").write_text("old model")
    (made / "optimizer" / "0.bin").write_text("old optimizer")
    return made


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


OLD = {"model.bin": "old model", "optimizer/0.bin": "old optimizer"}


def test_a_folder_is_kept_whole(place: Place, folder: Path):
    """However many of its files are written over, by whichever of its processes, and how often."""
    keepers = [place.keeper(folder), place.keeper(folder)]
    for keeper in keepers * 2:
        for name in ("model.bin", "optimizer/0.bin"):
            save(keeper, folder / name)
    kept = Path(kept_names.before_session(str(folder), "r", 2))
    assert content(kept) == OLD
    assert content(folder) == dict.fromkeys(OLD, "new")


def test_a_folder_that_goes_on_is_kept_while_it_is_saved(place: Place, folder: Path):
    keeper = place.keeper(folder, is_read=True)
    kept = Path(kept_names.before_save(str(folder), "r"))
    for step in (20, 30):
        before = content(folder)
        save(keeper, folder / "model.bin", f"model {step}")
        keeper.before_write(str(folder / "optimizer" / "0.bin"), is_emptied=False)
        with (folder / "optimizer" / "0.bin").open("r+") as file:
            file.write(f"{step:03}")
        assert content(kept) == before
        keeper.reported(str(folder), step)
        assert not kept.exists()


def test_a_rename_within_a_folder(place: Place, folder: Path):
    keeper, new = place.keeper(folder), place.folder / "new"
    new.write_text("new")
    keeper.before_replace(str(new), str(folder / "model.bin"))
    new.replace(folder / "model.bin")
    save(keeper, folder / "optimizer" / "0.bin")
    assert content(Path(kept_names.before_session(str(folder), "r", 2))) == OLD


def test_a_folder_with_everything_in_it_is_none(place: Place, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Nor the one that the script works in."""
    monkeypatch.setattr(keepers, "_MAX_FILES", 1)
    save(place.keeper(folder), folder / "model.bin")
    assert "there are more than 1 files in it" in capsys.readouterr().err
    monkeypatch.chdir(folder)
    save(place.keeper(folder), folder / "model.bin")
    assert content(folder) == OLD | {"model.bin": "new"}
    assert place.names() == ["last.pt", "state"]
