"""`backprop diagnose`, on runs of real scripts."""

import json

from tests.conftest import HANG_S, Runs, wait_for

DIVERGES = """
    print(json.dumps({"step": 1, "loss": 0.5}), flush=True)
    for step in range(2, 30):
        print(json.dumps({"step": step, "loss": float("nan") if step >= 7 else 0.4}), flush=True)
"""
GROWS = """
    kept, step = [], 0
    while not os.path.exists("go"):
        step += 1
        kept.append(bytearray(b"x" * 30_000_000))
        print(json.dumps({"step": step, "loss": 1.0}), flush=True)
        time.sleep(0.8)
"""


def diagnosis(runs: Runs, run: str) -> dict:
    done = runs.call("diagnose", run, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_short_run_that_diverged(runs: Runs):
    """What is in its record is said; what was not measured, too."""
    runs.script(DIVERGES)
    runs.call("run", "train.py", "--run-id", "a")
    runs.set_usage("a")
    found = diagnosis(runs, "a")
    assert found["run"] == "a"
    assert [(one["check"], one["text"]) for one in found["findings"]] == [("not finite", "loss is nan since step 7.")]
    assert any("less than ten seconds" in text for text in found["unseen"])
    shown = runs.call("diagnose", "a").stdout
    assert "not finite: loss is nan since step 7." in shown
    assert "  try: " in shown
    assert "not seen: " in shown
    runs.call("run", "train.py", "--run-id", "b")
    assert [one["run"] for one in json.loads(runs.call("diagnose", "a", "b", "--json").stdout)] == ["a", "b"]
    assert "run b\n" in runs.call("diagnose", "a", "b").stdout


def test_a_run_of_which_nothing_stands_out(runs: Runs):
    runs.script('print(json.dumps({"step": 1, "loss": 0.5}))')
    runs.call("run", "train.py", "--run-id", "a")
    assert runs.call("diagnose", "a").stdout.startswith("nothing stands out")


def test_a_running_run_whose_memory_grows(runs: Runs):
    """While it runs: 30 MB a step, of which none is given back."""
    runs.script(GROWS)
    running = runs.start("run", "train.py", "--run-id", "a")
    wait_for(runs.rundir("a").exists)
    wait_for(lambda: any(one["check"] == "memory grows" for one in diagnosis(runs, "a")["findings"]))
    (runs.work / "go").touch()
    assert running.wait(HANG_S) == 0


def test_a_run_that_does_not_exist(runs: Runs):
    assert runs.call("diagnose", "nothing").returncode == 3
