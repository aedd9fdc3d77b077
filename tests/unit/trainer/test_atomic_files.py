"""Checkpoints get their name when they are whole, and what is not whole does not stay."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from backprop.trainer import atomic_files


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of what was synced to the disk, and `from -> to` of what was renamed, in that order."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(fd: int) -> None:
        done.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        fsync(fd)

    def note_replace(source: str, target: str) -> None:
        done.append(f"{Path(source).name} -> {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    return done


def make_folder(path: Path, content: str) -> Path:
    (path / "below").mkdir(parents=True)
    (path / "shard").write_text(content)
    (path / "below" / "other").write_text(content)
    return path


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path):
    """The folder is made; until the end there is what was there before."""
    path = tmp_path / "deep" / "a.pt"
    for content in (b"first", b"second"):
        before = path.read_bytes() if path.exists() else None
        with atomic_files.atomic_write(str(path)) as file:
            file.write(content)
            assert (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == content
    assert names_in(path.parent) == ["a.pt"]


def test_a_failure_leaves_what_was_there(tmp_path: Path):
    """And nothing else."""
    path = tmp_path / "a.pt"
    path.write_text("first")

    def fail() -> None:
        with atomic_files.atomic_write(str(path)) as file:
            file.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (names_in(tmp_path), path.read_text()) == (["a.pt"], "first")


KILLED = """
import os, sys
from backprop.trainer import atomic_files as files
with files.atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("writes", flush=True)
    sys.stdin.read()
    os.kill(os.getpid(), 9)
"""


def test_drafts_of_killed_processes_are_removed_and_no_others(tmp_path: Path):
    """Not while their writer lives, on whatever machine; nor a file of the user's, whatever it is called."""
    path = tmp_path / "a.pt"
    users = ["a.pt.new-20240101", f"a.pt.new-{os.getpid()}", "a.pt.part", ".b.pt.backprop-here-1-00.part", "a.pt.old"]
    for name in users:
        (tmp_path / name).write_text("precious")
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdout.readline()
        (draft,) = set(names_in(tmp_path)) - set(users)
        with atomic_files.atomic_write(str(path)) as file:
            file.write(b"first")
        assert names_in(tmp_path) == sorted([*users, draft, "a.pt"])  # its writer lives
        other.communicate("")
    with atomic_files.atomic_write(str(path)) as file:
        assert draft not in names_in(tmp_path)  # gone before room is needed
        file.write(b"second")
    assert names_in(tmp_path) == sorted([*users, "a.pt"])
    assert {(tmp_path / name).read_text() for name in users} == {"precious"}


@pytest.mark.parametrize("name", ["n" * 255, "ü" * 127])
def test_a_name_may_be_as_long_as_any(tmp_path: Path, name: str):
    """A draft's is no longer."""
    for content in (b"first", b"second"):
        with atomic_files.atomic_write(str(tmp_path / name)) as file:
            file.write(content)
    assert (tmp_path / name).read_bytes() == b"second"
    assert names_in(tmp_path) == [name]


@pytest.mark.parametrize(("mode", "expected"), [(0o600, 0o600), (0o666, 0o644)])
def test_a_drafts_permissions_become_the_files(tmp_path: Path, mode: int, expected: int):
    """But for what the umask takes."""
    path = tmp_path / "a"
    before = os.umask(0o022)
    try:
        with atomic_files.drafted(str(path), mode) as draft:
            Path(draft).write_text("whole")
    finally:
        os.umask(before)
    assert (path.stat().st_mode & 0o777, path.read_text()) == (expected, "whole")


@pytest.mark.parametrize("draft_is_folder", [True, False], ids=["folder", "file"])
@pytest.mark.parametrize("before", ["nothing", "file", "folder", "killed in between"])
def test_settling_replaces_whatever_was_there(tmp_path: Path, before: str, draft_is_folder: bool):
    """A file or a folder, by a file or a folder; also what a kill between two renames has left."""
    draft, path = tmp_path / "a.new", tmp_path / "a"
    if before == "file":
        path.write_text("old")
    elif before == "folder":
        make_folder(path, "old")
    elif before == "killed in between":
        make_folder(tmp_path / "a.old", "old")
    if draft_is_folder:
        make_folder(draft, "new")
    else:
        draft.write_text("new")
    atomic_files.publish(str(draft), str(path))
    assert names_in(tmp_path) == ["a"]
    assert (path / "shard" if draft_is_folder else path).read_text() == "new"


def test_a_folder_is_on_the_disk_before_it_has_its_name(tmp_path: Path, synced: list[str]):
    """All that is in it; and the old one is there until then."""
    make_folder(tmp_path / "a.new", "new")
    make_folder(tmp_path / "a", "old")
    atomic_files.publish(str(tmp_path / "a.new"), str(tmp_path / "a"))
    assert sorted(synced[:-3]) == ["a.new", "below", "other", "shard"]
    assert synced[-3:] == ["a -> a.old", "a.new -> a", tmp_path.name]


def test_the_old_folder_comes_back_when_the_new_one_does_not_come(tmp_path: Path):
    """It was never there."""
    path = make_folder(tmp_path / "a", "old")
    with pytest.raises(FileNotFoundError):
        atomic_files.publish(str(tmp_path / "a.new"), str(path))
    assert (names_in(tmp_path), (path / "shard").read_text()) == (["a"], "old")
