"""`backprop import`: a run made of a log that was written elsewhere."""

import json
import os
from pathlib import Path

import pytest

from backprop.store.output.tail import READ_BYTES
from tests.conftest import Runs


def imported(runs: Runs, *words: object) -> dict:
    done = runs.call("import", *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_log_becomes_a_run(runs: Runs):
    """Finished, dated by the log, with its curves and its text; and all of it is there when the index is made anew."""
    log = runs.work / "train.log"
    log.write_text("hello\n" + "".join(f"step {step}: loss 0.{step}, acc 0.5\n" for step in range(1, 10)))
    os.utime(log, (1_700_000_000, 1_700_000_000))
    done = runs.call("import", "train.log", "-n", "old one")
    assert done.returncode == 0
    run_id = runs.only_id()
    assert done.stderr == (f"backprop: imported train.log as run {run_id}: 18 points of 2 metrics: acc (9), loss (9)\n")
    assert done.stdout == ""
    log.unlink()
    for _ in range(2):
        document = runs.document("old one")
        assert (document["status"], document["exit_code"], document["last_step"]) == ("completed", None, 9)
        assert document["reason"] == "imported from a log, which does not say how it ended"
        assert (document["ended_at"], document["metrics"]) == ("2023-11-14T22:13:20Z", {"acc": 0.5, "loss": 0.9})
        assert document["printed_metrics"] == ["acc", "loss"]
        assert runs.call("logs", run_id).stdout.startswith("hello\nstep 1: loss 0.1")
        assert runs.call("reindex").returncode == 0
    assert "old one" in runs.call("list").stdout
    assert "loss" in runs.call("plot", run_id).stdout
    assert run_id in json.loads((runs.home / "experiments.json").read_text())


def test_the_id_and_the_points(runs: Runs):
    """What was reported as JSON lines counts, and nothing is read beside it; patterns of the user's own do, too."""
    (runs.work / "backprop.toml").write_text("[metrics]\npatterns = ['(?P<name>\\w+) is (?P<value>\\d+)']\n")
    (runs.work / "a.log").write_text('{"step": 1, "loss": 0.5, "total_steps": 9}\n{"step": 2, "loss": NaN}\nacc: 0.5\n')
    (runs.work / "b.log").write_text("quality is 12")
    first, second = imported(runs, "a.log"), imported(runs, "b.log")
    assert (first["points"], second["points"]) == ({"loss": 2}, {"quality": 1})
    assert runs.document(first["id"])["metrics"] == {"loss": "NaN", "total_steps": 9}
    assert runs.document(second["id"])["metrics"] == {"quality": 12}


@pytest.mark.parametrize("content", ["", "nothing of interest\n", "Epoch 2/10\n", "\0\xff" * 100])
def test_a_log_without_metrics_is_refused(runs: Runs, content: str):
    """And leaves nothing behind."""
    (runs.work / "train.log").write_text(content, encoding="latin-1")
    done = runs.call("import", "train.log")
    assert done.returncode == 2
    path = runs.work / "train.log"
    assert done.stderr == (
        f"backprop: no metrics are understood in {path}; to see what is, line by line: backprop parse {path}\n"
    )
    assert [*(runs.home / "runs").iterdir()] == []


def test_a_log_of_several_blocks(runs: Runs):
    """It is read in stretches, more than three here; a line that is too long is skipped."""
    count = READ_BYTES * 5 // 4 // 200
    with (runs.work / "train.log").open("w") as file:
        for step in range(count):
            file.write(f"step {step} loss 0.5 {' ' * 180}\n")
            if step == count // 2:
                file.write("x" * (2 * READ_BYTES) + "\n")
    assert imported(runs, "train.log")["points"] == {"loss": count}


def test_what_is_no_log(runs: Runs):
    done = runs.call("import", "missing.log")
    assert (done.returncode, "does not exist" in done.stderr) == (2, True)
    os.mkfifo(runs.work / "pipe")
    done = runs.call("import", "pipe")
    assert (done.returncode, "cannot be imported" in done.stderr) == (2, True)
    done = runs.call("import", "/dev/null")  # as /dev/zero, which has no end
    assert (done.returncode, "not a regular file" in done.stderr) == (2, True)


def test_an_imported_run_cannot_be_resumed(runs: Runs):
    Path(runs.work / "train.log").write_text("step 1 loss 0.5\n")
    run_id = imported(runs, "train.log")["id"]
    done = runs.call("resume", run_id, "--again")
    assert (done.returncode, "there is no command to execute" in done.stderr) == (2, True)


def test_a_date_that_no_record_can_hold(runs: Runs):
    """Of a file system that keeps any number."""
    log = runs.work / "train.log"
    log.write_text("step 1: loss 0.5\n")
    os.utime(log, (-300_000_000, -300_000_000))
    assert imported(runs, log)["points"] == {"loss": 1}


def test_a_name_that_is_not_utf_8_is_refused(runs: Runs):
    log = runs.work / os.fsdecode(b"train\xff.log")
    log.write_text("step 1: loss 0.5\n")
    done = runs.call("import", log)
    assert (done.returncode, "is not valid UTF-8" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


def test_parse_shows_infinities_and_the_step_of_an_epoch(runs: Runs):
    """As text in JSON, which has no infinities."""
    path = runs.work / "train.log"
    path.write_text("Epoch: [2]  [1480/1504]  loss: inf\n")
    (line,) = json.loads(runs.call("parse", str(path), "--json").stdout)
    assert (line["values"], line["epoch"], line["epoch_step"], line["epoch_steps"]) == (
        {"loss": "Infinity"},
        2,
        1480,
        1504,
    )
    assert runs.call("parse", str(path)).stdout == "1:  epoch 2.0  epoch_step 1480  epoch_steps 1504  loss=inf\n"
