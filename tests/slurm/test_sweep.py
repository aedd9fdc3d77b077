"""A sweep whose trials are Slurm jobs: a promotion is another job of the same run."""

import json
import subprocess

from tests.cli.test_sweep import TRAIN, UNHURRIED, check_whole, entries, status
from tests.conftest import BACKPROP, wait_for
from tests.slurm.conftest import SlurmRuns

WORDS = (
    "sweep", "train.py", "-n", "s", "--goal", "max:score", "--sampler", "grid", "--param", "lr=0.1,0.3,0.5,0.9",
    "--eta", 2, "--max-rungs", 2, "-p", 2, *UNHURRIED, "--rung-steps", 40,
)  # fmt: skip
# all but the first of the grid stay after their third step while there is a file
HELD = TRAIN.replace(
    "        step += 1\n",
    '        while step == 3 and options["--lr"] != "0.1" and os.path.exists("hold"):\n'
    "            time.sleep(0.01)\n"
    "        step += 1\n",
)


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
    budget_s = 60 * WORDS[WORDS.index("--budget") + 1]
    assert sum(entry["timebox_s"] for entry in entries(runs, "asked", "promoted", "continued")) <= budget_s + 1e-6
    assert status(runs)["state"] == "finished"
    wait_for(lambda: not runs.jobs())


def test_a_stopped_sweep_cancels_its_jobs_and_goes_on(runs: SlurmRuns):
    """Also those that Slurm has not started."""
    runs.script(HELD)
    hold = runs.work / "hold"
    hold.touch()
    done = runs.call(*WORDS, "-d")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: len(entries(runs, "asked")) > 1)
    assert runs.call("sweep", "stop", "s").returncode == 0
    wait_for(lambda: not runs.jobs())
    assert status(runs)["state"] == "stopped"
    hold.unlink()
    done = runs.call("sweep", "resume", "s")
    assert done.returncode == 0, done.stderr
    check_whole(runs)
    wait_for(lambda: not runs.jobs())


def test_the_sweeper_is_a_job_that_is_requeued(runs: SlurmRuns):
    """Slurm ends it, as for a preemption, and starts it again: it stops its trials, and goes on with them."""
    runs.script(HELD)
    hold = runs.work / "hold"
    hold.touch()
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
    hold.unlink()
    wait_for(lambda: status(runs)["state"] == "finished", why_not=(runs.work / "sweeper.log").read_text)
    wait_for(lambda: not runs.jobs())
    check_whole(runs)
    found = json.loads(runs.call("list", "--json").stdout)
    assert job not in {session["job"] for run in found for session in run["sessions"]}
