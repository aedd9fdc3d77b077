"""Read back by MLflow's client from an SQLite store."""

import json
import math
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.conftest import Runs
from tests.exports.conftest import LOSSES, NAME, ODD, USED, exported, refused

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning"
)  # MLflow and SQLAlchemy disagree about what is out of date
URI = "sqlite:///mlflow.db"


@pytest.fixture
def stored(two: Runs, empty_store: Path) -> Runs:
    """The runs, and an empty store beside them."""
    shutil.copy(empty_store, two.work)
    return two


def client(runs: Runs) -> MlflowClient:
    return MlflowClient(f"sqlite:///{runs.work}/mlflow.db")


def found(runs: Runs) -> dict[str, Any]:
    """Backprop's id -> MLflow's run."""
    store = client(runs)
    experiment = store.get_experiment_by_name("Backprop")
    return {run.data.tags["backprop.run"]: run for run in store.search_runs([experiment.experiment_id])}


def test_what_was_measured_is_among_the_system_metrics(stored: Runs):
    """Where MLflow's pages look for it."""
    stored.set_usage("a", USED)
    exported(stored, "a", "--to", "mlflow", URI)
    points = client(stored).get_metric_history(found(stored)["a"].info.run_id, "system/cpu")
    assert sorted(point.value for point in points) == [50, 50, 100, 100]


def test_every_point_is_there(stored: Runs):
    """Steps, values and wall times of all sessions; SQL stores make an infinity the largest number."""
    exported(stored, "a", "--to", "mlflow", URI)
    run = found(stored)["a"]
    points = client(stored).get_metric_history(run.info.run_id, "loss")
    largest = 1.7976931348623157e308
    wanted = [(step, max(-largest, min(value, largest)) if value == value else value) for _, step, value in LOSSES]
    assert [(point.step, repr(point.value)) for point in points] == [(step, repr(value)) for step, value in wanted]
    begin, end = (
        datetime.fromisoformat(stored.document("a")[key]).timestamp() * 1000 for key in ("started_at", "ended_at")
    )
    assert all(begin - 1 <= point.timestamp <= end + 1 for point in points)
    assert (run.info.start_time, run.info.end_time) == (pytest.approx(begin, abs=1), pytest.approx(end, abs=1))
    sessions = client(stored).get_metric_history(run.info.run_id, "backprop/session")
    assert [(point.step, point.value) for point in sessions] == [(0, 1.0), (2, 2.0)]


def test_names_that_mlflow_refuses_are_told(stored: Runs):
    """They get another one, and a tag with their own."""
    exported(stored, "a", "--to", "mlflow", URI)
    data = found(stored)["a"].data
    assert set(data.metrics) == {"loss", "acc_1 __31m__b__", "step/_/x", "_own", "backprop/session"}
    assert data.tags["backprop.name.acc_1 __31m__b__"] == ODD
    assert not math.isnan(data.metrics["acc_1 __31m__b__"])


def test_facts_are_params_and_tags(stored: Runs):
    """Parameters, name, status, host, command, checkpoints; a text that is too long for MLflow is cut."""
    assert stored.call("tag", "a", "+base").returncode == stored.call("note", "a", "it works").returncode == 0
    exported(stored, "a", "b", "--to", "mlflow", URI)
    run, failed = found(stored)["a"], found(stored)["b"]
    params = run.data.params
    assert (params["lr"], params["optimizer"], params["layers"], params["amp"]) == (
        "0.001",
        "=cmd()",
        "[64, 64]",
        "true",
    )
    assert params["long"].startswith("xxx")
    assert len(params["long"]) == 6000
    assert run.info.run_name == NAME
    document = stored.document("a")
    assert run.data.tags["backprop.host"] == document["host"]
    assert run.data.tags["backprop.status"] == "completed"
    assert (run.data.tags["backprop.tags"], run.data.tags["mlflow.note.content"]) == ('["base"]', "it works")
    assert json.loads(run.data.tags["backprop.checkpoints"]) == document["checkpoints"][::-1]
    assert (run.info.status, failed.info.status) == ("FINISHED", "FAILED")


def test_a_second_export_is_refused_and_force_replaces(stored: Runs):
    """A run that is there already is named, and the others are not written; with --force the old one goes."""
    exported(stored, "a", "--to", "mlflow", URI)
    before = found(stored)
    line = refused(stored, "b", "a", "--to", "mlflow", URI)
    assert before["a"].info.run_id in line
    assert set(found(stored)) == {"a"}
    exported(stored, "a", "--force", "--to", "mlflow", URI)
    after = found(stored)
    assert set(after) == {"a"}
    assert after["a"].info.run_id != before["a"].info.run_id


def test_a_store_that_cannot_be_had_is_said_in_one_line(two: Runs):
    """A server that is not there, and a kind of store that does not exist."""
    assert "127.0.0.1:9" in refused(two, "a", "--to", "mlflow", "http://127.0.0.1:9")
    assert "no-such-kind" in refused(two, "a", "--to", "mlflow", "no-such-kind://x")


def test_a_damaged_store_is_said_in_one_line(two: Runs):
    """And stays as it is: it may be somebody's only one."""
    (two.work / "mlflow.db").write_bytes(b"not a database" * 100)
    assert "not a database" in refused(two, "a", "--to", "mlflow", URI)
    assert (two.work / "mlflow.db").read_bytes() == b"not a database" * 100


def test_nothing_is_left_in_the_folder_but_the_store(two: Runs):
    """No artifact folder, no log."""
    before = {path.name for path in Path(two.work).iterdir()}
    exported(two, "a", "--to", "mlflow", URI)
    assert {path.name for path in Path(two.work).iterdir()} - before == {"mlflow.db"}
