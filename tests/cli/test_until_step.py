"""`--until-step`: a session ends when its trainer has come to a step, by its own supervisor."""

import json

import pytest

from tests.conftest import Runs

TRAIN = """
    step = int(open("state").read()) if os.environ.get("BACKPROP_RESUME_FROM") else 0
    try:
        while True:
            step += 1
            print(json.dumps({"step": step, "loss": 1 / step}), flush=True)
            time.sleep(0.02)
    finally:
        with open("state", "w") as file:
            file.write(str(step))
        print(json.dumps({"event": "checkpoint_saved", "path": "state", "step": step}), flush=True)
        os._exit(0)
"""


def document(runs: Runs) -> dict:
    return json.loads(runs.call("status", "last", "--json").stdout)


def test_a_session_ends_at_its_step_and_the_next_goes_on(runs: Runs):
    """It is saved as at the end of a timebox. The limit is of one session: another is given another, or none."""
    runs.script(TRAIN)
    assert runs.call("run", "train.py", "--until-step", 5).returncode == 0
    first = document(runs)
    assert (first["status"], first["stopped_by"], first["reason"]) == ("timeboxed", "step", "step 5 reached")
    assert first["last_step"] >= 5
    assert runs.call("resume", "last", "--until-step", first["last_step"] + 20).returncode == 0
    second = document(runs)
    assert (second["stopped_by"], second["sessions"][1]["resumed_from"] is not None) == ("step", True)
    assert second["last_step"] >= first["last_step"] + 20
    assert runs.call("resume", "last", "-m", 0.02).returncode == 0
    assert document(runs)["stopped_by"] == "timebox"


def test_the_timebox_ends_a_session_that_does_not_come_to_its_step(runs: Runs):
    """Whatever comes first."""
    runs.script(TRAIN)
    assert runs.call("run", "train.py", "--until-step", 10_000, "-m", 0.02).returncode == 0
    assert (document(runs)["status"], document(runs)["stopped_by"]) == ("timeboxed", "timebox")


def test_a_training_that_ends_before_is_complete(runs: Runs):
    runs.script("print(json.dumps({'step': 3}), flush=True)")
    assert runs.call("run", "train.py", "--until-step", 4).returncode == 0
    assert (document(runs)["status"], document(runs)["stopped_by"]) == ("completed", None)


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many"])
def test_what_is_no_step_is_refused(runs: Runs, text: str):
    runs.script(TRAIN)
    done = runs.call("run", "train.py", f"--until-step={text}")
    assert (done.returncode, "expected a whole number of steps" in done.stderr) == (2, True)
