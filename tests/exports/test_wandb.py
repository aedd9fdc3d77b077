"""Read back by W&B's own reader of offline runs: `wandb leet inspect`."""

import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import HANG_S, Runs
from tests.exports.conftest import LOSSES, NAME, ODD, USED, exported, refused

WANDB = str(Path(sys.executable).with_name("wandb"))


def offline_runs(runs: Runs, run_id: str) -> list[Path]:
    return sorted((runs.work / "wb" / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))


def inspected(path: Path, *words: str) -> str:
    done = subprocess.run(
        [WANDB, "leet", "inspect", "--json", *words, str(path)],
        env={**os.environ, "TMPDIR": str(path.parent)},  # it leaves a log there
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=HANG_S,
    )
    return done.stdout


def history(path: Path) -> list[dict[str, Any]]:
    """The rows that W&B would upload."""
    records = [json.loads(line) for line in inspected(path).splitlines()]
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def test_every_point_is_there(two: Runs):
    """Step, session, value and wall time of each, NaN and infinities too, in rows that W&B drops none of."""
    exported(two, "a", "--to", "wandb-offline", "wb")
    rows = history(offline_runs(two, "a")[0])
    assert [row["_step"] for row in rows] == list(range(len(LOSSES)))
    assert [(row["session"], row["step"], repr(float(row["loss"]))) for row in rows] == [
        (session, step, repr(value)) for session, step, value in LOSSES
    ]
    assert [row[ODD] for row in rows] == pytest.approx([step / 3 for _, step, _ in LOSSES])
    assert {row["metric/_own"] for row in rows} == {2.0}
    sessions = two.document("a")["sessions"]
    for row in rows:
        begin, end = (datetime.fromisoformat(sessions[row["session"] - 1][key]) for key in ("started_at", "ended_at"))
        assert begin.timestamp() <= row["_timestamp"] <= end.timestamp()


def test_what_was_measured_is_in_rows_without_a_step(two: Runs):
    """After those of the metrics, by the time of training."""
    two.set_usage("a", USED)
    exported(two, "a", "--to", "wandb-offline", "wb")
    rows = history(offline_runs(two, "a")[0])[len(LOSSES) :]
    assert [row["sys/cpu"] for row in rows] == [100, 50, 100, 50]
    assert [row["session"] for row in rows] == [1, 1, 2, 2]
    assert not any("step" in row for row in rows)


def test_facts_are_the_configuration(two: Runs):
    """Parameters by their names, the rest under "backprop"; name, tags and exit code as W&B shows them."""
    assert two.call("tag", "a", "+base").returncode == two.call("note", "a", "it works").returncode == 0
    exported(two, "a", "b", "--to", "wandb-offline", "wb")
    summary = json.loads(inspected(offline_runs(two, "a")[0], "--summary"))
    document = two.document("a")
    assert summary["name"] == NAME
    assert summary["tags"] == ["completed", document["host"], "base"]
    assert summary["notes"] == "it works"
    config = summary["config"]
    facts = config.pop("backprop")
    assert config == document["params"]
    assert {key: facts[key] for key in ("id", "status", "checkpoints", "sessions", "git")} == {
        key: document[key] for key in ("id", "status", "checkpoints", "sessions", "git")
    }
    assert (facts["decision"], facts["parent"]) == (None, None)
    assert json.loads(inspected(offline_runs(two, "b")[0], "--summary"))["exit_code"] == 3


def test_a_second_export_is_refused_and_force_replaces(two: Runs):
    """A run that is there already is named, and the others are not written."""
    exported(two, "a", "--to", "wandb-offline", "wb")
    assert "offline-run" in refused(two, "b", "a", "--to", "wandb-offline", "wb")
    assert not offline_runs(two, "b")
    two.call("resume", "a", "--again")
    exported(two, "a", "--force", "--to", "wandb-offline", "wb")
    (path,) = offline_runs(two, "a")
    assert len(history(path)) == 12


def test_nothing_of_this_machine_goes_along_unasked(two: Runs):
    """No list of installed packages, no metadata of the exporting process."""
    exported(two, "a", "--to", "wandb-offline", "wb")
    files = {path.name for path in (offline_runs(two, "a")[0].parent / "files").iterdir()}
    assert not files & {"requirements.txt", "wandb-metadata.json"}


def test_the_configuration_of_a_script_that_uses_wandb_is_recorded(runs: Runs):
    """It is what the run trains with: the guess and the parser give way. Secrets are hidden."""
    config = {"lr": 2, "model": {"width": 3}, "api_key": "abc"}
    parse = "import argparse; parser = argparse.ArgumentParser(); parser.add_argument('--lr', type=int); parser.parse_args()"
    init = f"import wandb; assert wandb.init(mode='disabled', config={config!r}).config['lr'] == 2"
    params = []
    for script in (init, f"{parse}; {init}"):
        runs.script(script)
        done = runs.call("run", "train.py", "--", "--lr", "1", TMPDIR=str(runs.work))
        assert done.returncode == 0, done.stderr
        params.append(runs.document()["params"])
    assert params == [{"lr": 2, "model.width": 3, "api_key": "***"}] * 2
