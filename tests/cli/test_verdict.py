"""verdict: is one set of runs better than another?"""

import json
from typing import Any

import pytest

from tests.conftest import Runs

# a seed shifts both sides alike; --gain makes one better, and its curve goes on for longer
SCRIPT = """
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--gain", type=float, default=0.0)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=3)
args = parser.parse_args()
for step in range(1, args.steps + 1):
    shift = 0.1 * args.seed + 0.001 * ((args.seed * 7) % (5 if args.gain else 3))
    accuracy = float("nan") if args.gain > 90 else shift + args.gain + 0.01 * step
    print(json.dumps({"step": step, "accuracy": accuracy, "elo": args.gain, "loss": 1 - accuracy}))
"""


@pytest.fixture
def graded(runs: Runs) -> Runs:
    """Groups `plain` and `tuned` of three seeds each, and runs alone: one, other."""
    runs.script(SCRIPT)
    for group, gain in (("plain", "0.0"), ("tuned", "0.05")):
        for seed in "123":
            done = runs.call("run", "train.py", "--group", group, "--", "--gain", gain, "--seed", seed)
            assert done.returncode == 0, done.stderr
    for name, gain in (("one", "0.0"), ("other", "0.05")):
        assert runs.call("run", "train.py", "-n", name, "--", "--gain", gain, "--seed", "9").returncode == 0
    return runs


def document(runs: Runs, *words: str) -> dict[str, Any]:
    done = runs.call("verdict", *words, "--metric", "accuracy", "--json")
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_the_runs_say(graded: Runs):
    """Groups paired by seed, single runs, filters, several candidates: a verdict each, and an exit code that says it."""
    done = graded.call("verdict", "plain", "tuned", "--metric", "accuracy")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tuned: better than plain by 0.05")
    assert "at step 3" in done.stdout
    assert "3 pairs of a seed" in done.stdout
    assert graded.call("verdict", "tuned", "plain", "--metric", "accuracy").returncode == 20
    assert graded.call("verdict", "plain", "tuned", "--goal", "min:accuracy").returncode == 20
    found = json.loads(graded.call("verdict", "plain", "tuned", "--metric", "loss", "--json").stdout)
    assert (found["verdict"], found["paired"], found["n"], found["warnings"]) == ("better", True, 3, [])
    assert found["compared"] == {"metric": "loss", "goal": "min", "at": "step", "place": 3}
    done = graded.call("verdict", "one", "other", "--metric", "accuracy")
    assert done.returncode == 22, done.stderr
    assert done.stdout.startswith("other: undecided · ahead of one by 0.05")
    assert "one run is no evidence" in done.stdout
    assert document(graded, "name=one", "last")["ci95"] is None
    found = document(graded, "group=plain seed<=2", "group=tuned seed>=2", "--margin", "5")
    assert (found["verdict"], found["paired"]) == ("tie", False)
    done = graded.call("verdict", "one", "other", "tuned", "--metric", "accuracy", "--json")
    assert done.returncode == 22
    assert [each["candidate"]["runs"] for each in json.loads(done.stdout)] == ["other", "tuned"]
    for at in ("best", "gpu-seconds"):
        found = document(graded, "plain", "tuned", "--at", at)
        assert found["diff"] is not None
        assert found["compared"]["at"] == at


def test_what_makes_no_sense(graded: Runs):
    """Runs that are no replicates, a run on both sides, a goal without a direction, words that name nothing."""
    for words, code, text in (
        (("one", "seed=1"), 2, "differ in gain: they are no replicates"),
        (("one", "seed=1"), 2, "'seed=1 param.gain=0."),
        (("plain", "group=plain"), 2, "belongs to 'plain' and to 'group=plain'"),
        (("plain", "nope"), 3, "no run and no group named 'nope'"),
        (("plain", "group=x"), 2, "no run matches"),
        (("plain", "tuned", "--metric", "elo"), 2, "which values of 'elo' are better? Say --goal max:elo"),
        (("plain", "tuned", "--metric", "accurac"), 2, "no run has a metric 'accurac'"),
        (("plain", "tuned", "--margin", "-1"), 2, "invalid --margin '-1'"),
    ):
        done = graded.call("verdict", *words)
        assert done.returncode == code, done
        assert text in done.stderr


def test_what_weakens_a_verdict_is_said(graded: Runs):
    """A run that diverged, other code, more steps: each a warning."""
    assert graded.call("run", "train.py", "--run-id", "nan", "--group", "wild", "--", "--gain", "99").returncode == 0
    found = document(graded, "plain", "wild")
    assert (found["verdict"], found["diff"]) == ("undecided", None)
    assert found["warnings"] == ["left out, because they have no finite value: nan"]
    script = graded.script(SCRIPT + "# changed\n")
    for seed in "12":
        words = ("--gain", "0.05", "--seed", seed, "--steps", "9")
        assert graded.call("run", script, "--group", "longer", "--", *words).returncode == 0
    found = document(graded, "plain", "longer")
    assert found["compared"]["place"] == 3
    assert [text.partition(":")[0] for text in found["warnings"]] == ["code", "steps"]
    assert document(graded, "plain", "longer", "--at", "end")["diff"] == pytest.approx(0.11, abs=0.01)


def test_a_misspelt_field_takes_no_verdicts_place(graded: Runs):
    """The exit code is the verdict's; the field is null, and a line says which was meant."""
    told = graded.call("verdict", "plain", "tuned", "--metric", "accuracy", "--json")
    done = graded.call("verdict", "plain", "tuned", "--metric", "accuracy", "--fields", "verdit")
    assert (done.returncode, json.loads(done.stdout)) == (told.returncode, {"verdit": None})
    assert "did you mean verdict?" in done.stderr
