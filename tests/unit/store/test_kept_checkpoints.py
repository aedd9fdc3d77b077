"""When no process of a trainer lives any more: what was kept is put back, or removed."""

import json
import os
import pickle
from pathlib import Path

import pytest

from backprop.records import Checkpoint, Run, RunView, Status
from backprop.store import kept_checkpoints
from backprop.store.checkpoints import measure
from backprop.trainer.overwrites import kept_names
from tests.records import SPEC, session_record


def reported(path: Path, step: int = 1, **fields: object) -> Checkpoint:
    """As it lies there now."""
    return Checkpoint(path=str(path), step=step, session=1, measure=measure(str(path)), **fields)  # type: ignore[arg-type]


def before_save(path: Path) -> Path:
    return Path(kept_names.before_save(str(path), "r"))


def reconciled(
    *checkpoints: Checkpoint, offered: Path | None = None, other: str | None = None, status: Status = Status.STOPPED
) -> list[str]:
    """What is said of it."""
    told: list[str] = []
    offered = None if offered is None else str(offered)
    session = session_record(status, offered=offered, is_checkpoint_read=offered is not None)  # fmt: skip
    run = Run(spec=SPEC, status=status, latest=(session,))
    kept_checkpoints.reconcile(RunView(run=run, run_dir="/d", checkpoints=checkpoints), lambda _: other, told.append)
    return told


WHOLE = {
    "json": (json.dumps({"step": 1}).encode(), json.dumps({"step": 2, "more": 3}).encode()),
    "pkl": (pickle.dumps({"data": [0.5] * 100}), pickle.dumps({"data": [0.5] * 50})),
    "bin": (b"x" * 100, b"y" * 100),  # nobody knows what that is
}


@pytest.mark.parametrize("suffix", WHOLE)
@pytest.mark.parametrize("is_offered", [False, True])
def test_a_save_that_was_broken_off(tmp_path: Path, suffix: str, is_offered: bool):
    """The old file is put back, whether it was reported by this session or only offered to it."""
    path = tmp_path / f"last.{suffix}"
    old, new = WHOLE[suffix]
    path.write_bytes(old)
    known = (reported(path),)
    path.replace(before_save(path))
    path.write_bytes(new[: len(new) // 2])
    told = reconciled(offered=path) if is_offered else reconciled(*known)
    assert path.read_bytes() == old
    assert told == [f"a save to {path} was interrupted: the previous checkpoint is restored"]
    assert os.listdir(tmp_path) == [path.name]


def test_a_save_that_never_began(tmp_path: Path):
    """Killed between our rename and the script's open, or between our rename and the empty file."""
    path = tmp_path / "last.bin"
    path.write_bytes(b"old")
    known = reported(path)
    for is_empty in (True, False):
        path.replace(before_save(path))
        if is_empty:
            path.touch()
        assert len(reconciled(known)) == 1
        assert path.read_bytes() == b"old"


@pytest.mark.parametrize("suffix", WHOLE)
def test_a_save_that_came_to_its_end_and_was_not_reported(tmp_path: Path, suffix: str):
    """The new file stays, and the old one is removed."""
    path = tmp_path / f"last.{suffix}"
    old, new = WHOLE[suffix]
    path.write_bytes(old)
    known = reported(path)
    path.replace(before_save(path))
    path.write_bytes(new)
    assert reconciled(known) == []
    assert path.read_bytes() == new
    assert os.listdir(tmp_path) == [path.name]


def test_a_smaller_one_that_was_reported_is_whole(tmp_path: Path):
    path = tmp_path / "last.bin"
    before_save(path).write_bytes(b"x" * 100)
    path.write_bytes(b"y")
    assert reconciled(reported(path)) == []
    assert os.listdir(tmp_path) == [path.name]


def test_one_that_another_run_saved_over_is_left_alone(tmp_path: Path):
    path = tmp_path / "last.bin"
    path.write_bytes(b"x" * 100)
    known = reported(path)
    path.replace(before_save(path))
    path.write_bytes(b"theirs")
    assert reconciled(known, other="s") == []
    assert path.read_bytes() == b"theirs"


def test_what_another_run_keeps_is_left_alone(tmp_path: Path):
    """It saves in the same folder, and may be at it just now."""
    path = tmp_path / "last.bin"
    path.write_bytes(b"half")
    theirs = [
        Path(kept_names.before_save(str(path), "s")),
        Path(kept_names.draft(kept_names.before_save(str(path), "s"))),
    ]
    for place in theirs:
        place.write_bytes(b"theirs")
    ours = Path(kept_names.draft(str(before_save(path))))
    ours.write_bytes(b"abandoned")
    reconciled(reported(path))
    assert [place.exists() for place in (*theirs, ours, path)] == [True, True, False, True]


def test_what_is_broken_itself_is_not_put_back(tmp_path: Path):
    path = tmp_path / "last.json"
    path.write_text("{")
    before_save(path).write_text("{")
    assert reconciled(reported(path)) == []
    assert path.read_text() == "{"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "state"
    for name in ("model.bin", "sub/optimizer.bin", "log.txt"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(f"old {name}")
    return made


def link_all(folder: Path) -> None:
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        copy = before_save(folder) / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.hardlink_to(path)


def rewrite(path: Path, text: str, newest: float) -> None:
    path.unlink()
    path.write_text(text)
    os.utime(path, (newest, newest))


@pytest.mark.parametrize("is_offered", [False, True])
def test_a_folder_that_was_written_in_part(folder: Path, is_offered: bool):
    """A model of one step with the optimizer of another has every size right. What is new in the folder stays."""
    known = reported(folder)
    link_all(folder)
    rewrite(folder / "model.bin", "new model.bin", known.measure.saved_at.timestamp() + 60)
    (folder / "figure.png").write_text("new")
    told = reconciled(offered=folder) if is_offered else reconciled(known)
    assert len(told) == 1
    assert (folder / "model.bin").read_text() == "old model.bin"
    assert (folder / "sub" / "optimizer.bin").read_text() == "old sub/optimizer.bin"
    assert (folder / "figure.png").exists()
    assert not before_save(folder).exists()


def test_a_log_in_a_folder_is_no_save(folder: Path):
    known = reported(folder)
    link_all(folder)
    rewrite(folder / "log.txt", "new log.txt", known.measure.saved_at.timestamp() + 60)
    assert reconciled(known) == []
    assert (folder / "log.txt").read_text() == "new log.txt"
    assert not before_save(folder).exists()


@pytest.mark.parametrize("is_kept", [True, False])
@pytest.mark.parametrize(("step", "stays"), [(9, True), (10, False), (11, False), (None, True)])
def test_what_was_kept_for_good_is_removed_once_the_run_is_as_far(
    tmp_path: Path, step: int | None, stays: bool, is_kept: bool
):
    path = tmp_path / "last.bin"
    for place in (path, old := Path(kept_names.before_session(str(path), "r", 1))):
        place.write_bytes(b"x")
    reconciled(reported(old, 10, is_kept=is_kept), reported(path, step))  # type: ignore[arg-type]
    assert old.exists() == stays


@pytest.mark.parametrize("is_completed", [True, False])
def test_where_no_step_tells_what_was_kept_is_removed_when_the_run_has_completed(tmp_path: Path, is_completed: bool):
    path = tmp_path / "last.bin"
    for place in (path, old := Path(kept_names.before_session(str(path), "r", 1))):
        place.write_bytes(b"x")
    status = Status.COMPLETED if is_completed else Status.STOPPED
    reconciled(reported(old, None), reported(path, None), offered=path, status=status)  # type: ignore[arg-type]
    assert old.exists() != is_completed


def test_where_no_step_tells_the_newest_few_stay(tmp_path: Path):
    """Each is as large as a checkpoint, and a run may have thousands of sessions."""
    path = tmp_path / "last.bin"
    olds = [Path(kept_names.before_session(str(path), "r", number)) for number in range(1, 7)]
    for place in (path, *olds):
        place.write_bytes(b"x")
    reconciled(*(reported(old, None) for old in olds), reported(path, None), offered=path)  # type: ignore[arg-type]
    assert [old.exists() for old in olds] == [False, False, False, True, True, True]


def test_a_file_of_the_scripts_own_is_never_removed(tmp_path: Path):
    """It was renamed by the script, and so needed no name of ours."""
    for name in ("previous.bin", "last.bin"):
        (tmp_path / name).write_bytes(b"x")
    reconciled(reported(tmp_path / "previous.bin", 10, is_kept=True), reported(tmp_path / "last.bin", 11))
    assert (tmp_path / "previous.bin").exists()
