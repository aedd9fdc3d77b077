"""Commands that take several runs: named, by a filter, or all."""

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.conftest import HANG_S, Runs, wait_for

GOES_ON = """
    print(json.dumps({"step": 1}), flush=True)
    while not os.path.exists("go"):
        time.sleep(0.02)
    sys.exit(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
"""


@pytest.fixture
def active(runs: Runs) -> Runs:
    """Runs a and b, which go on until there is a file `go`; and c, which has completed."""
    runs.script("pass", "quick.py")
    assert runs.call("run", "quick.py", "--run-id", "c").returncode == 0
    runs.script(GOES_ON)
    for run_id in ("a", "b"):
        runs.own(run_id)
        assert runs.call("run", "train.py", "-d", "--run-id", run_id, "-n", f"sweep-{run_id}").returncode == 0
    wait_for(lambda: runs.output("a") and runs.output("b"))
    return runs


def statuses(runs: Runs) -> dict[str, str]:
    return {run["id"]: run["status"] for run in json.loads(runs.call("list", "--json").stdout)}


def answering(runs: Runs, answer: str, *words: str) -> tuple[int, str]:
    """Exit code and stderr of a command at a terminal whose user types this answer."""
    ours, theirs = pty.openpty()
    started = runs.start(*words, stdin=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    _, stderr = started.communicate(timeout=HANG_S)
    os.close(ours)
    return started.returncode, stderr.decode()


def test_several_runs_are_paused_resumed_and_stopped(active: Runs):
    """By name, by a filter or all: one outcome for each, the exit code of the worst, and nobody is asked in a script."""
    assert active.call("pause", "a", "b").returncode == 0
    assert statuses(active) == {"a": "paused", "b": "paused", "c": "completed"}
    done = active.call("resume", "--all")
    assert (done.returncode, done.stderr) == (0, "backprop: run a resumed\nbackprop: run b resumed\n")
    assert active.call("pause", "--filter", "name~sweep-b").returncode == 0
    assert statuses(active) == {"a": "running", "b": "paused", "c": "completed"}
    done = active.call("stop", "a", "c", "b")
    assert done.returncode == 2
    told = done.stderr.splitlines()
    assert told[0] == "backprop: run c is not running (completed)."
    assert [line.split()[2:4] for line in told[1:]] == [["a", "stopped:"], ["b", "stopped:"]]
    done = active.call("stop", "--all")
    assert (done.stderr, done.returncode) == ("backprop: no run is active.\n", 0)  # first what was said


def test_a_misspelt_run_leaves_the_others_alone(active: Runs):
    """Nothing is done before all runs are known; whoever names and chooses at once is asked to decide."""
    assert active.call("stop", "a", "nobody").returncode == 3
    assert active.call("stop", "a", "--all").returncode == 2
    done = active.call("stop")
    assert (done.returncode, "which run?" in done.stderr) == (2, True)
    done = active.call("stop", "--filter", "nmae=sweep-a")
    assert (done.returncode, "did you mean name?" in done.stderr) == (2, True)
    assert statuses(active) == {"a": "running", "b": "running", "c": "completed"}


def test_on_a_terminal_runs_that_nobody_named_are_asked_about(active: Runs):
    """With their number; a no leaves them alone, --yes asks nothing."""
    code, told = answering(active, "n", "stop", "--all")
    assert code == 130
    assert "backprop: a sweep-a (running, step 1)" in told
    assert "Stop 2 runs? [y/N]" in told
    assert statuses(active) == {"a": "running", "b": "running", "c": "completed"}
    code, told = answering(active, "y", "stop", "--now", "--filter", "name=sweep-a")
    assert (code, "Kill 1 run? [y/N]" in told) == (0, True)
    code, told = answering(active, "", "stop", "--all", "--yes")
    assert (code, "?" in told) == (0, False)
    assert statuses(active) == {"a": "stopped", "b": "stopped", "c": "completed"}


def test_several_runs_are_resumed_in_the_background(runs: Runs):
    """Their ids on stdout, or their documents in an array; what cannot be resumed does not keep the others from it."""
    runs.script(GOES_ON)
    (runs.work / "go").touch()
    for run_id, code in (("a", 1), ("b", 1), ("c", 0)):
        runs.own(run_id)
        assert runs.call("run", "train.py", "--run-id", run_id, "--", code).returncode == code
    done = runs.call("resume", "a", "c", "b")
    assert done.returncode == 2
    assert "run c has completed; for another session: backprop resume c --again" in done.stderr
    assert done.stdout.split() == ["a", "b"]
    assert runs.call("wait", "a", "b").returncode == 1
    done = runs.call("resume", "--filter", "status=failed", "--json")
    assert [(run["id"], len(run["sessions"])) for run in json.loads(done.stdout)] == [("a", 3), ("b", 3)]
    assert runs.call("wait", "--filter", "command~train.py").returncode == 1
    assert runs.call("resume", "a", "b", "--dry-run").returncode == 2


def test_rm_of_several_runs_says_what_is_left_and_why(active: Runs):
    """One that is being run stays, with its checkpoints; those that have ended go."""
    done = active.call("rm", "a", "c", "--yes")
    assert done.returncode == 75
    assert "run a is running, supervised by process" in done.stderr
    assert "removed 1 run(s)" in done.stderr
    assert statuses(active) == {"a": "running", "b": "running"}
    assert active.call("rm", "--all", "--yes").returncode == 0
    active.call("stop", "--all")
    assert active.call("rm", "--all").returncode == 2
    code, told = answering(active, "y", "rm", "--all")
    assert (code, "Remove 2 runs? [y/N]" in told) == (0, True)
    assert statuses(active) == {}


def test_a_checkpoint_of_a_run_that_stays_is_left_alone(runs: Runs, tmp_path: Path):
    """Of several that are to be removed one is busy, and has reported the same file."""
    shared = tmp_path / "shared.json"
    shared.write_text("{}")
    runs.script(
        f"print(json.dumps({{'event': 'checkpoint_saved', 'path': {str(shared)!r}}}), flush=True)\n"
        "while len(sys.argv) > 1: time.sleep(0.02)"
    )
    runs.call("run", "train.py", "--run-id", "a")
    runs.own("b")
    runs.call("run", "train.py", "-d", "--run-id", "b", "--", "on")
    wait_for(lambda: runs.document("b")["checkpoints"])
    done = runs.call("rm", "a", "b", "--yes", "--checkpoints")
    assert done.returncode == 75
    assert statuses(runs) == {"b": "running"}
    assert shared.exists()


def test_a_run_that_cannot_be_read_is_removed_only_by_those_who_mean_it(runs: Runs):
    """Nobody knows what came of it, or whose it is: --all leaves it alone."""
    runs.script("")
    for run_id in ("a", "b"):
        assert runs.call("run", "train.py", "--run-id", run_id).returncode == 0
    (runs.rundir("a") / "run.json").write_text("{")
    for path in runs.home.glob("index.db*"):
        path.unlink()
    assert statuses(runs) == {"a": "unreadable", "b": "completed"}
    assert runs.call("resume", "--filter", "age<1d", "--again").stdout.split() == ["b"]
    runs.call("wait", "b")
    assert runs.call("rename", "a", "x").returncode == 2
    assert runs.call("rm", "--all", "--yes").returncode == 0
    assert statuses(runs) == {"a": "unreadable"}
    assert runs.call("rm", "--filter", "status=unreadable", "--yes").returncode == 0
    assert statuses(runs) == {}
    for command in ("resume", "logs", "plot"):
        done = runs.call(command)
        assert (done.returncode, "there are no runs yet; start one" in done.stderr) == (3, True)


def test_without_a_run_the_last_one_is_meant(runs: Runs):
    """Of logs, plot and resume; `status` shows the machine, and names it."""
    runs.script("for n in range(3): print(json.dumps({'step': n, 'loss': 1 / (n + 1)}))\nsys.exit(1)")
    for run_id in ("a", "b"):
        runs.call("run", "train.py", "--run-id", run_id)

    assert '"loss": 0.5' in runs.call("logs").stdout
    assert "b" in runs.call("plot").stdout.split()
    assert "nothing is running; latest run: b, failed (backprop status last)\n" in runs.call("status").stdout
    assert runs.call("resume").returncode == 1
    assert [len(runs.document(run_id)["sessions"]) for run_id in ("a", "b")] == [1, 2]


def test_a_run_gets_another_name(active: Runs):
    """One that is running and one that has ended, everywhere; what the index forgets the record knows."""
    for run_id in ("a", "c"):
        done = active.call("rename", run_id, f"best {run_id}")
        assert done.returncode == 0
        assert active.document(f"best {run_id}")["id"] == run_id
    assert done.stderr == "backprop: run c renamed to best c\n"
    assert active.call("status", "sweep-a").returncode == 3
    assert json.loads((active.home / "experiments.json").read_text())["c"]["name"] == "best c"
    assert [run["id"] for run in json.loads(active.call("list", "--filter", "name~best", "--json").stdout)] == [
        "a",
        "c",
    ]
    active.call("stop", "a")
    for path in active.home.glob("index.db*"):
        path.unlink()
    assert active.document("best a")["status"] == "stopped"
    assert active.call("resume", "best c", "--again").returncode == 0
    assert active.document("c")["name"] == "best c"
    done = active.call("rename", "c", "best a")
    assert (done.returncode, "a has the same name" in done.stderr) == (0, True)
    for name in ("last", "", "a\nb"):
        assert active.call("rename", "c", name).returncode == 2
    assert active.call("rename", "nobody", "x").returncode == 3
