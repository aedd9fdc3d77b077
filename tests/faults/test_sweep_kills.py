"""A sweep whose sweeper and trials are killed at random instants: nothing is lost, doubled, or left behind."""

import json
import os
import random
import signal
import time
from collections import Counter

import pytest

from backprop.lifecycle.sweep.space import parse_parameters
from tests.cli.test_sweep import OPTIONS, PARAM, SECOND, TRAIN, check_whole, entries, status
from tests.conftest import Runs, scaled, wait_for

LONG_S = 1800.0

PAUSES_S = (0.02, 1.2)  # between two kills
KILLS = scaled(100)
MOST_OF_A_TRIAL = 2  # kills of its supervisors: a rung that is interrupted more often has no value


@pytest.mark.timeout(3600)
def test_random_kills_lose_and_double_nothing(runs: Runs):
    """Two trials at once: each is one run, each rung ends once, and what is proposed is what the seed says."""
    runs.script(TRAIN)
    rng = random.Random(7)
    in_steps = ("--rung", 8 * SECOND, "--rung-steps", 40)
    words = ("sweep", "train.py", "-n", "s", *OPTIONS, *PARAM, *in_steps, "--budget", (10 + 3 * KILLS) * SECOND, "-d")
    assert runs.call(*words).returncode == 0
    assert kill_at_random(runs, rng, most_of_a_trial=KILLS) == KILLS
    wait_for(lambda: status(runs)["state"] == "finished", LONG_S)
    check_whole(runs)
    state = status(runs)
    assert (state["active"], state["exit_code"]) == (0, 0)
    assert not runs.tree()
    asked = [entry["params"]["lr"] for entry in entries(runs, "asked")]
    assert asked == drawn(len(asked))


# What it has come to at a step depends on --lr alone, and a session ends at a step: the clock decides nothing. A step is
# reported before it is saved: a kill between the two makes the next session repeat it, and not leave it out. How long a
# step takes is in a file.
GROWING = """
    options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
    state, step = f"state-{os.environ['BACKPROP_RUN_ID']}", 0
    if os.environ.get("BACKPROP_RESUME_FROM"):
        with open(os.environ["BACKPROP_RESUME_FROM"]) as file:
            step = int(file.read())
    while True:
        step += 1
        print(json.dumps({"step": step, "score": step / 1000 * float(options["--lr"])}), flush=True)
        with open(state + ".draft", "w") as file:
            file.write(str(step))
        os.replace(state + ".draft", state)
        print(json.dumps({"event": "checkpoint_saved", "path": state, "step": step}), flush=True)
        with open("pace") as file:
            time.sleep(float(file.read()))
"""
VALUES = [f"{(37 * number % 101 + 1) / 101:.4f}" for number in range(scaled(50))]  # enough for the kills
BY_STEPS = (
    "--goal", "max:score", "--sampler", "grid", "--param", f"lr={','.join(VALUES)}", "--rung-steps", 10,
    "--rung", 10, "--eta", 2, "--max-rungs", 3, "-p", 1, "--budget", 1000,
)  # fmt: skip


@pytest.mark.timeout(3600)
def test_a_sweep_that_is_killed_ends_as_one_that_is_not(runs: Runs):
    """Sweepers and trials: the same trials, promotions for the same reasons, values, and best, given the same seed."""
    runs.script(GROWING)
    (runs.work / "pace").write_text("0.001")
    done = runs.call("sweep", "train.py", "-n", "quiet", *BY_STEPS, timeout_s=LONG_S)
    assert done.returncode == 0, done.stderr
    undisturbed = runs.home.rename(runs.home.with_name("undisturbed"))
    (runs.work / "pace").write_text("0.12")
    assert runs.call("sweep", "train.py", "-n", "s", *BY_STEPS, "-d").returncode == 0
    assert kill_at_random(runs, random.Random(11), MOST_OF_A_TRIAL) == KILLS
    (runs.work / "pace").write_text("0.001")
    wait_for(lambda: status(runs)["state"] == "finished", LONG_S)
    check_whole(runs)
    killed = decisions(runs)
    interrupted = [entry for entry in entries(runs, "continued") if entry["reason"].startswith("interrupted")]
    assert interrupted
    runs.home.rename(runs.home.with_name("killed"))
    undisturbed.rename(runs.home)
    assert killed == decisions(runs)
    assert len(killed) > 3 * len(VALUES)


def kill_at_random(runs: Runs, rng: random.Random, most_of_a_trial: int) -> int:
    """Kill the sweeper, or the supervisor of a trial, so many times: how many of these processes were there to kill.

    The sweep is resumed after each kill of its sweeper. Ends early if the sweep does.
    """
    kills: Counter[str] = Counter()
    while sum(kills.values()) < KILLS and status(runs)["state"] != "finished":
        time.sleep(rng.uniform(*PAUSES_S))  # the instant is what is random, and no condition
        of_trials = [(run, pid) for run, pid in supervisors(runs) if kills[run] < most_of_a_trial]
        if of_trials and rng.random() < 0.5:
            run, pid = rng.choice(of_trials)
            kills[run] += kill(pid)
        elif kill(sweeper_pid(runs)):
            kills["sweeper"] += 1
            wait_for(lambda: status(runs)["state"] != "running")
            done = runs.call("sweep", "resume", "s", "-d")
            assert done.returncode == 0, done.stderr
    print(f"{kills.total()} kills: {kills['sweeper']} of the sweeper, the others of trials")
    return kills.total()


def decisions(runs: Runs) -> list[tuple[object, ...]]:
    """What the sweep decided and found, in order, and what it ended with."""
    kept = ("event", "trial", "params", "rung", "until_step", "value", "reason", "status", "exit_code", "seed")
    found = entries(runs, "asked", "promoted", "ended", "checked", "finished")
    return [tuple(entry.get(name) for name in kept) for entry in found]


def drawn(count: int) -> list[str]:
    """What the sampler proposes to a sweep with this seed."""
    (parameter,) = parse_parameters([PARAM[1]])
    return [parameter.sample(random.Random(f"0 {number}")) for number in range(count)]


def sweeper_pid(runs: Runs) -> int:
    """Of the process that took the sweep last."""
    return entries(runs, "began")[-1]["pid"]


def supervisors(runs: Runs) -> list[tuple[str, int]]:
    """The run and the pid of each session that has not ended."""
    found = []
    for path in runs.home.glob("runs/*/journal.jsonl"):
        lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        started = [line for line in lines if line["event"] == "session_started"]
        over = {line["session"] for line in lines if line["event"] == "session_ended"}
        found += [(path.parent.name, line["supervisor_pid"]) for line in started if line["session"] not in over]
    return found


def kill(pid: int) -> bool:
    """Whether there was such a process."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
