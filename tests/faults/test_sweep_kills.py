"""A sweep whose sweeper and trials are killed at random instants: nothing is lost, doubled, or left behind."""

import json
import os
import random
import signal
import time
from contextlib import suppress

from backprop.lifecycle.sweep.space import parse_parameters
from tests.cli.test_sweep import OPTIONS, PARAM, SECOND, TRAIN, check_whole, entries, status
from tests.conftest import Runs, scaled, wait_for

PAUSES_S = (0.02, 1.2)  # between two kills


def test_random_kills_lose_and_double_nothing(runs: Runs):
    """Each trial is one run, each rung ends once, and proposals are those of a sweep that nobody disturbs."""
    runs.script(TRAIN)
    rng = random.Random(7)
    kills = scaled(100)
    words = ("sweep", "train.py", "-n", "s", *OPTIONS, *PARAM, "--budget", (5 + 1.2 * kills) * SECOND, "-d")
    assert runs.call(*words).returncode == 0
    for _ in range(kills):
        time.sleep(rng.uniform(*PAUSES_S))  # the instant is what is random, and no condition
        if rng.random() < 0.7:
            kill(sweeper_pid(runs))
            wait_for(lambda: status(runs)["state"] != "running")
            done = runs.call("sweep", "resume", "s", "-d")
            assert done.returncode == 0, done.stderr
        else:
            kill(supervisor_pid(runs, rng))
        if status(runs)["state"] == "finished":
            break
    wait_for(lambda: status(runs)["state"] == "finished")
    check_whole(runs)
    state = status(runs)
    assert (state["active"], state["exit_code"]) == (0, 0)
    assert not runs.tree()
    asked = [entry["params"]["lr"] for entry in entries(runs, "asked")]
    assert asked == drawn(len(asked))


# what it has come to at a step depends on --lr alone, and a session ends at a step: the clock decides nothing
GROWING = TRAIN.replace("score = float(options", "score = step / 1000 * float(options")
VALUES = [f"{(7 * number % 50 + 1) / 50:g}" for number in range(scaled(40))]  # enough for the kills
BY_STEPS = (
    "--goal", "max:score", "--sampler", "grid", "--param", f"lr={','.join(VALUES)}", "--rung-steps", 10,
    "--rung", 2, "--eta", 2, "--max-rungs", 3, "-p", 1, "--budget", 200,
)  # fmt: skip


def test_a_sweep_that_is_killed_ends_as_one_that_is_not(runs: Runs):
    """The same trials, the same promotions for the same reasons, the same values, the same best, given the same seed."""
    runs.script(GROWING)
    done = runs.call("sweep", "train.py", "-n", "quiet", *BY_STEPS)
    assert done.returncode == 0, done.stderr
    undisturbed = runs.home.rename(runs.home.with_name("undisturbed"))
    rng = random.Random(11)
    assert runs.call("sweep", "train.py", "-n", "s", *BY_STEPS, "-d").returncode == 0
    for _ in range(scaled(100)):
        time.sleep(rng.uniform(*PAUSES_S))  # the instant is what is random, and no condition
        if status(runs)["state"] == "finished":
            break
        kill(sweeper_pid(runs))
        wait_for(lambda: status(runs)["state"] != "running")
        done = runs.call("sweep", "resume", "s", "-d")
        assert done.returncode == 0, done.stderr
    wait_for(lambda: status(runs)["state"] == "finished")
    check_whole(runs)
    killed = decisions(runs)
    runs.home.rename(runs.home.with_name("killed"))
    undisturbed.rename(runs.home)
    assert killed == decisions(runs)
    assert len(killed) > 3 * len(VALUES)


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


def supervisor_pid(runs: Runs, rng: random.Random) -> int | None:
    """Of one of the sessions that have not ended, if there is any."""
    found = []
    for path in runs.home.glob("runs/*/journal.jsonl"):
        lines = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        started = [line for line in lines if line["event"] == "session_started"]
        over = {line["session"] for line in lines if line["event"] == "session_ended"}
        found += [line["supervisor_pid"] for line in started if line["session"] not in over]
    return rng.choice(found) if found else None


def kill(pid: int | None) -> None:
    with suppress(ProcessLookupError):
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
