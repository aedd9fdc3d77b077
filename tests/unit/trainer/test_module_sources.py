"""Which file of a snapshot takes the place of one in the work tree, and what is recorded of an imported module."""

import hashlib
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path

import pytest

from backprop.trainer import module_sources
from backprop.trainer.module_sources import _Snapshot


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A work tree that was reached by a link, with the snapshot of some of its files beside it."""
    for name in ("tree/train.py", "tree/pkg/__init__.py", "tree/new.py", "kept/train.py", "kept/pkg/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "kept" / "data.py").symlink_to(tmp_path / "tree" / "train.py")  # stands for what was not copied
    (tmp_path / "link").symlink_to("tree")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("tree/train.py", "kept/train.py"),
        ("link/train.py", "kept/train.py"),
        ("tree/pkg/../train.py", "kept/train.py"),
        ("tree/new.py", None),  # made after the submission
        ("tree/data.py", None),
        ("kept/train.py", None),  # it is in the snapshot already
        ("tree2/train.py", None),
        ("tree/pkg", None),
    ],
)
def test_the_file_in_the_snapshot(tree: Path, path: str, kept: str | None):
    snapshot = _Snapshot(str(tree / "link"), str(tree / "kept"))
    assert snapshot.kept(str(tree / path)) == (None if kept is None else str(tree / kept))


def test_a_package_is_redirected_with_its_modules(tree: Path):
    """Its submodules are looked for in the snapshot, too; a module of the interpreter stays what it is."""
    snapshot = _Snapshot(str(tree / "tree"), str(tree / "kept"))
    folder = tree / "tree" / "pkg"
    found = spec_from_file_location("pkg", folder / "__init__.py", submodule_search_locations=[str(folder)])
    redirected = snapshot.redirected(found)
    assert redirected.origin == str(tree / "kept" / "pkg" / "__init__.py")
    assert redirected.submodule_search_locations == [str(tree / "kept" / "pkg")]
    builtin = ModuleSpec("sys", None, origin="built-in")
    assert snapshot.redirected(builtin) is builtin


def test_a_module_is_recorded_with_its_checksum(tree: Path, monkeypatch: pytest.MonkeyPatch):
    """In the format of sha256sum; the list does not grow without end."""
    monkeypatch.setenv("BACKPROP_RUN_DIR", str(tree))
    monkeypatch.setenv("BACKPROP_SESSION", "3")
    path, found = str(tree / "tree" / "train.py"), tree / "session-3.modules"
    module_sources.record(path)
    line = f"{hashlib.sha256(b'tree/train.py').hexdigest()}  {path}\n"
    assert found.read_text() == line
    monkeypatch.setattr(module_sources, "_MAX_BYTES", len(line))
    module_sources.record(path)
    assert found.read_text() == line
