"""The record of the code that was executed, as users see it."""

import json
import subprocess
import venv
from pathlib import Path

import pytest

from tests.conftest import Runs, recorded, wait_for


@recorded
def repository(runs: Runs) -> None:
    """A working folder with one commit of train.py and model.py."""
    runs.script("import model\nprint(model.NAME, flush=True)")
    (runs.work / "model.py").write_text("NAME = 'one'\n")
    git(runs, "init", "-q", "-b", "trunk")
    git(runs, "add", ".")
    git(runs, "commit", "-qm", "first")


def git(runs: Runs, *words: str) -> None:
    who = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=runs.work, check=True)


def test_the_record_is_of_what_was_executed(repository: Runs):
    """A run that waits executes the code as it is at its turn: that is kept, said, and what `compare --diff` compares.

    The edit changes the size of the file: Python takes its cached bytecode for a file of the same size and second.
    """
    runs = repository
    runs.script("while not os.path.exists('go'): time.sleep(0.02)", "hold.py")
    (runs.work / ".gitignore").write_text("go\n")
    git(runs, "add", ".")
    git(runs, "commit", "-qm", "second")
    runs.call("run", "train.py", "--run-id", "before")
    runs.start("run", "hold.py", "--run-id", "hold", "-p", "1")
    wait_for(lambda: runs.journal("hold") if runs.rundir("hold").exists() else [])
    runs.own("edited")
    runs.call("run", "train.py", "-d", "-p", "1", "--run-id", "edited")
    assert runs.document("edited")["git"]["dirty"] is False
    (runs.work / "model.py").write_text("NAME = 'second'\n")
    (runs.work / "go").touch()
    runs.call("wait", "edited")
    assert runs.output("edited") == "second\n"
    document = runs.document("edited")
    session = document["sessions"][0]
    assert document["git"]["dirty"] is True
    assert session["code_changed"] == ["model.py"]
    assert b"+NAME = 'second'" in (runs.rundir("edited") / session["patch"]).read_bytes()
    assert (
        "the code has changed since it was submitted: model.py"
        in runs.rundir("edited").joinpath("supervisor.log").read_text()
    )
    assert "code changed before it: model.py" in runs.call("status", "edited").stdout
    assert "+NAME = 'second'" in runs.call("compare", "before", "edited", "--diff").stdout


def test_each_session_has_its_code(repository: Runs):
    """A resume says what has changed since the session before; what has not is not kept twice."""
    runs = repository
    (runs.work / "new.py").write_text("x = 1\n")
    runs.call("run", "train.py", "--run-id", "r")
    assert "changed" not in runs.call("resume", "r", "--again").stderr
    (runs.work / "model.py").write_text("NAME = 'second'\n")
    git(runs, "commit", "-qam", "second")
    (runs.work / "new.py").write_text("x = 2\n")
    resumed = runs.call("resume", "r", "--again")
    assert "the code has changed since session 2: commit " in resumed.stderr
    assert ", new.py" in resumed.stderr
    sessions = runs.document("r")["sessions"]
    assert [session["patch"] for session in sessions[:2]] == ["code.patch"] * 2
    assert sessions[0]["git"] == sessions[1]["git"] != sessions[2]["git"]
    assert len(list(runs.rundir("r").glob("code*.patch"))) == 2
    (runs.work / "new.py").write_text("x = 3\n")
    runs.own("r")
    assert "the code has changed since session 3: new.py" in runs.call("resume", "r", "--again", "-d").stderr
    runs.call("wait", "r")


def test_what_could_not_be_recorded_is_in_the_status(runs: Runs):
    """No git: only that is said, there and in JSON."""
    runs.script("print(1)")
    runs.call("run", "train.py", "--run-id", "r")
    assert "not in a git repository" in runs.call("status", "r").stdout
    assert "not in a git repository" in runs.document("r")["code_notes"][0]


def test_a_module_that_git_does_not_know_is_noticed_when_it_changes(runs: Runs):
    """Its checksum was written down when it was imported; `compare --diff` names it."""
    runs.script("import model\nopen('model.py', 'a').write('\\n')")
    (runs.work / "model.py").write_text("NAME = 'one'\n")
    runs.call("run", "train.py", "--run-id", "r")
    resumed = runs.call("resume", "r", "--again")
    assert "the code has changed since session 1: model.py" in resumed.stderr
    runs.call("run", "train.py", "--run-id", "s")
    assert "modules that both imported these differed: model.py" in runs.call("compare", "r", "s", "--diff").stderr


# -- the same run twice


def same_as(runs: Runs, *words: str) -> str:
    """What a start says of earlier runs."""
    done = runs.call("run", *words)
    assert done.returncode == 0, done.stderr
    return "".join(line for line in done.stderr.splitlines(keepends=True) if "same as run" in line)


def test_a_start_that_repeats_a_run_says_so(repository: Runs):
    """The newest one with this code, command and arguments; and it does not claim to know the data."""
    runs = repository
    told = "backprop: note: same as run a (base), completed: code, command and arguments; data was not compared\n"
    assert same_as(runs, "train.py", "--run-id", "a", "-n", "base", "--", "--seed", "1") == ""
    assert same_as(runs, "train.py", "--run-id", "b", "--", "--seed", "2") == ""
    assert runs.call("list").returncode == 0
    assert same_as(runs, "train.py", "--run-id", "c", "--", "--seed", "1") == told
    assert "same as run c, completed" in same_as(runs, "train.py", "--run-id", "d", "--", "--seed", "1")
    (runs.work / "model.py").write_text("NAME = 'second'\n")
    assert same_as(runs, "train.py", "--run-id", "e", "--", "--seed", "1") == ""
    assert "same as run e" in same_as(runs, "train.py", "--run-id", "f", "--", "--seed", "1")


def test_runs_are_found_by_their_commit(repository: Runs):
    """Its beginning is enough."""
    runs = repository
    assert runs.call("run", "train.py", "--run-id", "a").returncode == 0
    commit = runs.document("a")["git"]["commit"]
    for condition, found in ((f"commit={commit[:8].upper()}", ["a"]), (f"commit!={commit[:8]}", []), ("commit=x", [])):
        listed = json.loads(runs.call("list", "--json", "--filter", condition).stdout)
        assert [run["id"] for run in listed] == found


def test_nothing_is_said_where_it_is_not_known(repository: Runs):
    """A module that git ignores has changed; an earlier run was given other arguments, or began from a checkpoint."""
    runs = repository
    (runs.work / ".gitignore").write_text("model.py\nmodel.pt\n")
    git(runs, "rm", "-q", "--cached", "model.py")
    git(runs, "add", ".gitignore")
    git(runs, "commit", "-qm", "second")
    (runs.work / "model.pt").write_text("weights")
    assert same_as(runs, "train.py", "--run-id", "a", "-r", "model.pt") == ""
    assert same_as(runs, "train.py", "--run-id", "b") == ""
    (runs.work / "model.py").write_text("NAME = 'another'\n")
    assert same_as(runs, "train.py", "--run-id", "c") == ""
    assert runs.call("resume", "c", "--again", "--", "--more").returncode == 0
    assert same_as(runs, "train.py", "--run-id", "d", "--", "--more") == ""
    assert "same as run d" in same_as(runs, "train.py", "--run-id", "e", "--", "--more")


def test_runs_outside_git_are_not_compared(runs: Runs):
    """Only the script's own checksum is known there."""
    runs.script("print(1)")
    assert same_as(runs, "train.py") == ""
    assert runs.call("list").returncode == 0
    assert same_as(runs, "train.py") == ""


# -- snapshots

EVERY_WAY = """
    import multiprocessing, model, package.deep

    def spawned(answers):
        import late
        answers.put(late.NAME)

    if __name__ == "__main__":
        sys.path.insert(0, os.getcwd())
        import late
        names = [model.NAME, package.deep.NAME, late.NAME]
        context = multiprocessing.get_context("spawn")
        answers = context.SimpleQueue()
        process = context.Process(target=spawned, args=(answers,))
        process.start()
        names.append(answers.get())
        process.join()
        for words in (["worker.py"], ["-m", "package.tool"], ["-c", "import late; print(late.NAME)"]):
            names.append(subprocess.check_output([sys.executable, *words], text=True).strip())
        print(*names)
        beside = os.path.join(os.path.dirname(__file__), "data.txt")
        print(open("data.txt").read(), open(beside).read())
        open("out.txt", "w").write("x")
"""


@pytest.fixture(params=["git", "no git"])
def tree(runs: Runs, request: pytest.FixtureRequest) -> Runs:
    """A work tree that imports in every way, and has data beside its code."""
    (runs.work / "package").mkdir()
    for name in ("model", "late", "package/deep"):
        (runs.work / f"{name}.py").write_text("NAME = 'one'\n")
    (runs.work / "package" / "tool.py").write_text("import late\nprint(late.NAME)\n")
    (runs.work / "worker.py").write_text("import late\nprint(late.NAME)\n")
    (runs.work / "data.txt").write_text("one")
    (runs.work / ".gitignore").write_text("data.txt\n")
    runs.script(EVERY_WAY)
    if request.param == "git":
        git(runs, "init", "-q")
        git(runs, "add", "train.py", "model.py", "package")
        git(runs, "commit", "-qm", "first")
    return runs


def edit(runs: Runs) -> None:
    for path in [*runs.work.glob("*.py"), *runs.work.glob("package/*.py"), runs.work / "data.txt"]:
        path.write_text(path.read_text().replace("one", "three").replace("print(", "print('edited', "))


def test_sessions_run_from_the_snapshot(tree: Runs):
    """However a module is imported, and in child processes; data and output are where they always are."""
    assert tree.call("run", "--snapshot", "train.py", "--run-id", "r").returncode == 0
    edit(tree)
    assert tree.call("resume", "r", "--again").returncode == 0
    names = " ".join(["one"] * 7)
    assert tree.output("r") == f"{names}\none one\n"
    assert tree.output("r", 2) == f"{names}\nthree three\n"
    assert (tree.work / "out.txt").exists()
    assert tree.document("r")["sessions"][1]["code_changed"] == []
    assert tree.document("r")["snapshot_of"] == str(tree.work)
    (tree.work / "train.py").unlink()  # nor is the original needed
    assert tree.call("resume", "r", "--again").returncode == 0


FINDER = """
import sys
from importlib.util import spec_from_file_location

class Editable:  # as setuptools installs it where the package lies in a folder of another name
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        parts = name.split(".")
        if parts[0] == "library":
            file = "/".join([{place!r}, *(parts[1:] or ["__init__"])]) + ".py"
            return spec_from_file_location(name, file)

def install():
    sys.meta_path.append(Editable)
"""


@pytest.mark.parametrize("way", ["path", "finder"])
def test_a_package_that_is_installed_editable_runs_from_the_snapshot(repository: Runs, way: str, tmp_path: Path):
    """However an installer did that: by a line in a .pth file, or by a finder of its own."""
    code = repository.work / "src" / ("library" if way == "path" else "code")
    code.mkdir(parents=True)
    (code / "__init__.py").write_text("NAME = 'one'\n")
    (code / "part.py").write_text("NAME = 'one'\n")
    repository.script("import library, library.part; print(library.NAME, library.part.NAME)", "uses.py")
    git(repository, "add", "src", "uses.py")
    venv.create(tmp_path / "env")
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    if way == "path":
        (site / "library.pth").write_text(f"{code.parent}\n")
    else:
        (site / "library_finder.py").write_text(FINDER.format(place=str(code)))
        (site / "library.pth").write_text("import library_finder; library_finder.install()\n")
    python = tmp_path / "env" / "bin" / "python"
    words = ("run", "--snapshot", "--run-id", "r", "--python", python, "uses.py")
    assert repository.call(*words).returncode == 0
    for path in code.iterdir():
        if path.is_file():
            path.write_text("NAME = 'three'\n")
    assert repository.call("resume", "r", "--again").returncode == 0
    assert repository.output("r", 2) == repository.output("r") == "one one\n"


def test_a_command_runs_from_the_snapshot(repository: Runs):
    """A shell script, and the Python script that it starts by a relative path."""
    (repository.work / "go.sh").write_text("echo shell one\npython3 train.py\n")
    words = ["run", "--snapshot", "--run-id", "r", "--", "sh", "go.sh"]
    assert repository.call(*words).returncode == 0
    for name in ("go.sh", "model.py"):
        path = repository.work / name
        path.write_text(path.read_text().replace("one", "three"))
    assert repository.call("resume", "r", "--again").returncode == 0
    assert repository.output("r", 2) == repository.output("r") == "shell one\none\n"


def test_a_work_tree_that_is_too_large_is_refused(repository: Runs):
    """With a word on what is large; nothing of the run is left. What git ignores does not count."""
    (repository.work / ".gitignore").write_text("data.bin\n")
    for name in ("data.bin", "large.bin"):
        with (repository.work / name).open("wb") as file:
            file.truncate(150_000_000)
    assert repository.call("run", "--snapshot", "train.py", "--run-id", "r").returncode == 0
    git(repository, "add", "-N", "large.bin")
    refused = repository.call("run", "--snapshot", "train.py", "--run-id", "s")
    assert refused.returncode == 2
    assert "limit is 20,000 files of 100 MB. The largest: large.bin" in refused.stderr
    assert [path.name for path in (repository.home / "runs").iterdir()] == ["r"]


def test_checkpoints_beside_the_kept_script_are_not_removed_unasked(runs: Runs):
    """A script that saves beside itself saves into the run's folder."""
    runs.script(
        """
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "out.bin")
        open(path, "w").write("x")
        print(json.dumps({"event": "checkpoint_saved", "path": path, "step": 1}))
        """
    )
    runs.call("run", "--snapshot", "train.py", "--run-id", "r")
    refused = runs.call("rm", "r", "--yes")
    assert refused.returncode == 2
    assert "into its snapshot" in refused.stderr
    assert runs.call("rm", "r", "--yes", "--checkpoints").returncode == 0
    assert not runs.rundir("r").exists()
