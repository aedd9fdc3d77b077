"""verdict: is one set of runs better than another?"""

import json
from typing import Any

import pytest

from tests.conftest import Runs, recorded

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


@recorded
def graded(runs: Runs) -> None:
    """Groups `plain` and `tuned` of three seeds each, and runs alone: one, other."""
    runs.script(SCRIPT)
    for group, gain in (("plain", "0.0"), ("tuned", "0.05")):
        for seed in "123":
            done = runs.call("run", "train.py", "--group", group, "--", "--gain", gain, "--seed", seed)
            assert done.returncode == 0, done.stderr
    for name, gain in (("one", "0.0"), ("other", "0.05")):
        assert runs.call("run", "train.py", "-n", name, "--", "--gain", gain, "--seed", "9").returncode == 0


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
    assert document(graded, "plain", "tuned", "--at", "best")["diff"] == pytest.approx(0.05, abs=0.01)
    # that fast a run may have ended before another's first point: who has a value there is a test of its own
    assert document(graded, "plain", "tuned", "--at", "gpu-seconds")["compared"]["at"] == "gpu-seconds"
    printed = graded.call("verdict", "plain", "tuned", "--metric", "accuracy", "--at", "gpu-seconds").stdout
    assert " GPU-seconds · means " in printed
    assert "after 0 GPU-seconds" not in printed


def test_what_makes_no_sense(graded: Runs):
    """Runs that are no replicates, a run on both sides, a goal without a direction, words that name nothing."""
    for words, code, text in (
        (("one", "seed=1"), 2, "differ in gain: they are no replicates"),
        (("one", "seed=1"), 2, "'seed=1 param.gain=0."),
        (("plain", "group=plain"), 2, "belongs to 'plain' and to 'group=plain'"),
        (("plain", "nope"), 3, "no run and no group named 'nope'"),
        (("plain", "group=x"), 2, "no run matches"),
        (("plain", "tuned", "--metric", "elo"), 2, "to say it: --goal max:elo"),
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
    assert "one run is no evidence" not in graded.call("verdict", "plain", "wild", "--metric", "accuracy").stdout
    script = graded.script(SCRIPT + "# changed\n")
    for seed in "12":
        words = ("--gain", "0.05", "--seed", seed, "--steps", "9")
        assert graded.call("run", script, "--group", "longer", "--", *words).returncode == 0
    found = document(graded, "plain", "longer")
    assert found["compared"]["place"] == 3
    assert [text.partition(":")[0] for text in found["warnings"]] == ["code", "steps"]
    assert document(graded, "plain", "longer", "--at", "end")["diff"] == pytest.approx(0.11, abs=0.01)


def test_a_side_that_lost_runs_is_not_better(runs: Runs):
    """It may be better only where it did not diverge; the other one is not worse for that. Huge values have diverged."""
    runs.script(
        """
        gain, seed = sys.argv[1], int(sys.argv[3])
        accuracy = 0.1 * seed + 0.001 * seed**2 if gain == "0" else 0.1 * seed + 0.05
        if gain == "2" and seed > 3: accuracy = (float("nan"), 1e300)[seed % 2]
        print(json.dumps({"step": 1, "accuracy": accuracy}))
        """
    )
    for group, gain in (("base", 0), ("sound", 1), ("lossy", 2)):
        for seed in range(1, 6):
            assert runs.call("run", "train.py", "--group", group, "--", gain, "--seed", seed).returncode == 0
    found = document(runs, "base", "sound")
    assert (found["verdict"], found["warnings"]) == ("better", [])
    found = document(runs, "base", "lossy")
    assert (found["verdict"], found["n"], found["p"] < 0.05) == ("undecided", 3, True)
    assert found["warnings"][0].startswith("left out, because they have no finite value: ")
    assert document(runs, "lossy", "base")["verdict"] == "undecided"
    done = runs.call("verdict", "base", "lossy", "--metric", "accuracy")
    assert "the side that is ahead has more runs without a finite value" in done.stdout


def test_a_group_is_not_the_beginning_of_ids(runs: Runs):
    """Ids that begin with a group's name do not hide it; without a group they are ambiguous."""
    runs.script("""print(json.dumps({"step": 1, "accuracy": 0.5}))""")
    for run_id in ("a-1", "a-2", "b-1", "b-2", "c-1", "c-2"):
        group = () if run_id[0] == "c" else ("--group", run_id[0])
        assert runs.call("run", "train.py", "--run-id", run_id, *group).returncode == 0
    assert document(runs, "a", "b")["candidate"]["n"] == 2
    done = runs.call("verdict", "a", "c", "--metric", "accuracy")
    assert (done.returncode, "several runs" in done.stderr) == (2, True)


def test_runs_without_a_seed_are_samples_of_their_own(runs: Runs):
    """Also where the parser's default says that there is none. Equal values are neither ahead nor behind."""
    runs.script(
        """
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--seed", type=int)
        parser.parse_args()
        print(json.dumps({"step": 1, "accuracy": 0.5}))
        """
    )
    for group in "aabb":
        assert runs.call("run", "train.py", "--group", group).returncode == 0
    found = document(runs, "a", "b")
    assert (found["verdict"], found["paired"], found["n"]) == ("undecided", False, 2)
    done = runs.call("verdict", "a", "b", "--metric", "accuracy")
    assert done.stdout.startswith("b: undecided · no different from a\n")


def test_replicates_that_may_be_none_are_named(runs: Runs):
    """A run that failed early and drags the step down, other words on the command line, a session with other arguments."""
    runs.script(
        """
        for step in range(1, 101):
            print(json.dumps({"step": step, "accuracy": 0.5}))
            if "fail" in sys.argv and step == 3: sys.exit(1)
        """
    )
    for run_id, words in (
        ("a", ["small"]),
        ("b", ["small"]),
        ("c", ["small"]),
        ("d", ["big"]),
        ("e", ["small", "fail"]),
    ):
        runs.call("run", "train.py", "--run-id", run_id, "--group", "one" if run_id < "c" else "two", "--", *words)
    found = document(runs, "one", "two")
    kinds = [text.partition(":")[0] for text in found["warnings"]]
    assert kinds == ["not completed", "command", "steps"]
    assert found["warnings"][0] == "not completed: e (failed)"
    assert runs.call("resume", "b", "--again", "--only-once", "--", "more").returncode == 0
    assert "code: the runs of one did not all execute the same" in document(runs, "one", "c", "--at", "end")["warnings"]


def test_a_metrics_name_does_not_reach_the_terminal(runs: Runs):
    """A script may call it what it likes."""
    runs.script("""print(json.dumps({"step": 1, "a\\x1b[2Jloss": 1}))""")
    for run_id in "ab":
        assert runs.call("run", "train.py", "--run-id", run_id).returncode == 0
    done = runs.call("verdict", "a", "b")
    assert (done.returncode, "\x1b" in done.stdout, "a\\x1b[2Jloss (smaller" in done.stdout) == (22, False, True)


def test_a_misspelt_field_takes_no_verdicts_place(graded: Runs):
    """The exit code is the verdict's; the field is null, and a line says which was meant."""
    told = graded.call("verdict", "plain", "tuned", "--metric", "accuracy", "--json")
    done = graded.call("verdict", "plain", "tuned", "--metric", "accuracy", "--fields", "verdit")
    assert (done.returncode, json.loads(done.stdout)) == (told.returncode, {"verdit": None})
    assert "did you mean verdict?" in done.stderr
