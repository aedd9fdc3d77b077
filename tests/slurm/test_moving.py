"""A resume may ask for something else than before, and take a run from Slurm to this machine and back."""

import json

from tests.conftest import wait_for
from tests.slurm.conftest import SlurmRuns


def asked(runs: SlurmRuns, run_id: str) -> dict[str, str]:
    """What Slurm was asked for, by the job's own word."""
    told = runs.cluster.call("scontrol", "--oneliner", "show", "job", runs.job(run_id)).stdout
    return dict(word.split("=", 1) for word in told.split() if "=" in word)


def test_a_resume_asks_for_something_else(runs: SlurmRuns):
    """Another partition, more CPUs and nodes, an option of sbatch: they last until something else is asked."""
    runs.submit("r", "--until-step", 5, "--cpus", 1, "--slurm-arg=--comment=first")
    runs.wait_for_status("r", "timeboxed")
    words = ["--on", "slurm:high", "--cpus", 2, "--nodes", 2, "--slurm-arg=--comment=second", "--until-step", 1]
    resumed = runs.call("resume", "r", *words)
    assert resumed.returncode == 0, resumed.stderr
    told = asked(runs, "r")
    assert (told["Partition"], told["NumNodes"], told["CPUs/Task"]) == ("high", "2", "2")
    assert told["Comment"] == "second"
    assert runs.document("r")["sessions"][1]["resumed_from"]
    assert runs.call("resume", "r", "--nodes", 1, "--until-step", 1).returncode == 0
    told = asked(runs, "r")
    assert (told["Partition"], told["NumNodes"], told["CPUs/Task"]) == ("high", "1", "2")
    assert told["Comment"] == "second"
    assert runs.document("r")["status"] == "timeboxed"


def test_a_request_that_was_refused_is_not_repeated(runs: SlurmRuns):
    """The next resume asks for what the run had when it trained last."""
    runs.submit("r", "--until-step", 5, "--cpus", 2)
    runs.wait_for_status("r", "timeboxed")
    refused = runs.call("resume", "r", "--nodes", 5, "--cpus", 3)
    assert refused.returncode == 75, refused.stderr
    resumed = runs.call("resume", "r", "--until-step", 1)
    assert resumed.returncode == 0, resumed.stderr
    told = asked(runs, "r")
    assert (told["NumNodes"], told["CPUs/Task"]) == ("1", "2")
    runs.check("r", "timeboxed", "timeboxed")


def test_from_slurm_to_here_and_back(runs: SlurmRuns):
    """One record, one count, whoever executes a session; here it needs no Slurm, and says so of what only Slurm gives."""
    runs.submit("r", "--until-step", 5, pause_s=0.02)
    runs.wait_for_status("r", "timeboxed")
    wait_for(lambda: not runs.jobs())
    refused = runs.call("resume", "r", "--on", "here", "--cpus", 2)
    assert refused.returncode == 2
    assert "--cpus needs --on slurm" in refused.stderr
    nowhere = {"SLURM_CONF": "/nowhere/slurm.conf"}
    here = runs.call("resume", "r", "--on", "here", "--until-step", 1, **nowhere)
    assert here.returncode == 0, here.stderr
    document = runs.document("r")
    assert document["job"] is None
    stays = runs.call("resume", "r", "-d", "-m", 5, **nowhere)
    assert stays.returncode == 0, stays.stderr
    runs.wait_for_steps("r", 5, session=3)
    assert runs.call("stop", "r", **nowhere).returncode == 0
    back = runs.call("resume", "r", "--on", "slurm", "--until-step", 1)
    assert back.returncode == 0, back.stderr
    document = runs.check("r", "timeboxed", "timeboxed", "stopped", "timeboxed")
    assert document["job"] == runs.job("r")
    starts = [json.loads(runs.output("r", number).splitlines()[0])["from"] for number in (1, 2, 3, 4)]
    assert 0 == starts[0] < starts[1] < starts[2] < starts[3]


def test_a_run_of_this_machine_goes_to_slurm(runs: SlurmRuns):
    """A run that began here, or on a laptop that shares the folder, goes on in a job."""
    begun = runs.call("run", "--on", "here", "--run-id", "r", "--until-step", 5, "train.py", "--", 10**9, 0.02)
    assert begun.returncode == 0, begun.stderr
    moved = runs.call("resume", "r", "--on", "slurm:low", "--cpus", 2, "--until-step", 1)
    assert moved.returncode == 0, moved.stderr
    assert (asked(runs, "r")["Partition"], asked(runs, "r")["CPUs/Task"]) == ("low", "2")
    document = runs.check("r", "timeboxed", "timeboxed")
    assert document["sessions"][1]["resumed_from"]
