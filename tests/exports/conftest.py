"""Exports read back by the libraries they are for, in an environment that has those: `make exports`."""

import math
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests import forked_commands
from tests.conftest import Runs

forked_commands.ALSO = ["mlflow", "pyarrow", "tensorboard"]  # not W&B, which makes folders then

ODD = "acc@1 \x1b[31m\n<b>\u202e"  # the name of a metric
SCRIPT = (
    f"    ODD = {ODD!r}"
    """
    begin = int(os.environ.get("BACKPROP_RESUME_STEP", 0))
    open(os.environ["BACKPROP_RESUME_FROM"]).close() if begin else None
    params = {"optimizer": "=cmd()", "lr": 1e-3, "layers": [64, 64], "amp": True, "long": "x" * 10_000}
    print(json.dumps({"event": "params", "params": params}))
    for step in range(begin, begin + 4):
        loss = [0.1, float("nan"), float("inf"), -float("inf")][step % 4]
        print(json.dumps({"step": step, "loss": loss, ODD: step / 3, "step/../x": 1.0, "_own": 2.0}))
    open("model.bin", "w").write("x")
    print(json.dumps({"event": "checkpoint_saved", "path": "model.bin", "step": begin + 2}))
"""
)
# of `loss`: session, step, value; steps 2 and 3 were trained again
LOSSES = [
    (1, 0, 0.1),
    (1, 1, math.nan),
    (1, 2, math.inf),
    (1, 3, -math.inf),
    (2, 2, math.inf),
    (2, 3, -math.inf),
    (2, 4, 0.1),
    (2, 5, math.nan),
]
NAME = '=1+1 "<b>hi</b>" /../x'


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables, which MLflow takes seconds to make."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def two(runs: Runs) -> Runs:
    """Run a with two sessions and a name full of what must not be obeyed; and run b, which failed."""
    (runs.work / "temporary").mkdir()
    runs.environment["TMPDIR"] = str(runs.work / "temporary")  # W&B leaves a log there
    runs.script(SCRIPT)
    assert runs.call("run", "train.py", "--run-id", "a", "-n", NAME).returncode == 0
    assert runs.call("resume", "a", "--again").returncode == 0
    runs.script("sys.exit(3)", "fail.py")
    runs.call("run", "fail.py", "--run-id", "b")
    for run_id in ("a", "b"):
        runs.set_usage(run_id)
    return runs


USED = '{"since":0,"until":2,"count":2,"values":{"cpu":[100,50],"ram":5}}\n'  # of each session


def exported(runs: Runs, *words: object) -> str:
    """What a successful export says."""
    done = runs.call("export", *words)
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def refused(runs: Runs, *words: object) -> str:
    """What one says that was refused, in its one line."""
    done = runs.call("export", *words)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    return line
