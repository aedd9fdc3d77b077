"""What a script does after its training: beyond the timebox, and what is said of it when it is cut there. Real processes."""

import pytest

from tests.conftest import HANG_S, Runs, wait_for

TRAINS = """
    began = time.monotonic()
    def over_the_timebox():
        return time.monotonic() > began + float(os.environ["BACKPROP_TIMEBOX_S"]) + 0.3
    for step in (1, 2, 3):
        print(json.dumps({"step": step}), flush=True)
    print(json.dumps({"event": "finished"}), flush=True)
"""
GOES_ON = """
    try:
        time.sleep(1000)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
CUT = "training finished; the script was cut in what it did afterwards: timebox of 3 s ended"


def test_what_is_cut_after_its_training_says_so(runs: Runs):
    """It gets two thirds of the grace before it is interrupted; the record, `list` and the last line tell."""
    runs.script(TRAINS + GOES_ON)
    done = runs.call("run", "train.py", "--run-id", "r", "-m", "0.05", "--grace", "3")
    assert done.returncode == 0
    assert "the timebox is over; training has finished, and the script may run for another " in done.stderr
    assert f"at step 3: {CUT}" in done.stderr
    document = runs.document("r")
    assert document["status"] == "timeboxed"
    assert document["elapsed_s"] >= 3 + 2
    assert document["sessions"][0]["training_finished"] is True
    assert runs.output("r").endswith("interrupted\n")
    assert CUT in runs.call("list", COLUMNS="250").stdout
    assert CUT in runs.call("status", "r", COLUMNS="250").stdout


def test_what_ends_within_its_time_to_finish_is_completed(runs: Runs):
    """Nothing is asked of it."""
    runs.script(TRAINS + "    while not over_the_timebox(): time.sleep(0.01)\n    print('plotted', flush=True)")
    done = runs.call("run", "train.py", "--run-id", "r", "-m", "0.05", "--finish-minutes", "10")
    assert done.returncode == 0
    assert "may run for another" in done.stderr
    document = runs.document("r")
    assert (document["status"], document["reason"]) == ("completed", None)
    assert document["sessions"][0]["training_finished"] is False  # nothing is missing
    assert runs.output("r").endswith("plotted\n")


@pytest.mark.parametrize("last", ["", "    print(json.dumps({'step': 4}), flush=True)"], ids=["finished", "trains on"])
def test_without_time_to_finish_the_timebox_holds(runs: Runs, last: str):
    """So it does for who trains on."""
    runs.script(TRAINS + last + GOES_ON)
    minutes = "10" if last else "0"
    done = runs.call("run", "train.py", "--run-id", "r", "-m", "0.05", "--finish-minutes", minutes)
    assert done.returncode == 0
    document = runs.document("r")
    assert document["status"] == "timeboxed"
    assert document["sessions"][0]["training_finished"] is (not last)
    assert "may run for another" not in done.stderr


@pytest.mark.parametrize("begins", ['{"event": "listening"}', '{"step": 4}'])
def test_another_training_after_the_timebox_is_stopped_at_once(runs: Runs, begins: str):
    """However much time there is to finish."""
    runs.script(
        TRAINS + f"    while not over_the_timebox(): time.sleep(0.01)\n    print('{begins}', flush=True)" + GOES_ON
    )
    done = runs.call("run", "train.py", "--run-id", "r", "-m", "0.05", "--finish-minutes", "1000")
    assert done.returncode == 0
    document = runs.document("r")
    assert document["status"] == "timeboxed"
    assert document["sessions"][0]["training_finished"] is False
    assert runs.output("r").endswith("interrupted\n")


def test_a_script_that_fails_after_its_training_says_so(runs: Runs):
    """Its exit code stays its own."""
    runs.script(TRAINS + "    sys.exit(3)")
    done = runs.call("run", "train.py", "--run-id", "r")
    assert done.returncode == 3
    assert "training finished; the script failed in what it did afterwards: exit code 3" in done.stderr


def test_a_stop_is_obeyed_though_training_has_finished(runs: Runs):
    """Time to finish is for the timebox alone."""
    runs.script(TRAINS + GOES_ON)
    process = runs.start("run", "train.py", "--run-id", "r", "--finish-minutes", "1000", "--grace", "100")
    wait_for(lambda: "finished" in runs.output("r"))
    assert runs.call("stop", "r").returncode == 0
    assert process.wait(HANG_S) == 0
    assert runs.output("r").endswith("interrupted\n")
