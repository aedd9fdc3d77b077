"""What is recorded of a run's code, asked of real git repositories; none of them executes anything."""

import os
import subprocess
from pathlib import Path

import pytest

from backprop.records import GitState
from backprop.store.code import provenance
from backprop.store.code.diff import Code, difference
from backprop.store.code.provenance import Recorded, changes


class Repository:
    """A work tree with one commit of train.py."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True)
        self.path = path
        self.git("init", "-q", "-b", "main")
        self.write("train.py", "lr = 1\n")
        self.commit()

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=Ada", "-c", "user.email=ada@localhost", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *who, *words], cwd=self.path, capture_output=True, text=True, check=True).stdout

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-qm", "change")

    def recorded(self, script: str = "train.py") -> Recorded:
        path = self.path / script
        return provenance.record(path.parent, path)

    def restored(self, recorded: Recorded, folder: Path) -> Path:
        """A folder with the code that was recorded."""
        folder.mkdir()
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        if recorded.git is not None and recorded.git.commit is not None:
            subprocess.run(["git", "pull", "-q", str(self.path), recorded.git.commit], cwd=folder, check=True)
        if recorded.patch:
            subprocess.run(["git", "apply", "-"], input=recorded.patch, cwd=folder, check=True)
        return folder


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "re po")


# -- nothing is executed


def hostile(repository: Repository, marks: Path) -> None:
    """Let a repository name a program wherever git's configuration can; each leaves a mark."""
    marks.mkdir()

    def program(name: str) -> str:
        path = repository.path.with_name(f"{name}.sh")
        path.write_text(f"#!/bin/sh\ntouch '{marks}/{name}'\ncat\n")
        path.chmod(0o755)
        return f"'{path}'"

    repository.write(".gitattributes", "*.py filter=clean diff=driver\n*.txt filter=process diff=text\n* filter=x.y\n")
    repository.write("a.txt", "one\n")
    repository.commit()
    for key in (
        "core.fsmonitor",
        "core.pager",
        "core.sshCommand",
        "diff.external",
        "diff.driver.command",
        "diff.text.textconv",
        "filter.clean.clean",
        "filter.clean.smudge",
        "filter.process.process",
        "filter.x.y.clean",
    ):
        repository.git("config", key, program(key))
    repository.git("config", "filter.clean.required", "true")
    repository.git("config", "diff.relative", "true")
    hooks = repository.path / ".git" / "hooks"
    for hook in ("post-index-change", "fsmonitor-watchman", "reference-transaction"):
        (hooks / hook).write_text(f"#!/bin/sh\ntouch '{marks}/{hook}'\n")
        (hooks / hook).chmod(0o755)
    for name in ("train.py", "a.txt", "new.py"):
        repository.write(name, "lr = 2\n")


def test_a_repository_executes_nothing_when_it_is_recorded(repository: Repository, tmp_path: Path):
    """Monitors, hooks, filters, external diffs and text conversions stand in its configuration, and are not started."""
    before = repository.recorded()
    marks = tmp_path / "marks"
    hostile(repository, marks)
    recorded = repository.recorded()
    assert recorded.git is not None
    assert recorded.git.dirty
    assert b"+lr = 2" in (recorded.patch or b"")
    codes = [
        Code(run_id=name, git=one.git, patch=one.patch, folders=(str(repository.path),))
        for name, one in (("one", before), ("two", recorded))
    ]
    assert b"+lr = 2" in difference(*codes).patch
    assert os.listdir(marks) == []
    subprocess.run(["git", "status"], cwd=repository.path, capture_output=True, check=False)
    assert os.listdir(marks) != []  # the programs are such as git does start


def test_a_submodule_executes_nothing_either(repository: Repository, tmp_path: Path):
    """It has a configuration of its own, which no option of ours reaches."""
    marks = tmp_path / "marks"
    inner = Repository(tmp_path / "inner")
    repository.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(inner.path), "sub")
    repository.commit()
    monitor = tmp_path / "monitor.sh"
    monitor.write_text(f"#!/bin/sh\ntouch '{marks}'\n")
    monitor.chmod(0o755)
    for key in ("core.fsmonitor", "filter.x.clean"):
        subprocess.run(["git", "config", key, str(monitor)], cwd=repository.path / "sub", check=True)
    repository.write("sub/.gitattributes", "* filter=x\n")
    repository.write("sub/train.py", "lr = 2\n")
    assert repository.recorded().git is not None
    assert not marks.exists()
    repository.git("status")
    assert marks.exists()


def test_a_filter_that_cannot_be_switched_off_keeps_git_from_being_asked(repository: Repository):
    """Its name would end the option early."""
    repository.git("config", "filter.a=b.clean", "true")
    recorded = repository.recorded()
    assert recorded.git is None
    assert "cannot be switched off" in recorded.notes[0]


# -- what is kept, and what is said of what is not


def test_everything_that_runs_can_be_put_back(repository: Repository, tmp_path: Path):
    """Commit, changes, and source files that git does not track, with names and ends as they are, below the script."""
    sub = repository.write("sub/train.py", "import model\n").parent
    repository.commit()
    repository.write("train.py", "lr = 2\n")
    texts = {
        "model.py": "x",
        "my mödel.py": "a\n\nb\n",
        'q"\\\t.py': "a\r\nb\r\n",
        "empty.py": "",
        "deep/x.yaml": "a: 1\n",
    }
    for name, text in texts.items():
        path = repository.write(f"sub/{name}", "")
        path.write_bytes(text.encode())
    repository.write("sub/data.bin", "data")
    recorded = repository.recorded("sub/train.py")
    assert recorded.git is not None
    assert recorded.git.dirty
    assert recorded.notes == ()
    restored = repository.restored(recorded, tmp_path / "restored")
    assert {name: (restored / sub.name / name).read_bytes().decode() for name in texts} == texts
    assert (restored / "train.py").read_text() == "lr = 2\n"
    assert not (restored / "sub" / "data.bin").exists()


def test_a_module_that_git_does_not_track_makes_the_code_dirty(repository: Repository):
    """The script is committed; what it imports is not."""
    repository.write("model.py", "layers = 3\n")
    recorded = repository.recorded()
    assert recorded.git is not None
    assert recorded.git.dirty
    assert b"+layers = 3" in (recorded.patch or b"")


def test_an_ignored_script_is_kept(repository: Repository):
    """Ignored files are none of ours, but this one runs."""
    repository.write(".gitignore", "*.py\n")
    repository.commit()
    repository.write("scratch.py", "x = 1\n")
    repository.write("other.py", "y = 1\n")
    patch = repository.recorded("scratch.py").patch or b""
    assert b"+x = 1" in patch
    assert b"+y = 1" not in patch


def test_before_the_first_commit_all_that_is_staged_is_kept(tmp_path: Path):
    """There is no commit to differ from: the patch is everything."""
    path = tmp_path / "new"
    path.mkdir()
    subprocess.run(["git", "init", "-q"], cwd=path, check=True)
    (path / "train.py").write_text("lr = 1\n")
    (path / "model.py").write_text("layers = 1\n")
    subprocess.run(["git", "add", "."], cwd=path, check=True)
    (path / "model.py").write_text("layers = 2\n")
    recorded = provenance.record(path, path / "train.py")
    assert recorded.git is not None
    assert (recorded.git.commit, recorded.git.dirty) == (None, True)
    assert b"+lr = 1" in (recorded.patch or b"")
    assert b"+layers = 2" in (recorded.patch or b"")


@pytest.mark.skipif(os.getuid() != 0, reason="gives a folder away")
def test_a_repository_of_another_user_leaves_a_word(repository: Repository, monkeypatch: pytest.MonkeyPatch):
    """Git does not look into it unless it is told to trust it: what to say to it is said."""
    monkeypatch.delenv("SUDO_UID", raising=False)  # git lets those in who became root
    for path in (repository.path, *repository.path.rglob("*")):
        os.chown(path, 65534, -1)
    recorded = repository.recorded()
    assert recorded.git is None
    assert "dubious ownership" in recorded.notes[0]
    assert f"safe.directory {repository.path}" in recorded.notes[0]


def test_what_is_too_large_leaves_a_word(repository: Repository, monkeypatch: pytest.MonkeyPatch):
    """Of the whole patch, and of one file."""
    monkeypatch.setattr(provenance, "MAX_PATCH_BYTES", 2_000_000)
    repository.write("large.py", "#" * 1_200_000)
    recorded = repository.recorded()
    assert recorded.patch is None
    assert recorded.notes == ("large.py, which git does not track, was not kept: it is 1.2 MB",)
    repository.write("train.py", "#" * 2_500_000)
    assert "uncommitted changes of 2.5 MB were not kept (limit 2 MB)" in repository.recorded().notes


def test_what_is_no_text_leaves_a_word(repository: Repository):
    """A link, a FIFO and binary changes are not kept; a FIFO keeps nobody waiting."""
    repository.write("weights.bin", "a\0b")
    repository.commit()
    repository.write("weights.bin", "a\0c")
    repository.write("null.py", "a\0b")
    os.mkfifo(repository.path / "fifo.py")
    (repository.path / "link.py").symlink_to("train.py")
    told = "\n".join(repository.recorded().notes)
    assert "1 binary file(s)" in told
    assert "null.py, which git does not track, was not kept: it is no text" in told
    assert "link.py, which git does not track, was not kept" in told


def test_outside_of_git_that_is_said(tmp_path: Path):
    """And where git is missing, too."""
    assert "not in a git repository" in provenance.record(tmp_path, None).notes[0]


def test_a_machine_without_git_is_said_to_be_one(repository: Repository, monkeypatch: pytest.MonkeyPatch):
    """There is a repository, and nobody to ask about it."""
    monkeypatch.setenv("PATH", str(repository.path))
    assert "git cannot be run" in repository.recorded().notes[0]


# -- what has changed


def test_files_whose_changes_are_others_are_named(repository: Repository):
    """With the commit, where that is another; nothing is said of what is not known."""
    repository.write("lib b/x.py", "x = 1\n")
    repository.commit()
    before = repository.recorded()
    repository.write("lib b/x.py", "x = 2\n")
    repository.write("new.py", "y = 1\n")
    changed = repository.recorded()
    assert changes(before, changed) == ("lib b/x.py", "new.py")
    repository.commit()
    committed = repository.recorded()
    assert [word.split()[0] for word in changes(changed, committed)] == ["commit", "lib", "new.py"]
    assert changes(committed, repository.recorded()) == ()
    assert changes(Recorded(), committed) == ()
    assert changes(Recorded(git=changed.git), changed) == ()  # its changes were not kept


def test_a_renamed_file_is_named():
    """By its new name."""
    head = b"diff --git a/old.py b/b/new name.py\nrename from old.py\nrename to b/new name.py\n"
    state = GitState(commit="c", dirty=True)
    assert changes(Recorded(git=state, patch=b""), Recorded(git=state, patch=head)) == ("b/new name.py",)
