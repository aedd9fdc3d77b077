"""What is written down of a tree, for real processes."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from psutil import Process

from backprop.supervisor import roster
from backprop.supervisor.roster import Roster


@pytest.fixture
def sleepers() -> Iterator[list[Process]]:
    started = [subprocess.Popen(["sleep", "1000"]) for _ in range(3)]
    yield [Process(one.pid) for one in started]
    for one in started:
        one.kill()
        one.wait()


def test_those_that_live_are_found_again(tmp_path: Path, sleepers: list[Process]):
    """By whoever reads the file; not those that have ended since."""
    path = tmp_path / "tree.json"
    Roster(path, 3, "boot").record(sleepers)
    assert set(roster.living(path, 3, "boot")) == set(sleepers)
    sleepers[0].kill()
    sleepers[0].wait()
    assert set(roster.living(path, 3, "boot")) == set(sleepers[1:])


def test_it_is_written_only_when_the_tree_has_changed(tmp_path: Path, sleepers: list[Process]):
    """A look that finds the same processes writes nothing."""
    path = tmp_path / "tree.json"
    made = Roster(path, 1, None)
    made.record(sleepers[:2])
    path.unlink()
    made.record([Process(one.pid) for one in reversed(sleepers[:2])])
    assert not path.exists()
    made.record(sleepers)
    assert set(roster.living(path, 1, None)) == set(sleepers)
    made.record(sleepers[:1])
    assert roster.living(path, 1, None) == sleepers[:1]


def test_a_disk_that_is_full_is_tried_again(tmp_path: Path, sleepers: list[Process]):
    """What could not be written is not taken for written."""
    folder = tmp_path / "not yet"
    made = Roster(folder / "tree.json", 1, None)
    made.record(sleepers)
    folder.mkdir()
    made.record(sleepers)
    assert set(roster.living(folder / "tree.json", 1, None)) == set(sleepers)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"session": 1}', b"\xff"])
def test_what_cannot_be_read_names_nobody(tmp_path: Path, content: bytes):
    """A torn or foreign file is no reason to end anything, nor to fail."""
    path = tmp_path / "tree.json"
    assert roster.living(path, 1, None) == []
    path.write_bytes(content)
    assert roster.living(path, 1, None) == []


def test_in_a_copy_of_the_run_directory_it_names_nobody(tmp_path: Path, sleepers: list[Process]):
    """The trainer of the original may well have a supervisor; the original under another name still counts."""
    original, copy = tmp_path / "r", tmp_path / "copy"
    original.mkdir()
    Roster(original / "tree.json", 1, "boot").record(sleepers)
    shutil.copytree(original, copy)
    assert roster.living(copy / "tree.json", 1, "boot") == []
    moved = original.rename(tmp_path / "moved")
    assert set(roster.living(moved / "tree.json", 1, "boot")) == set(sleepers)
