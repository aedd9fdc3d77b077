"""The record of the code that was executed, as users see it."""

import subprocess

import pytest

from tests.conftest import Runs, wait_for


@pytest.fixture
def repository(runs: Runs) -> Runs:
    """A working folder with one commit of train.py and model.py."""
    runs.script("import model\nprint(model.NAME, flush=True)")
    (runs.work / "model.py").write_text("NAME = 'one'\n")
    git(runs, "init", "-q", "-b", "trunk")
    git(runs, "add", ".")
    git(runs, "commit", "-qm", "first")
    return runs


def git(runs: Runs, *words: str) -> None:
    who = ["-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], cwd=runs.work, check=True)


def test_the_record_is_of_what_was_executed(repository: Runs):
    """A run that waits executes the code as it is at its turn: that is kept, said, and what `compare --diff` compares."""
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
    (runs.work / "model.py").write_text("NAME = 'two'\n")
    (runs.work / "go").touch()
    runs.call("wait", "edited")
    assert runs.output("edited") == "two\n"
    document = runs.document("edited")
    session = document["sessions"][0]
    assert document["git"]["dirty"] is True
    assert session["code_changed"] == ["model.py"]
    assert b"+NAME = 'two'" in (runs.rundir("edited") / session["patch"]).read_bytes()
    assert (
        "the code has changed since it was submitted: model.py"
        in runs.rundir("edited").joinpath("supervisor.log").read_text()
    )
    assert "code changed before it: model.py" in runs.call("status", "edited").stdout
    assert "+NAME = 'two'" in runs.call("compare", "before", "edited", "--diff").stdout


def test_each_session_has_its_code(repository: Runs):
    """A resume says what has changed since the session before; what has not is not kept twice."""
    runs = repository
    (runs.work / "new.py").write_text("x = 1\n")
    runs.call("run", "train.py", "--run-id", "r")
    assert "changed" not in runs.call("resume", "r", "--again").stderr
    (runs.work / "model.py").write_text("NAME = 'two'\n")
    git(runs, "commit", "-qam", "second")
    (runs.work / "new.py").write_text("x = 2\n")
    resumed = runs.call("resume", "r", "--again")
    assert "the code has changed since session 2: commit " in resumed.stderr
    assert ", new.py" in resumed.stderr
    sessions = runs.document("r")["sessions"]
    assert [session["patch"] for session in sessions[:2]] == ["code.patch"] * 2
    assert sessions[0]["git"] == sessions[1]["git"] != sessions[2]["git"]
    assert len(list(runs.rundir("r").glob("code*.patch"))) == 2


def test_what_could_not_be_recorded_is_in_the_status(runs: Runs):
    """No git: only that is said, there and in JSON."""
    runs.script("print(1)")
    runs.call("run", "train.py", "--run-id", "r")
    assert "not in a git repository" in runs.call("status", "r").stdout
    assert "not in a git repository" in runs.document("r")["code_notes"][0]
