"""A submission that goes wrong half way: Slurm's programs are scripts here, because the real ones rarely do."""

import json
import os
from pathlib import Path

import msgspec

from backprop.records import Status
from backprop.store.journal import file as journal
from backprop.store.journal.entries import Submitted
from tests.conftest import Runs
from tests.fakes.slurm import began, cancelled, ended, now, put, tell


def test_an_array_that_cannot_be_released(runs: Runs, programs: Path):
    """No held job stays, and every run says why it was not started."""
    done = runs.call("run", "--vary", "x=1,2,3", "train.py")
    assert done.returncode == 75, done.stderr
    assert "no controller" in done.stderr
    assert cancelled(programs) == ["7"]
    documents = json.loads(runs.call("list", "--json").stdout)
    assert [document["status"] for document in documents] == ["refused"] * 3
    assert all("no controller" in document["reason"] for document in documents)


def test_an_array_that_can_neither_be_released_nor_cancelled(runs: Runs, programs: Path):
    """All the same every run is refused, and the user hears which job is left."""
    put(programs, "scancel", "exit 1")
    done = runs.call("run", "--vary", "x=1,2", "train.py")
    assert done.returncode == 75, done.stderr
    assert "scancel 7" in done.stderr
    documents = json.loads(runs.call("list", "--json").stdout)
    assert [document["status"] for document in documents] == ["refused"] * 2


def test_an_sbatch_that_fails_may_have_submitted(runs: Runs, programs: Path):
    """Whatever has the run's name and waits is cancelled, and no run is left."""
    put(programs, "sbatch", "exit 1")
    done = runs.call("run", "--run-id", "r", "train.py")
    assert done.returncode == 2, done.stderr
    (words,) = cancelled(programs)
    assert {"--state=PENDING", "--name=backprop-r"} <= set(words.split())
    assert not runs.rundir("r").exists()


def test_a_job_script_that_cannot_be_written(runs: Runs, programs: Path):
    """It is an error in words, and the run can be resumed later."""
    runs.call("run", "--run-id", "r", "train.py")
    script = runs.rundir("r") / "job.sh"
    script.unlink()
    script.mkdir()
    done = runs.call("resume", "r")
    assert done.returncode == 2, done.stderr
    assert "cannot write to the home folder" in done.stderr
    assert "Traceback" not in done.stderr
    assert (programs / "cancelled").exists()


def test_what_a_file_says_of_slurm_is_nothing_to_a_run_here(runs: Runs, programs: Path):
    """Only words of the command line are refused."""
    (programs / "sbatch").unlink()
    (runs.work / "backprop.toml").write_text('on = "slurm"\ncpus = 2\nnodes = 2\nslurmArgs = ["--account=ml"]\n')
    assert runs.call("run", "--on", "here", "train.py").returncode == 0
    done = runs.call("run", "--on", "here", "--cpus", "2", "train.py")
    assert done.returncode == 2
    assert "--cpus needs --on slurm" in done.stderr


def test_a_shell_inside_a_job(runs: Runs, programs: Path):
    """A run here is on this machine, whatever Slurm calls the node."""
    assert (programs / "sbatch").exists()
    done = runs.call("run", "--on", "here", "--run-id", "r", "train.py", SLURM_JOB_ID="5", SLURMD_NODENAME="node17")
    assert done.returncode == 0, done.stderr
    (started,) = [entry for entry in runs.journal("r") if entry["event"] == "session_started"]
    assert started["host"] == os.uname().nodename


def test_a_run_in_slurms_hands_gets_another_name(runs: Runs, programs: Path):
    """While its job waits and when it has ended it is in the record at once; while it trains the job is asked."""
    put(programs, "scontrol", "exit 0")
    put(programs, "squeue", "echo '7|PENDING||AT|None|backprop-r'")
    submitted = runs.call("run", "--run-id", "r", "-d", "train.py")
    assert submitted.returncode == 0, submitted.stderr
    assert runs.call("rename", "r", "waits").returncode == 0
    assert runs.document("waits")["status"] == "queued"
    put(programs, "squeue", "echo '7|RUNNING||AT|None|backprop-r'")
    tell(runs, began(1))
    assert runs.call("rename", "r", "trains").returncode == 0
    assert [json.loads(path.read_text())["name"] for path in (runs.rundir("r") / "asked").iterdir()] == ["trains"]
    tell(runs, ended(1, Status.COMPLETED))
    assert runs.call("rename", "r", "ended").returncode == 0
    assert runs.document("ended")["status"] == "completed"


def test_a_job_that_fails_for_a_moment_while_it_is_put_back(runs: Runs, programs: Path):
    """Slurm calls it so before it waits: it is not out of the line before it was taken from there."""
    put(programs, "scontrol", "exit 0")
    put(
        programs,
        "squeue",
        f'read state < {programs}/states; echo "7|$state||None|backprop-r"\n'
        f"test $(wc -l < {programs}/states) = 1 || sed -i 1d {programs}/states",
    )
    states = programs / "states"
    states.write_text("PENDING\n")
    submitted = runs.call("run", "--run-id", "r", "-d", "--sessions", 2, "train.py")
    assert submitted.returncode == 0, submitted.stderr
    (told,) = [entry for entry in journal.read(runs.rundir("r") / "journal.jsonl")[0] if isinstance(entry, Submitted)]
    tell(runs, began(1), ended(1, Status.TIMEBOXED), msgspec.structs.replace(told, at=now(), session=2, is_again=True))
    states.write_text("FAILED\nFAILED\nPENDING\nCANCELLED\n")
    stopped = runs.call("stop", "r")
    assert stopped.returncode == 0, stopped.stderr
    assert states.read_text() == "CANCELLED\n"
    assert runs.document("r")["status"] == "timeboxed"
