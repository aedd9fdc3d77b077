"""Keras scripts that know nothing of Backprop are cut anywhere, and end as if they had not been: bit for bit on CPU.

$KERAS_BACKEND decides the backend, as for any Keras script; CI runs with PyTorch.
"""

import json
from pathlib import Path

import pytest

from tests.conftest import wait_for
from tests.frameworks.conftest import EXAMPLES, PATIENCE_S, FrameworkRuns

EXAMPLE = EXAMPLES / "digits_keras.py"


def outcome(runs: FrameworkRuns, out: str) -> tuple[dict, str]:
    """The losses of all epochs, and every bit of the weights and the optimizer's state."""
    weights = runs.evaluate(
        """
        import hashlib, sys
        import h5py

        def show(name, item):
            if isinstance(item, h5py.Dataset):
                print(name, hashlib.sha256(item[()].tobytes()).hexdigest())

        with h5py.File(sys.argv[1]) as file:
            file.visititems(show)
        """,
        runs.work / out / "model.weights.h5",
    )
    assert "optimizer" in weights
    return json.loads((runs.work / out / "history.json").read_text()), weights


def test_stops_at_arbitrary_steps_change_nothing(framework_runs: FrameworkRuns):
    """Cut five times by `backprop stop`, the example has the losses and weights of the run that was never cut."""
    arguments = ["--epochs", 12, "--width", 64]
    framework_runs.bare(EXAMPLE, *arguments, "--out", "whole")
    framework_runs.cut([EXAMPLE, "--", *arguments, "--out", "cut"], "cut", [1, 50, 180, 300, 420])
    assert outcome(framework_runs, "cut") == outcome(framework_runs, "whole")
