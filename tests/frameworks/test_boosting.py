"""XGBoost and LightGBM: scripts that nobody edited stop after a round, and end as if nothing had happened."""

import json
import zipfile
from pathlib import Path

import pytest

from tests.frameworks.conftest import EXAMPLES, PATIENCE_S, FrameworkRuns

LIBRARIES = ("xgboost", "lightgbm")
LONG = ("--rounds", 600, "--lr", 0.02)  # many small rounds, so that a test can stop between them
LAST_LOSS = "valid-mlogloss", "valid-multi_logloss"


def example(library: str) -> Path:
    return EXAMPLES / f"digits_{library}.py"


def loss(library: str) -> str:
    return "valid-mlogloss" if library == "xgboost" else "valid-multi_logloss"


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_example_that_is_cut_ends_with_the_model_and_the_curve_of_one_that_is_not(
    library: str, framework_runs: FrameworkRuns
):
    runs = framework_runs
    last_word = runs.bare(example(library), *LONG, "--out", "bare").splitlines()[-1]
    assert runs.call("run", "--run-id", "whole", example(library), "--", *LONG, "--out", "whole").returncode == 0
    runs.cut([example(library), "--", *LONG, "--out", "cut"], "cut", [60, 300])

    bare, whole, cut = [(runs.work / name).read_bytes() for name in ("bare", "whole", "cut")]
    assert bare == whole
    assert bare == cut
    assert runs.output("cut", session=3).splitlines()[-1] == last_word
    curve = runs.curve("cut", loss(library))
    assert len(curve) > 300
    assert curve == runs.curve("whole", loss(library))
    steps = [checkpoint["step"] for checkpoint in runs.document("cut")["checkpoints"]]
    assert len(steps) == 2
    assert steps[0] >= 60
    assert steps[1] >= 300
