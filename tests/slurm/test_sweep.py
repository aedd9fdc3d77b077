"""A sweep whose trials are Slurm jobs: a promotion is another job of the same run."""

import json
import subprocess

from tests.cli.test_sweep import TRAIN, check_whole, entries, status
from tests.conftest import BACKPROP, wait_for
from tests.slurm.conftest import LONG_S, SlurmRuns

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


def test_the_sweeper_is_a_job_that_is_requeued(runs: SlurmRuns):
    """Slurm ends it, as for a preemption, and starts it again: it stops its trials, and goes on with them."""
    runs.script(TRAIN)
    words = " ".join(str(word) for word in WORDS)
    (runs.work / "sweep.sh").write_text(
        "#!/bin/bash\n"
        f"{BACKPROP} sweep status s > /dev/null 2>&1 && exec {BACKPROP} sweep resume s\n"
        f"exec {BACKPROP} {words}\n"
    )
    done = subprocess.run(
        ["sbatch", "--parsable", "--requeue", "--cpus-per-task=1", "--mem=500", "--output=sweeper.log", "sweep.sh"],
        cwd=runs.work, env=runs.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    wait_for(lambda: list(runs.home.glob("sweeps/*/journal.jsonl")) and len(entries(runs, "made")) > 1)
    requeued = runs.cluster.call("scontrol", "requeue", job)
    assert requeued.returncode == 0, requeued.stderr

    def has_begun_again() -> bool:
        runs.cluster.call("scontrol", "update", f"JobId={job}", "StartTime=now")  # else two minutes later
        return len(entries(runs, "began")) > 1

    wait_for(has_begun_again, why_not=lambda: "\n".join(runs.cluster.line()))
    wait_for(lambda: status(runs)["state"] == "finished", LONG_S, (runs.work / "sweeper.log").read_text)
    wait_for(lambda: not runs.jobs())
    check_whole(runs)
    found = json.loads(runs.call("list", "--json").stdout)
    assert job not in {session["job"] for run in found for session in run["sessions"]}
