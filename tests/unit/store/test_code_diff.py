"""How the code of two runs differs, asked of real git repositories."""

import subprocess
from pathlib import Path

import pytest

from backprop.records import GitState
from backprop.store.code import provenance
from backprop.store.code.diff import Code, difference


class Repository:
    def __init__(self, path: Path) -> None:
        path.mkdir()
        self.path = path
        self.script = path / "train.py"
        self.git("init", "-q")
        self.write("lr = 1\n")
        self.commit()

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=Ada", "-c", "user.email=ada@localhost", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *who, *words], cwd=self.path, capture_output=True, text=True, check=True).stdout

    def write(self, text: str, name: str = "train.py") -> None:
        (self.path / name).write_text(text)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", "change")

    def code(self, run_id: str, script: str = "train.py") -> Code:
        """What a run that starts now would keep."""
        code = provenance.record(self.path, self.path / script)
        return Code(run_id=run_id, git=code.git, patch=code.patch, folders=(str(self.path),))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / 're:po "1')


def changes(patch: bytes) -> list[str]:
    lines = patch.decode().splitlines()
    return [line for line in lines if line[:1] in "+-" and not line.startswith(("+++", "---"))]


def test_commits_and_uncommitted_changes_count_together(repository: Repository):
    """What differs is the code that ran, however much of it was committed; the repository stays as it was."""
    repository.write("lr = 1\nbatch = 8\n")
    one = repository.code("one")
    repository.commit()
    repository.write("lr = 2\nbatch = 8\n")
    two = repository.code("two")
    before = repository.git("count-objects", "-v"), repository.git("status", "--porcelain")
    found = difference(one, two)
    assert changes(found.patch) == ["-lr = 1", "+lr = 2"]
    assert found.notes == ()
    assert (repository.git("count-objects", "-v"), repository.git("status", "--porcelain")) == before


def test_the_same_code_is_said_to_be_the_same(repository: Repository):
    """Also when one run had uncommitted what the other had committed."""
    repository.write("lr = 3\n")
    one = repository.code("one")
    repository.commit()
    found = difference(one, repository.code("two"))
    assert found.patch == b""
    assert found.notes == ("their code is the same.",)


def test_a_script_that_git_did_not_know_is_compared(repository: Repository):
    """Its whole text was kept as a patch."""
    repository.write("x = 1\n", "new.py")
    one = repository.code("one", "new.py")
    repository.write("x = 2\n", "new.py")
    assert changes(difference(one, repository.code("two", "new.py")).patch) == ["-x = 1", "+x = 2"]


def test_without_the_repository_the_patches_are_compared(repository: Repository, tmp_path: Path):
    """And it says that commits could not be."""
    repository.write("lr = 2\n")
    one = repository.code("one")
    repository.write("lr = 3\n")
    two = repository.code("two")
    repository.path.rename(tmp_path / "gone")
    found = difference(one, two)
    assert "-+lr = 2" in changes(found.patch)
    assert "++lr = 3" in changes(found.patch)
    assert "only uncommitted changes are compared" in " ".join(found.notes)


def test_a_patch_that_does_not_apply_is_compared_as_text(repository: Repository):
    """Commits first, then patch against patch, and a word on why."""
    one = repository.code("one")
    repository.write("lr = 9\n")
    repository.commit()
    two = repository.code("two")
    broken = Code(
        run_id="two", git=two.git, patch=b"--- a/none\n+++ b/none\n@@ -1 +1 @@\n-a\n+b\n", folders=two.folders
    )
    found = difference(one, broken)
    assert "+lr = 9" in changes(found.patch)
    assert "++b" in changes(found.patch)
    assert "could not be applied" in found.notes[0]


def test_what_was_not_kept_is_said(repository: Repository):
    """No git, or changes that were too many for a patch."""
    one = repository.code("one")
    outside = Code(run_id="two", git=None, patch=None, folders=("/",), script_sha256="a")
    assert "two was started outside of git" in difference(one, outside).notes[0]
    same = difference(outside, outside)
    assert "the same, byte for byte" in same.notes[-1]
    assert one.git is not None
    dirty = GitState(commit=one.git.commit, branch="main", dirty=True)
    large = Code(run_id="big", git=dirty, patch=None, folders=one.folders)
    assert "over 10 MB" in difference(one, large).notes[0]


def test_a_large_difference_is_cut(repository: Repository):
    """At so many bytes, which is said; git is ended, not waited for. One that fits is whole."""
    one = repository.code("one")
    repository.write("x = 1\n" * 500_000, "data.py")
    repository.commit()
    two = repository.code("two")
    whole = difference(one, two)
    assert not whole.is_cut
    cut = difference(one, two, 1000)
    assert (cut.patch, cut.is_cut) == (whole.patch[:1000], True)
    fits = difference(one, two, len(whole.patch))
    assert (fits.patch, fits.is_cut) == (whole.patch, False)
