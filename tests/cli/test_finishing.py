"""What a script does after its training: beyond the timebox, and what is said of it when it is cut there. Real processes."""

import subprocess

import pytest

from tests.conftest import HANG_S, OWN_CLOCK, Runs, wait_for

TRAINS = """
    for step in (1, 2, 3):
        print(json.dumps({"step": step}), flush=True)
    print(json.dumps({"event": "finished"}), flush=True)
"""
# what was printed before is known to its supervisor, which has measured the checkpoint
KNOWN = """
    open("c.json", "w").write("{}")
    print(json.dumps({"event": "checkpoint_saved", "path": "c.json"}), flush=True)
    while "checkpoint_measured" not in open(os.environ["BACKPROP_RUN_DIR"] + "/journal.jsonl").read():
        time.sleep(0.01)
    print("known", flush=True)
"""
UNTIL_TOLD = """
    while not os.path.exists("go"):
        time.sleep(0.01)
"""
GOES_ON = """
    try:
        print(BEGINS, flush=True)
        time.sleep(1000)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""
CUT = "training finished; the script was cut in what it did afterwards: timebox of 3 s ended"


def start(runs: Runs, script: str, *words: str) -> "subprocess.Popen[bytes]":
    """A run of three seconds, which are over as soon as all is known that its script has printed."""
    runs.script(script.replace("BEGINS", "'goes on'"))
    options = ("--run-id", "r", "-m", "0.05", *words)
    process = runs.start_patched(OWN_CLOCK, "run", "train.py", *options, stderr=subprocess.PIPE)
    wait_for(lambda: "known" in runs.output("r"))
    runs.set_clock(3.1)
    return process


def overrun(process: "subprocess.Popen[bytes]") -> str:
    """What is said when the timebox is over and the script goes on."""
    assert process.stderr is not None
    while b"the timebox is over" not in (line := process.stderr.readline()):
        assert line
    return line.decode()


def end_of(process: "subprocess.Popen[bytes]") -> str:
    """What else it says, until it ends well."""
    _, err = process.communicate(timeout=HANG_S)
    assert process.returncode == 0
    return err.decode()


def test_what_is_cut_after_its_training_says_so(runs: Runs):
    """It gets two thirds of the grace before it is interrupted; the record, `list` and the last line tell."""
    process = start(runs, TRAINS + KNOWN + GOES_ON, "--grace", "3")
    assert "training has finished, and the script may run for another " in overrun(process)
    wait_for(lambda: "goes on" in runs.output("r"))
    runs.set_clock(3 + 2)
    assert f"at step 3: {CUT}" in end_of(process)
    document = runs.document("r")
    assert document["status"] == "timeboxed"
    assert document["elapsed_s"] >= 3 + 2
    assert document["sessions"][0]["training_finished"] is True
    assert runs.output("r").endswith("interrupted\n")
    assert CUT in runs.call("list", COLUMNS="250").stdout
    assert CUT in runs.call("status", "r", COLUMNS="250").stdout


def test_what_ends_within_its_time_to_finish_is_completed(runs: Runs):
    """Nothing is asked of it."""
    script = TRAINS + KNOWN + UNTIL_TOLD + "    print('plotted', flush=True)"
    process = start(runs, script, "--finish-minutes", "10")
    assert "may run for another" in overrun(process)
    (runs.work / "go").touch()
    end_of(process)
    document = runs.document("r")
    assert (document["status"], document["reason"]) == ("completed", None)
    assert document["sessions"][0]["training_finished"] is False  # nothing is missing
    assert runs.output("r").endswith("plotted\n")


@pytest.mark.parametrize("last", ["", "    print(json.dumps({'step': 4}), flush=True)"], ids=["finished", "trains on"])
def test_without_time_to_finish_the_timebox_holds(runs: Runs, last: str):
    """So it does for who trains on."""
    process = start(runs, TRAINS + last + KNOWN + GOES_ON, "--finish-minutes", "10" if last else "0")
    assert "may run for another" not in end_of(process)
    document = runs.document("r")
    assert document["status"] == "timeboxed"
    assert document["sessions"][0]["training_finished"] is (not last)


@pytest.mark.parametrize("begins", ['{"event": "listening"}', '{"step": 4}'])
def test_another_training_after_the_timebox_is_stopped_at_once(runs: Runs, begins: str):
    """However much time there is to finish."""
    script = TRAINS + KNOWN + UNTIL_TOLD + GOES_ON.replace("BEGINS", repr(begins))
    process = start(runs, script, "--finish-minutes", "1000")
    overrun(process)
    (runs.work / "clock").write_text("")  # time goes on
    (runs.work / "go").touch()
    end_of(process)
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
    runs.script(TRAINS + GOES_ON.replace("BEGINS", "'goes on'"))
    process = runs.start("run", "train.py", "--run-id", "r", "--finish-minutes", "1000", "--grace", "100")
    wait_for(lambda: "goes on" in runs.output("r"))
    assert runs.call("stop", "r").returncode == 0
    assert process.wait(HANG_S) == 0
    assert runs.output("r").endswith("interrupted\n")
