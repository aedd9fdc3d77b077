"""best, and compare over seeds: one seed is luck."""

import json

import pytest

from tests.conftest import Runs, recorded

SCRIPT = """
lr, seed = float(sys.argv[2]), int(sys.argv[4])
print(json.dumps({"step": 1, "loss": lr + seed / 10, "elo": lr}))
"""


@recorded
def five(runs: Runs) -> None:
    """a, b with lr 1, c, d with lr 2; e with lr 1 of another script, better than all."""
    runs.script(SCRIPT)
    for run_id, lr, seed in (("a", 1, 1), ("b", 1, 3), ("c", 2, 1), ("d", 2, -9)):
        done = runs.call("run", "train.py", "--run-id", run_id, "--group", "g", "--", "--lr", lr, "--seed", seed)
        assert done.returncode == 0, done.stderr


def test_what_was_tried_is_ranked_over_seeds(five: Runs):
    """By the mean, with the standard deviation and how many there are: d is the best run, and c and d are not."""
    heading, *rows = five.call("best").stdout.splitlines()
    assert "SD (N)" in heading
    assert [row.split()[0] for row in rows] == ["1.2", "1.6"]
    assert [row.split()[-2:] for row in rows] == [["a", "b"], ["c", "d"]]
    assert "lr=1" in rows[0]
    assert "seed" not in rows[0]
    first, second = json.loads(five.call("best", "loss", "--json").stdout)
    assert first == {
        "metric": "loss",
        "goal": "min",
        "mean": pytest.approx(1.2),
        "sd": pytest.approx(0.02**0.5),
        "n": 2,
        "runs": ["a", "b"],
        "params": {"lr": 1},
    }
    assert second["runs"] == ["c", "d"]
    done = five.call("best", "--goal", "max:loss", "--limit", "1", "--fields", "runs")
    assert json.loads(done.stdout) == [{"runs": ["c", "d"]}]
    assert "1 of 2; --limit 0 shows all" in done.stderr
    assert "lr=1" in five.call("best", "--limit", "1").stdout.splitlines()[1]
    assert json.loads(five.call("best", "--limit", "1", "--json").stdout)[0]["params"] == {"lr": 1}


def test_a_single_run_may_be_luck(five: Runs):
    """best says so; other code makes no replicate."""
    five.script(SCRIPT.replace("lr + seed", "seed"))
    assert five.call("run", "train.py", "--run-id", "e", "--", "--lr", "1", "--seed", "5").returncode == 0
    done = five.call("best")
    assert done.stdout.splitlines()[1].split()[-1] == "e"
    assert "single run, which may be luck" in done.stderr


def test_best_needs_to_know_what_is_better(five: Runs):
    """For a name that nobody knows it ranks nothing; nor for a metric, or runs, that are not there."""
    done = five.call("best", "elo")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--goal max:elo" in done.stderr
    assert five.call("best", "elo", "--goal", "max:elo").returncode == 0
    assert five.call("best", "nothing").returncode == 2
    done = five.call("best", "--filter", "group=none", "--json")
    assert (done.stdout, "no matching runs have" in done.stderr) == ("[]\n", True)


def test_compare_shows_the_spread_over_seeds(five: Runs):
    """Where some of the runs are replicates; else nothing of it."""
    text = five.call("compare", "a", "b", "c").stdout
    section = text[text.index("OVER SEEDS") :].splitlines()
    assert [line.split()[: 2 - number] for number, line in enumerate(section[1:])] == [["a", "b"], ["c"]]
    assert "(2)" in section[1]
    assert "OVER SEEDS" not in five.call("compare", "a", "c").stdout
    document = json.loads(five.call("compare", "a", "b", "c", "--json").stdout)
    assert [one["runs"] for one in document["over_seeds"]] == [["a", "b"], ["c"]]
    assert document["over_seeds"][0]["metrics"]["loss"]["n"] == 2
