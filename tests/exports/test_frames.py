"""run.frame() with the real pandas and polars."""

import math
import subprocess
import sys
from typing import Any

import pandas as pd
import polars as pl
import pytest

import backprop
from tests.conftest import Runs


@pytest.fixture
def home(runs: Runs):
    """The home of run a, in which steps 2 and 3 were trained by both sessions, and step 1 of session 1 had no loss."""
    runs.script(
        """
        begin = int(os.environ.get("BACKPROP_RESUME_STEP", 0))
        open(os.environ["BACKPROP_RESUME_FROM"]).close() if begin else None
        for step in range(begin, begin + 4):
            print(json.dumps({"step": step, "loss": math.nan if step == 0 else step / 3, "session": 7}))
            print(json.dumps({"step": step, "acc": 0.5})) if step % 2 else None
        open("model.bin", "w").write("x")
        print(json.dumps({"event": "checkpoint_saved", "path": "model.bin", "step": begin + 2}))
    """.replace("begin =", "import math; begin =", 1)
    )
    runs.call("run", "train.py", "--run-id", "a")
    runs.call("resume", "a", "--again")
    return runs.home


def test_pandas_is_the_usual_frame(home):
    """One row a step of the session that counts, one column a metric, NaN where there is none."""
    frame = backprop.find_run("a", home=home).frame()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.columns) == ["step", "session", "time_s", "acc", "loss", "metric/session"]
    assert list(frame["step"]) == [0, 1, 2, 3, 4, 5]
    assert list(frame["session"]) == [1, 1, 2, 2, 2, 2]
    assert list(frame["loss"][1:]) == [step / 3 for step in range(1, 6)]
    assert math.isnan(frame["loss"][0])
    assert list(frame["acc"].isna()) == [True, False] * 3
    assert frame["time_s"].is_monotonic_increasing
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        "step": "int64",
        "session": "int64",
        **dict.fromkeys(["time_s", "acc", "loss", "metric/session"], "float64"),
    }


def test_polars_tells_missing_from_nan(home):
    """null where a metric was not reported, NaN where that was the value."""
    frame = backprop.find_run("a", home=home).frame("polars")
    assert frame.columns == ["step", "session", "time_s", "acc", "loss", "metric/session"]
    assert frame["step"].to_list() == [0, 1, 2, 3, 4, 5]
    assert frame["acc"].to_list() == [None, 0.5] * 3
    assert math.isnan(frame["loss"][0])
    assert frame.schema["step"] == pl.Int64


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_run_without_metrics_is_an_empty_frame(runs: Runs, library: Any):
    """With the three columns that are always there."""
    runs.script("")
    runs.call("run", "train.py", "--run-id", "a")
    frame = backprop.find_run("a", home=runs.home).frame(library)
    assert (list(frame.columns), len(frame)) == (["step", "session", "time_s"], 0)


def test_without_pandas_polars_is_taken(home):
    """Whichever is installed; where none is, one line says what to do."""
    program = """
import sys, json
for name in sys.argv[2:]:
    sys.modules[name] = None
import backprop
try:
    print(type(backprop.find_run("a", home=sys.argv[1]).frame()).__module__)
except backprop.errors.UsageError as error:
    print(error)
"""

    def told(*without: str) -> str:
        command = [sys.executable, "-c", program, str(home), *without]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert told("pandas").startswith("polars.")
    assert "pip install pandas" in told("pandas", "polars")
