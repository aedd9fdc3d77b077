"""compare: runs side by side."""

import csv
import io
import json
import re
import subprocess

import pytest

from tests.conftest import Runs, recorded

SCRIPT = """
lr = float(sys.argv[2])
for step in range(1, 6):
    print(json.dumps({"step": step * 10, "loss": lr * (6 - step), "acc": lr / step, "lr": lr}))
"""


@recorded
def two(runs: Runs) -> None:
    """Runs a and b that differ in lr; a has the smaller loss, b the greater acc."""
    runs.script(SCRIPT)
    for run_id, lr in (("a", "0.5"), ("b", "2")):
        done = runs.call("run", "train.py", "--run-id", run_id, "-n", f"run {run_id}", "--", "--lr", lr, "--seed", "7")
        assert done.returncode == 0, done.stderr


def table(text: str) -> dict[str, list[str]]:
    """Label -> cells of the runs."""
    rows = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    return {row[0]: row[1:] for row in rows}


def test_a_folder_named_after_the_run_is_no_difference(runs: Runs):
    """Nor do two runs differ where one has the other's id as a value."""
    script = runs.script("print(json.dumps({'step': 1, 'loss': 1}))")
    for run_id in ("a", "b"):
        options = ("--out", f"checkpoints/{run_id}", "--mode", "a")
        assert runs.call("run", script, "--run-id", run_id, "--", *options).returncode == 0
    rows = table(runs.call("compare", "a", "b").stdout)
    assert "out" not in rows
    assert "mode" not in rows
    assert table(runs.call("compare", "a", "b", "--all").stdout)["out"] == ["checkpoints/a", "checkpoints/b"]


def test_compare_shows_what_differs_and_what_is_best(two: Runs):
    """Parameters that differ, metrics with the best value marked; what is the same only with --all."""
    text = two.call("compare", "a", "run b").stdout
    rows = table(text)
    assert rows["name"] == ["run a", "run b"]
    assert rows["lr"] == ["0.5", "2"]
    assert "seed" not in rows
    assert rows["loss"] == ["0.5*", "2"]
    assert rows["acc"] == ["0.1", "0.4*"]
    assert rows["gpu-hours"] == ["-", "-"]  # nobody looked for GPUs
    assert table(two.call("compare", "a", "b", "--all").stdout)["seed"] == ["7", "7"]


def test_compare_tells_metrics_at_a_step(two: Runs):
    """As they were then, or last before; only the metrics that were asked for."""
    rows = table(two.call("compare", "a", "b", "--metric", "loss", "--at", "20").stdout)
    assert [value.split()[0] for value in rows["at 20"]] == ["2*", "8"]
    assert "acc" not in rows
    document = json.loads(two.call("compare", "a", "b", "--at", "29", "--json").stdout)
    assert document["runs"][0]["metrics"]["loss"]["at"] == {"step": 20, "value": 2.0}


def test_many_runs_are_rows(two: Runs):
    """A row a run, when there are too many for columns."""
    two.script(SCRIPT)
    for number in range(5):
        two.call("run", "train.py", "--run-id", f"r{number}", "--", "--lr", str(number + 3))
    lines = two.call("compare", "a", "b", *(f"r{number}" for number in range(5))).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["RUN", "a", "b", "r0", "r1", "r2", "r3", "r4"]
    assert "best loss" in lines[0]


def test_compare_as_json_is_as_documented(two: Runs):
    """Runs with all that was measured, differing parameters, the best runs of each metric."""
    document = json.loads(two.call("compare", "b", "a", "--json").stdout)
    assert [run["id"] for run in document["runs"]] == ["b", "a"]
    assert document["differing_params"] == ["lr"]
    assert document["best_runs"]["loss"] == {"last": ["a"], "best": ["a"]}
    assert document["best_runs"]["acc"] == {"last": ["b"], "best": ["b"]}
    run = document["runs"][0]
    assert set(run) == {
        "id", "name", "status", "reason", "created_at", "elapsed_s", "sessions", "gpu_hours", "last_step", "command",
        "python", "host", "git", "params", "metrics", "usage",
    }  # fmt: skip
    assert run["metrics"]["loss"] == {"last": 2.0, "last_step": 50, "best": 2.0, "best_step": 50}
    assert run["metrics"]["lr"]["best"] is None  # a learning rate is not better or worse
    assert run["gpu_hours"] is None


def test_compare_as_csv_is_one_row_a_run(two: Runs):
    """Read back by the csv module; numbers in full."""
    rows = list(csv.DictReader(io.StringIO(two.call("compare", "a", "b", "--csv").stdout)))
    assert [row["id"] for row in rows] == ["a", "b"]
    assert [float(row["param.lr"]) for row in rows] == [0.5, 2.0]
    assert [float(row["best.acc"]) for row in rows] == [0.5, 2.0]
    assert rows[0]["best_step.acc"] == "10"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a"], "two runs or more"),
        (["a", "run a"], "two runs or more"),
        (["a", "b", "--metric", "los"], "Available: acc, loss, lr"),
        (["a", "b", "--csv", "--json"], "--csv cannot be combined"),
    ],
)
def test_what_cannot_be_compared_is_said(two: Runs, words: list[str], told: str):
    """Exit code 2 and one line."""
    done = two.call("compare", *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_compare_diff_is_a_patch_that_applies(runs: Runs):
    """From the code of the first run to that of the second, whether it was committed or not."""

    def git(*words: str) -> str:
        who = ["-c", "user.name=Ada", "-c", "user.email=ada@localhost", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *who, *words], cwd=runs.work, capture_output=True, text=True, check=True).stdout

    script = runs.script("lr = 1\n")
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "first")
    runs.call("run", "train.py", "--run-id", "a")
    script.write_text(script.read_text().replace("lr = 1", "lr = '\x1b[31m'"))
    runs.call("run", "train.py", "--run-id", "b")
    patch = runs.call("compare", "a", "b", "--diff").stdout
    git("checkout", "-q", "--", ".")
    subprocess.run(["git", "apply"], cwd=runs.work, input=patch, text=True, check=True)
    assert "lr = '\x1b[31m'" in script.read_text()
    document = json.loads(runs.call("compare", "a", "b", "--diff", "--json").stdout)
    assert document["diff"]["patch"] == patch
    assert runs.call("compare", "a", "a", "b", "b", "--diff").stdout == patch
    from tests.cli.test_look import in_terminal

    shown = in_terminal(runs, "compare", "a", "b", "--diff", columns=80)
    assert "\x1b[31m-lr = 1" in shown  # ours: a line that went
    assert "lr = '\\x1b[31m'" in shown  # theirs: text


ELO = """
print(json.dumps({"step": 1, "elo": float(sys.argv[1]), "foo": float(sys.argv[1])}))
"""


def test_no_star_where_nobody_knows_what_is_better(runs: Runs):
    """One line says so, and how to say which values are better; with that, the best one has the star."""
    script = runs.script(ELO)
    for run_id, elo in (("a", "1000"), ("b", "1200")):
        assert runs.call("run", script, "--run-id", run_id, "--", elo).returncode == 0
    done = runs.call("compare", "a", "b")
    assert table(done.stdout)["elo"] == ["1000", "1200"]
    assert done.stderr.count("--goal max:elo") == 1
    assert "no best value of elo, foo" in done.stderr
    assert json.loads(runs.call("compare", "a", "b", "--json").stdout)["best_runs"]["elo"] == {"last": [], "best": []}

    done = runs.call("compare", "a", "b", "--goal", "max:elo", "--goal", "min:foo")
    rows = table(done.stdout)
    assert (rows["elo"], rows["foo"], done.stderr) == (["1000", "1200*"], ["1000*", "1200"], "")


def test_goals_come_with_the_run(runs: Runs):
    """From the command line, a file, or the script; in that order."""
    event = "print(json.dumps({'event': 'metric', 'name': 'elo', 'goal': 'min'}))"
    script = runs.script(event + ELO)
    runs.script('goals = ["max:foo"]', "backprop.toml")
    assert runs.call("run", script, "--run-id", "a", "--", "1000").returncode == 0
    assert runs.call("run", script, "--run-id", "b", "--goal", "max:elo", "--", "1200").returncode == 0
    best = {run["id"]: run["best"] for run in json.loads(runs.call("list", "--json").stdout)}
    assert best["a"] == {
        "elo": {"value": 1000, "step": 1, "goal": "min"},
        "foo": {"value": 1000, "step": 1, "goal": "max"},
    }
    assert best["b"] == {"elo": {"value": 1200, "step": 1, "goal": "max"}}
    done = runs.call("list", "--sort", "foo")
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["b", "a"]
    assert "no best value of foo" not in done.stderr
