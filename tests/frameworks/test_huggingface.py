"""The Hugging Face Trainer, in scripts that know nothing of Backprop, goes on where it was cut, bit for bit."""

import json
import os
from pathlib import Path

import pytest

from tests.conftest import wait_for
from tests.frameworks.conftest import EXAMPLES, PATIENCE_S, FrameworkRuns

EPOCHS = 8
STEPS_PER_EPOCH = 45  # 1437 images, 32 a step
STEPS = EPOCHS * STEPS_PER_EPOCH
PREDICTION_STEPS = 12  # 360 images, 32 a step
CURVES = ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy")

# the example, but a step takes its time, and one for which there is a file hold-train-N or hold-eval-N waits in the
# middle until that file's successor, `held`, is taken away. N counts the calls of this process
SLOW = """
    import functools, pathlib, sys, time
    sys.path.insert(0, {examples!r})
    import digits_transformers as example

    forward, calls = example.Network.forward, {{"train": 0, "eval": 0}}

    @functools.wraps(forward)
    def slow_forward(self, *args, **kwargs):
        phase = "train" if self.training else "eval"
        calls[phase] += 1
        hold, held = pathlib.Path(f"hold-{{phase}}-{{calls[phase]}}"), pathlib.Path("held")
        if hold.exists():
            hold.rename(held)
            while held.exists():
                time.sleep(0.01)
        elif self.training:
            time.sleep({pause_s})
        return forward(self, *args, **kwargs)

    example.Network.forward = slow_forward
    example.main()
"""


def slow_example(runs: FrameworkRuns, pause_s: float = 0.02) -> Path:
    return runs.script(SLOW.format(examples=str(EXAMPLES), pause_s=pause_s))


def history(out: Path) -> dict[str, dict[int, float]]:
    """What the Trainer logged, as its last checkpoint has it: metric -> step -> value."""
    state = json.loads((out / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
    return {name: {entry["step"]: entry[name] for entry in state["log_history"] if name in entry} for name in CURVES}


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory):
    """The output folder of a run that was left alone, without Backprop."""
    runs = FrameworkRuns(tmp_path_factory.mktemp("uncut"))
    runs.python = os.environ["FRAMEWORKS_PYTHON"]
    runs.bare(EXAMPLES / "digits_transformers.py", "--epochs", EPOCHS)
    yield runs.work / "digits-transformers"
    runs.clean_up()


def assert_same(runs: FrameworkRuns, run_id: str, uncut: Path) -> None:
    """The run's curves, in the record and in the Trainer's own history, and its final weights: those of the other."""
    out, expected = runs.work / "digits-transformers", history(uncut)
    assert len(expected["loss"]) == STEPS // 5
    assert len(expected["eval_loss"]) == EPOCHS
    assert history(out) == expected
    assert {name: runs.curve(run_id, name) for name in CURVES} == expected
    weights = "final/model.safetensors"
    assert (out / weights).read_bytes() == (uncut / weights).read_bytes()


def stop_while_held(runs: FrameworkRuns, run_id: str, hold: str, *words: object) -> dict:
    """Start a session that waits in the middle of a step, ask it to stop, let it go on; gives its record."""
    runs.work.joinpath(hold).touch()
    running = runs.start(*words)
    wait_for(runs.work.joinpath("held").exists, PATIENCE_S)
    stopping = runs.start("stop", run_id)
    wait_for(lambda: json.loads((runs.rundir(run_id) / "control.json").read_text())["stop_wanted"], PATIENCE_S)
    runs.work.joinpath("held").unlink()
    assert running.wait(PATIENCE_S) == 0
    assert stopping.wait(PATIENCE_S) == 0
    document = runs.document(run_id)
    assert document["status"] == "stopped"
    return document


def test_cut_by_its_timebox_and_resumed_it_is_the_run_that_was_not_cut(
    framework_runs: FrameworkRuns, uncut: Path
) -> None:
    """Its second session has a whole timebox again, whatever the first one spent."""
    script = slow_example(framework_runs, pause_s=0.05)  # at least 18 s of training
    timebox_s = 12.0
    first = framework_runs.call(
        "run",
        script,
        "--run-id",
        "cut",
        "-m",
        timebox_s / 60,
        "-c",
        0.02,
        "--",
        "--epochs",
        EPOCHS,
        timeout_s=PATIENCE_S,
    )
    assert first.returncode == 0, first.stderr
    assert framework_runs.document("cut")["status"] == "timeboxed"
    while framework_runs.document("cut")["status"] == "timeboxed":
        timebox_s *= 2  # a busy machine may have taken all of the first one to import torch
        again = framework_runs.call("resume", "cut", "-m", timebox_s / 60, timeout_s=PATIENCE_S)
        assert again.returncode == 0, again.stderr
    document = framework_runs.document("cut")
    assert document["status"] == "completed"
    assert document["sessions"][-1]["resumed_from"] is not None
    assert document["sessions"][-1]["elapsed_s"] > timebox_s - sum(s["elapsed_s"] for s in document["sessions"][:-1])
    wanted = [c for c in document["checkpoints"] if c["step"] % STEPS_PER_EPOCH]  # the script saves after epochs only
    assert len(wanted) > 1, "one at the cut, and those that -c asked for"
    assert_same(framework_runs, "cut", uncut)


def test_stopped_at_any_step_with_workers_that_load_data_it_is_the_run_that_was_not_cut(
    framework_runs: FrameworkRuns, uncut: Path
) -> None:
    script = slow_example(framework_runs)
    framework_runs.cut([script, "--", "--epochs", EPOCHS, "--workers", 2], "stopped", [33, 170])
    events = framework_runs.events("stopped")
    assert f'"total_steps": {STEPS}' in events
    assert '"epoch": ' in events
    assert_same(framework_runs, "stopped", uncut)


def test_a_stop_while_it_warms_up_or_evaluates_is_obeyed_at_once_and_changes_nothing(
    framework_runs: FrameworkRuns, uncut: Path
) -> None:
    script = slow_example(framework_runs, pause_s=0)
    run = ["run", "--run-id", "held", script, "--", "--epochs", EPOCHS]
    resume = ["resume", "held"]
    # in the first step, which is the one that compiles
    document = stop_while_held(framework_runs, "held", "hold-train-1", *run)
    assert [c["step"] for c in document["checkpoints"]] == [1]
    # in an epoch's last step, after which an evaluation is due
    document = stop_while_held(framework_runs, "held", f"hold-train-{STEPS_PER_EPOCH - 1}", *resume)
    assert {c["step"] for c in document["checkpoints"]} == {1, STEPS_PER_EPOCH}
    assert "eval_loss" not in document["metrics"]
    # in the second evaluation, the first being the one that was put off
    document = stop_while_held(framework_runs, "held", f"hold-eval-{PREDICTION_STEPS + 3}", *resume)
    assert document["last_step"] == 2 * STEPS_PER_EPOCH
    assert list(framework_runs.curve("held", "eval_loss")) == [STEPS_PER_EPOCH]
    # in the evaluation that was put off
    document = stop_while_held(framework_runs, "held", "hold-eval-2", *resume)
    assert framework_runs.call("resume", "held", timeout_s=PATIENCE_S).returncode == 0
    assert framework_runs.document("held")["status"] == "completed"
    assert_same(framework_runs, "held", uncut)
