"""Metrics of scripts that print them for people only."""

import json

import pytest

from tests.conftest import Runs, wait_for

PRINTS = """
for step in (1, 2, 3):
    print(f"step {step}: train loss {1 / step:.4f}")
print("loss: 7", file=sys.stderr)
"""


def test_a_script_that_reports_nothing(runs: Runs):
    """What it prints is read, marked, shown, and still there when the index is made anew."""
    runs.script(PRINTS)
    assert runs.call("run", "--run-id", "r", "train.py").returncode == 0
    for _ in range(2):
        document = runs.document("r")
        assert document["metrics"] == {"loss": 7.0, "train_loss": 0.3333}
        assert document["printed_metrics"] == ["loss", "train_loss"]
        assert document["last_step"] in {3, 4}  # stderr is read beside stdout
        assert "train_loss" in runs.call("status", "r").stdout
        assert runs.call("reindex").returncode == 0
    assert "0.3333" in runs.call("list", "--metric", "train_loss").stdout


def test_a_script_that_reports_is_not_read(runs: Runs):
    runs.script(PRINTS + 'print(json.dumps({"step": 9, "score": 0.5}))')
    assert runs.call("run", "--run-id", "r", "train.py").returncode == 0
    document = runs.document("r")
    assert (document["metrics"], document["printed_metrics"], document["last_step"]) == ({"score": 0.5}, [], 9)


def test_a_script_that_logs_to_a_tracker_is_read_on(runs: Runs):
    """nanoGPT prints a loss at every tenth step, and logs another one at every two thousandth. One name is kept once."""
    runs.script(
        """
        import backprop  # finds the package of the hooks
        from _backprop_trainer.tracked import tracked
        tracked().add("wandb", "", "train/loss", 0.75, 10)
        tracked().add("wandb", "", "acc", 0.875, 10)
        tracked().write()
        for step in range(1, 4):
            print(f"step {step}: loss 0.5, acc 0.25", flush=True)
        """
    )
    assert runs.call("run", "--run-id", "r", "train.py").returncode == 0
    for _ in range(2):
        document = runs.document("r")
        assert document["metrics"] == {"acc": 0.875, "loss": 0.5, "train/loss": 0.75}
        assert (document["printed_metrics"], document["tracked_metrics"]) == (["loss"], ["acc", "train/loss"])
        assert runs.call("reindex").returncode == 0


def test_no_printed_metrics(runs: Runs):
    """--no-printed-metrics and its key in a file turn it off; a resumed run keeps to it."""
    runs.script(PRINTS)
    assert runs.call("run", "--run-id", "r", "--no-printed-metrics", "train.py").returncode == 0
    assert runs.call("resume", "r", "--again").returncode == 0
    assert runs.document("r")["metrics"] == {}
    (runs.work / "backprop.config.json").write_text('{"metrics.printed": false}')
    assert runs.call("run", "--run-id", "s", "train.py").returncode == 0
    assert runs.document("s")["metrics"] == {}


@pytest.mark.parametrize("total", ["/10000", ": loss 0.5"])
def test_the_time_that_remains_is_estimated(runs: Runs, total: str):
    """From printed epochs, whose number may be a parameter; marked, and gone when the run has ended."""
    runs.script(f"""
        import argparse
        parser = argparse.ArgumentParser()
        parser.add_argument("--epochs", type=int, default=10_000)
        for epoch in range(1, parser.parse_args().epochs):
            print(f"Epoch {{epoch}}{total}", flush=True)
            time.sleep(0.2)
    """)
    runs.call("run", "-d", "--run-id", "r", "train.py")
    wait_for(lambda: runs.document("r")["remaining_s"] is not None)
    document = runs.document("r")
    assert (document["remaining_is_estimate"], document["total_steps"]) == (True, None)
    assert document["remaining_s"] > 60
    assert "ETA ~" in runs.call("status", "r").stdout
    assert " ~" in runs.call("list").stdout
    runs.call("stop", "r")
    assert runs.document("r")["remaining_s"] is None


def test_patterns_of_the_users_own(runs: Runs):
    """From the configuration; one that is no pattern is an error that says so."""
    runs.script('print("quality is 12 today")')
    path = runs.work / "backprop.toml"
    path.write_text("[metrics]\npatterns = ['(?P<name>\\w+) is (?P<value>\\d+)']\n")
    assert runs.call("run", "--run-id", "r", "train.py").returncode == 0
    assert runs.document("r")["metrics"] == {"quality": 12.0}
    for wrong in ("(", "without a group"):
        path.write_text(f"[metrics]\npatterns = [{json.dumps(wrong)}]\n")
        done = runs.call("run", "train.py")
        assert done.returncode == 2
        assert "metrics.patterns: invalid value" in done.stderr


def test_parse(runs: Runs):
    """Line by line, with the user's patterns; the lines that a run would report as well."""
    (runs.work / "backprop.toml").write_text("[metrics]\npatterns = ['(?P<name>\\w+) is (?P<value>\\d+)']\n")
    log = runs.work / "train.log"
    log.write_text('hello\nstep 3 loss: 0.5\nquality is 12\n{"step": 4, "loss": 0.25}\nEpoch 2/10')
    done = runs.call("parse", log)
    assert done.stdout == "2:  step 3  loss=0.5\n3:  quality=12\n4:  step 4  loss=0.25\n5:  epoch 2.0  epochs 10\n"
    document = json.loads(runs.call("parse", log, "--json").stdout)
    assert [(line["line"], line["by"]) for line in document] == [
        (2, "printed"),
        (3, "printed"),
        (4, "reported"),
        (5, "printed"),
    ]
    log.write_text("nothing\n")
    assert (done := runs.call("parse", log)).returncode == 1
    assert done.stdout == ""


def test_printed_lines_are_counted_on_from_the_checkpoint(runs: Runs):
    """And not from those that the first session printed after it had saved."""
    runs.script(
        """
        if "BACKPROP_RESUME_FROM" in os.environ:
            open(os.environ["BACKPROP_RESUME_FROM"]).read()
            print("loss: 0.25")
            sys.exit()
        print("loss: 1")
        print("loss: 0.5")
        open("state.json", "w").write("{}")
        print(json.dumps({"event": "checkpoint_saved", "path": "state.json"}))
        read = os.path.join(os.environ["BACKPROP_RUN_DIR"], "session-1.printed")
        while not os.path.exists(read) or "state.json" not in open(read).read():
            time.sleep(0.05)
        for _ in range(10):
            print("loss: 0.375")
        sys.exit(1)
        """
    )
    assert runs.call("run", "--run-id", "r", "train.py").returncode == 1
    assert runs.document("r")["last_step"] == 12
    assert runs.call("resume", "r").returncode == 0
    document = runs.document("r")
    assert (document["last_step"], document["metrics"]) == (3, {"loss": 0.25})


def test_a_script_that_prints_faster_than_it_can_be_read(runs: Runs):
    """The end is not held up; what is missing is told, with the command that reads it."""
    runs.script('print("loss: 0.5\\n" * 1_000_000)')
    ended = runs.call("run", "--run-id", "r", "train.py")
    assert ended.returncode == 0
    assert "the script printed faster than metrics can be read in its output; the last ones are missing" in ended.stderr
    assert "backprop import" in ended.stderr
    assert 0 < runs.document("r")["last_step"] < 1_000_000


def test_a_script_that_is_read_to_its_end_is_not_warned_of(runs: Runs):
    runs.script(PRINTS)
    assert "backprop import" not in runs.call("run", "--run-id", "r", "train.py").stderr
