"""A hundred runs, three slots, ten supervisors killed on the way; a tenth of that outside `make nightly`."""

import json
import random
import signal

import pytest

from tests.conftest import HANG_S, Runs, scaled, wait_for

RUN_COUNT = scaled(100)
SLOT_COUNT = 3
KILL_COUNT = max(2, scaled(10))


@pytest.mark.alone
@pytest.mark.timeout(2400)
def test_many_runs_share_three_slots(runs: Runs):
    """Never more than three at a time, in the order they asked, all done, and no slot lost to a killed supervisor."""
    runs.environment["BACKPROP_MAX_PARALLEL"] = str(SLOT_COUNT)
    # each trainer counts the trainers that are alive, by locks that the kernel frees, and says how many it saw
    runs.script(
        """
        import fcntl
        own = open(f"alive-{os.getpid()}", "w")
        fcntl.flock(own, fcntl.LOCK_EX)
        def alive():
            count = 0
            for name in os.listdir("."):
                if name.startswith("alive-"):
                    with open(name) as file:
                        try:
                            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                        except BlockingIOError:
                            count += 1
            return count
        while not os.path.exists("go"):
            time.sleep(0.02)
        until = time.monotonic() + 0.3
        most = 0
        while time.monotonic() < until:
            most = max(most, alive())
            time.sleep(0.02)
        print(json.dumps({"step": 1, "alive": most}), flush=True)
        """
    )
    dice = random.Random(3)
    names = [f"r{number:03}" for number in range(RUN_COUNT)]
    processes = {name: runs.start("run", "train.py", "--run-id", name) for name in names}

    def have_all_come() -> bool:
        told = json.loads(runs.call("status", "--json").stdout)
        return len(told["slots"]["taken"]) + len(told["queue"]) == RUN_COUNT

    wait_for(have_all_come)
    (runs.work / "go").touch()
    doomed = set(dice.sample(names, KILL_COUNT))
    for name in sorted(doomed):
        # some while they wait, some while they train, some in between
        wait_for(lambda name=name: runs.rundir(name).exists())
        if dice.random() < 0.5:
            wait_for(lambda name=name: runs.output(name) or processes[name].poll() is not None)
        processes[name].send_signal(signal.SIGKILL)
    for process in processes.values():
        process.wait(HANG_S)

    documents = {run["id"]: run for run in json.loads(runs.call("list", "--limit", "0", "--json").stdout)}
    assert len(documents) == RUN_COUNT
    spared = [name for name in names if name not in doomed]
    assert {documents[name]["status"] for name in spared} == {"completed"}
    assert {documents[name]["status"] for name in doomed} <= {"interrupted", "completed"}
    assert max(documents[name]["metrics"]["alive"] for name in spared) <= SLOT_COUNT

    # first come, first served: turns were given in the order of the places
    admitted = [entry for name in spared for entry in runs.journal(name) if entry["event"] == "admitted"]
    assert len(admitted) == len(spared)
    places = [entry["place"] for entry in sorted(admitted, key=lambda entry: entry["at"])]
    assert places == sorted(places)
    assert (
        sum(any(entry["event"] == "queued" for entry in runs.journal(name)) for name in spared)
        >= (RUN_COUNT - SLOT_COUNT) / 2
    )
    told = json.loads(runs.call("status", "--json").stdout)
    assert (told["slots"]["taken"], told["queue"]) == ([], [])
    # no slot is lost: three more start at once
    for number in range(SLOT_COUNT):
        runs.start("run", "train.py", "--run-id", f"after{number}", "--no-wait")
    wait_for(lambda: all(runs.output(f"after{number}") for number in range(SLOT_COUNT)))
