"""A sweep whose trials are Slurm jobs: a promotion is another job of the same run."""

import json

from tests.cli.test_sweep import TRAIN, check_whole, entries, status
from tests.slurm.conftest import SlurmRuns, wait_for

SECOND = 1 / 60  # minutes
WORDS = (
    "sweep", "train.py", "-n", "s", "--goal", "max:score", "--sampler", "random", "--param", "lr=0.1..0.9",
    "--rung", 3 * SECOND, "--eta", 2, "--max-rungs", 2, "-p", 2, "--budget", 20 * SECOND,
)  # fmt: skip


def test_trials_are_jobs(runs: SlurmRuns):
    """The same record as on this machine, and time in Slurm's queue is no training."""
    runs.script(TRAIN)
    done = runs.call(*WORDS)
    assert done.returncode == 0, done.stderr
    check_whole(runs)
    found = json.loads(runs.call("list", "--json").stdout)
    assert all(session["job"] for run in found for session in run["sessions"])
    promoted = entries(runs, "promoted")
    assert promoted
    sessions = {session["request_id"]: session for run in found for session in run["sessions"]}
    assert all(sessions[entry["request_id"]]["resumed_from"] for entry in promoted)
    assert sum(entry["timebox_s"] for entry in entries(runs, "asked", "promoted", "continued")) <= 20 + 1e-6
    assert status(runs)["state"] == "finished"
    wait_for(lambda: not runs.jobs())


def test_a_stopped_sweep_cancels_its_jobs_and_goes_on(runs: SlurmRuns):
    """Also those that Slurm has not started."""
    runs.script(TRAIN)
    done = runs.call(*WORDS, "-d")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: len(entries(runs, "asked")) > 1)
    assert runs.call("sweep", "stop", "s").returncode == 0
    wait_for(lambda: not runs.jobs())
    assert status(runs)["state"] == "stopped"
    done = runs.call("sweep", "resume", "s")
    assert done.returncode == 0, done.stderr
    check_whole(runs)
    wait_for(lambda: not runs.jobs())
