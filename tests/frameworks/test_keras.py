"""Keras scripts that know nothing of Backprop are cut anywhere, and end as if they had not been: bit for bit on CPU.

$KERAS_BACKEND decides the backend, as for any Keras script; CI runs with PyTorch.
"""

import json
from pathlib import Path

import pytest

from tests.conftest import HANG_S, IS_NIGHTLY, nightly, wait_for
from tests.frameworks.conftest import EXAMPLES, FrameworkRuns, assert_first_step_has_total

EXAMPLE = EXAMPLES / "digits_keras.py"
CUTS = Path(__file__).with_name("keras_cuts.py")
STEPS = 36  # an epoch of the example: 1437 images, a fifth of them for validation, 32 a batch


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


@pytest.mark.parametrize("cut_by", ["stop", nightly("stop and timebox")])
def test_a_stop_and_a_timebox_change_nothing(framework_runs: FrameworkRuns, cut_by: str):
    """Cut by `backprop stop`, and by its timebox, the example has the losses and weights of the run never cut."""
    has_timebox = "timebox" in cut_by
    epochs = 40 if has_timebox else 16
    arguments = ["--epochs", epochs, "--width", 64]
    framework_runs.bare(EXAMPLE, *arguments, "--out", "whole")

    run = framework_runs.start("run", "--run-id", "cut", "-c", "0.001", EXAMPLE, "--", *arguments, "--out", "cut")
    wait_for(lambda: '"checkpoint_saved"' in framework_runs.events("cut"))  # -c asked for one
    framework_runs.stop_here("cut")
    assert run.wait(HANG_S) == 0

    start_up_s = framework_runs.document("cut")["elapsed_s"]
    for attempt in range(5 * has_timebox):  # one that is over before Keras is imported brings nothing: tried longer
        minutes = (start_up_s + 1 + 5 * attempt) / 60
        assert framework_runs.call("resume", "cut", "-m", minutes).returncode == 0
        if '"loss"' in framework_runs.events("cut", attempt + 2):
            break
    assert framework_runs.call("resume", "cut", "-m", 10).returncode == 0

    document = framework_runs.document("cut")
    statuses = [session["status"] for session in document["sessions"]]
    assert (statuses[0], statuses[-1]) == ("stopped", "completed")
    assert statuses[-2] == ("timeboxed" if has_timebox else "stopped")
    assert all("step-" in session["resumed_from"] for session in document["sessions"][1:])
    whole = outcome(framework_runs, "whole")
    assert outcome(framework_runs, "cut") == whole
    for name in ("loss", "val_loss", "val_accuracy"):
        recorded = framework_runs.curve("cut", name)
        assert [recorded[STEPS * epoch] for epoch in range(1, epochs + 1)] == whole[0][name]
    assert document["total_steps"] == document["last_step"] == epochs * STEPS
    assert_first_step_has_total(framework_runs, "cut", "batch")


@pytest.mark.nightly
def test_steps_go_on_where_keras_itself_goes_on(framework_runs: FrameworkRuns):
    """With BackupAndRestore, a killed fit begins with an epoch, of which Backprop has no checkpoint."""
    framework_runs.script(
        """
        import os
        os.environ.setdefault("KERAS_BACKEND", "torch")
        import keras, numpy
        class Kill(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 2 and os.environ["BACKPROP_SESSION"] == "1":
                    os.kill(os.getpid(), 9)
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        backup = keras.callbacks.BackupAndRestore("backup")
        model.fit(numpy.ones((8, 1)), numpy.ones(8), batch_size=2, epochs=3, verbose=0, callbacks=[backup, Kill()])
        model.save("final.keras")
        """
    )
    assert framework_runs.call("run", "--run-id", "r", "train.py").returncode != 0
    done = framework_runs.call("resume", "r")
    assert done.returncode == 0, done.stderr
    document = framework_runs.document("r")
    assert document["last_step"] == document["total_steps"] == 12
    assert [(Path(one["path"]).name, one["step"]) for one in document["checkpoints"]] == [("final.keras", 12)]
    assert min(framework_runs.curve("r", "epoch")) == 1


def test_no_kind_of_training_minds_a_cut(framework_runs: FrameworkRuns):
    """Whatever gives the data, and whatever has state of its own: cut within and between epochs, nothing changes."""
    done = framework_runs.call("run", "--run-id", "cuts", CUTS, PLACES="7" if IS_NIGHTLY else "2")
    assert done.returncode == 0, done.stderr
    verdicts = done.stdout.splitlines()
    assert len(verdicts) == 13
    assert [verdict for verdict in verdicts if not verdict.endswith("equal")] == []
