"""What goes to Slurm with a run, what it refuses, many at once, and a home that several machines share."""

import json
import os
import sys
import sysconfig
from pathlib import Path

import pytest

import backprop
from tests.conftest import HANG_S, scaled, wait_for
from tests.slurm.conftest import SlurmRuns


def test_many_runs_at_once(runs: SlurmRuns):
    """More than the cluster can hold, submitted in the same second: all wait their turn, all are complete."""
    count = max(12, scaled(40))  # there are eight CPUs
    submitting = [runs.start("run", "--run-id", f"r{n}", "-d", "train.py", "--", 20, 0.0) for n in range(count)]
    assert [one.wait(HANG_S) for one in submitting] == [0] * count

    def statuses() -> set[str]:
        return {one["status"] for one in json.loads(runs.call("list", "--json").stdout)}

    wait_for(lambda: statuses() == {"completed"})
    documents = json.loads(runs.call("list", "--json").stdout)
    assert sorted(one["id"] for one in documents) == sorted(f"r{n}" for n in range(count))
    assert {one["last_step"] for one in documents} == {20}
    assert len({runs.job(f"r{n}") for n in range(count)}) == count
    runs.check_all({f"r{n}": ["completed"] for n in range(count)})


@pytest.mark.parametrize(
    ("word", "told"),
    [("--on=slurm:nowhere", "Invalid partition name"), ("--slurm-arg=--no-such-option", "no-such-option")],
)
def test_what_sbatch_does_not_take(runs: SlurmRuns, word: str, told: str):
    """Wrong usage, told in Slurm's words; neither a job nor a run is left."""
    done = runs.call("run", "--run-id", "r", word, "train.py")
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert not runs.rundir("r").exists()
    assert json.loads(runs.call("list", "--json").stdout) == []
    assert runs.cluster.line() == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--cpus", "64"], "configuration not available"),
        (["--nodes", "9", "-d"], "configuration not available"),
        (["--gpus", "8", "-d"], "BadConstraints"),
        (["--on", "slurm:short"], "PartitionTimeLimit"),
    ],
    ids=["cpus", "nodes, detached", "gpus, detached", "time"],
)
def test_what_never_fits(runs: SlurmRuns, words: list[str], told: str):
    """What waiting does not change is refused within moments, with Slurm's reason, and stands in no line."""
    done = runs.call("run", "--run-id", "r", *words, "train.py")
    assert done.returncode == 75, done.stderr
    assert told in done.stderr
    document = runs.check("r")
    assert document["status"] == "refused"
    assert told in document["reason"]


def test_what_slurm_decides(runs: SlurmRuns):
    """Who waits, and how many run, is not ours to say there: whoever asks for it is told so."""
    words = ["--no-wait", "--max-parallel", 1, "train.py", "--", 3, 0.0]
    done = runs.call("run", "--run-id", "r", *words)
    assert done.returncode == 0, done.stderr
    assert "--wait and --no-wait have no effect on Slurm" in done.stderr
    assert "--max-parallel has no effect on Slurm" in done.stderr


def test_without_slurm(runs: SlurmRuns):
    """A machine that has no Slurm says so."""
    done = runs.call("run", "train.py", PATH="/nonexistent")
    assert done.returncode == 2
    assert "sbatch is not on PATH" in done.stderr
    assert list(runs.home.glob("runs/*")) == []


def test_the_environment_of_a_job(runs: SlurmRuns):
    """What a trainer needs goes with it; secrets and everything else stay behind."""
    runs.script("print(json.dumps({'event': 'environment', **os.environ}))", "tell.py")
    runs.environment |= {"FOO_TOKEN": "s3cret", "HF_TOKEN": "s3cret", "AWS_SECRET_ACCESS_KEY": "s3cret", "FOO": "bar"}
    runs.environment |= {"OMP_NUM_THREADS": "1,\n2 'x'", "VIRTUAL_ENV": "/some/where", "BACKPROP_GRACE_SECONDS": "7"}
    done = runs.call("run", "--run-id", "r", "tell.py")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for name in ("PATH", "HOME", "VIRTUAL_ENV", "OMP_NUM_THREADS", "BACKPROP_GRACE_SECONDS"):
        assert told[name] == runs.environment[name]
    assert told["SLURM_JOB_ID"] == runs.job("r")
    assert told["PWD"] == str(runs.work)
    assert not {"FOO_TOKEN", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "FOO"} & told.keys()
    for path in runs.rundir("r").rglob("*"):
        assert path.is_dir() or b"s3cret" not in path.read_bytes(), path


def test_a_node_that_sees_nothing_of_us(runs: SlurmRuns):
    """A job that cannot even begin says nothing itself: whoever looks is told what is likely to be wrong."""
    python = runs.work / "python"
    python.symlink_to(os.path.realpath(sys.executable))
    runs.environment["PYTHONPATH"] = f"{Path(backprop.__file__).parents[1]}:{sysconfig.get_path('purelib')}"
    words = ["-m", "backprop", "run", "--run-id", "r", "-d", "--slurm-arg=--begin=now+1hour", "train.py"]
    assert runs.start_program([str(python), *words]).wait(HANG_S) == 0
    python.unlink()
    assert runs.cluster.call("scontrol", "update", f"JobId={runs.job('r')}", "StartTime=now").returncode == 0
    document = runs.wait_for_status("r", "interrupted", session=0)
    assert f"can its node see {runs.rundir('r')} and Backprop's own Python?" in document["reason"]


def test_an_array_that_never_fits(runs: SlurmRuns):
    """It is refused with all its tasks, within moments, and stands in no line."""
    done = runs.call("run", "--vary", "lr=1,2,3", "--gpus", 8, "train.py")
    assert done.returncode == 75, done.stderr
    documents = json.loads(runs.call("list", "--json").stdout)
    assert [document["status"] for document in documents] == ["refused"] * 3
    assert all("BadConstraints" in document["reason"] for document in documents)
    assert runs.cluster.line() == []


def test_what_comes_to_never_fit(runs: SlurmRuns):
    """Whoever looks refuses a run that waited for what could come, and then for what cannot."""
    runs.submit("r", "--slurm-arg=--begin=now+1hour")
    assert runs.document("r")["status"] == "queued"
    change = ["scontrol", "update", f"JobId={runs.job('r')}", "Partition=short", "StartTime=now"]
    assert runs.cluster.call(*change).returncode == 0
    wait_for(lambda: runs.document("r")["status"] == "refused")
    assert "PartitionTimeLimit" in runs.document("r")["reason"]
    assert runs.cluster.line() == []


def test_a_run_of_an_array_is_removed(runs: SlurmRuns):
    """Also the first, in whose folder the array's script lies: the others begin and write their logs."""
    words = ["--vary", "lr=1,2,3", "--slurm-arg=--begin=now+1hour", "-m", 1]
    done = runs.call("run", *words, "train.py", "--", 5, 0.0)
    assert done.returncode == 0, done.stderr
    first, *others = done.stdout.split()
    assert runs.call("stop", first).returncode == 0
    assert runs.call("rm", "--yes", first).returncode == 0
    array = runs.job(others[0]).partition("_")[0]
    for run_id in others:
        assert runs.cluster.call("scontrol", "update", f"JobId={runs.job(run_id)}", "StartTime=now").returncode == 0
    waited = runs.call("wait", *others)
    assert waited.returncode == 0, waited.stderr
    for task, run_id in enumerate(others, start=1):
        assert "completed" in (runs.rundir(run_id) / f"slurm-{array}_{task}.log").read_text()
    assert not runs.rundir(first).exists()


@pytest.mark.parametrize("more", ["", "%%\\\\j"], ids=["plain", "backslashes"])
def test_hostile_names(runs: SlurmRuns, more: str):
    """A folder, a script and arguments that shells and Slurm would misread are what they are."""
    strange = f"a b'c\"d%j$HOME;#é{more}"
    runs.home = runs.home.parent / strange / "home"
    runs.work = runs.home.parent / "work"
    runs.work.mkdir(parents=True)
    runs.environment["BACKPROP_HOME"] = str(runs.home)
    runs.script("print(json.dumps({'event': 'told', 'words': sys.argv[1:]}))", f"{strange}.py")
    words = ["$(touch x)", "`id`", "new\nline", "--hold", "%j", ""]
    done = runs.call("run", "--run-id", "r", "-n", "$(touch x) 'n'", f"{strange}.py", "--", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["words"] == words
    runs.check("r", "completed")
    assert runs.rundir("r").joinpath(f"slurm-{runs.job('r')}.log").exists()


def test_two_machines_share_a_home(runs: SlurmRuns):
    """Each has an index of its own; what one does with a run, the other sees."""
    on_a, on_b = {"BACKPROP_MACHINE": "a"}, {"BACKPROP_MACHINE": "b"}

    def seen(machine: dict[str, str], run_id: str) -> tuple[str, int]:
        listed = runs.call("list", "--json", **machine)
        assert listed.returncode == 0, listed.stderr
        found = {one["id"]: (one["status"], len(one["sessions"])) for one in json.loads(listed.stdout)}
        return found.get(run_id, ("unknown", 0))

    assert runs.call("run", "--run-id", "early", "train.py", "--", 10, 0.0, **on_a).returncode == 0
    assert seen(on_b, "early") == ("completed", 1)
    started = runs.call("run", "--run-id", "r", "-d", "train.py", "--", 10**9, 0.05, **on_a)
    assert started.returncode == 0, started.stderr
    runs.wait_for_steps("r", 5)
    assert seen(on_a, "r") == seen(on_b, "r") == ("running", 1)
    assert runs.call("stop", "r", **on_b).returncode == 0
    assert seen(on_a, "r") == seen(on_b, "r") == ("stopped", 1)
    assert runs.call("resume", "r", "-d", **on_b).returncode == 0
    runs.wait_for_steps("r", 5, session=2)
    assert seen(on_a, "r") == ("running", 2)
    assert runs.call("stop", "r", **on_a).returncode == 0
    assert seen(on_a, "r") == seen(on_b, "r") == ("stopped", 2)
    assert {path.name for path in runs.home.joinpath("machines").iterdir()} == {"a", "b"}
    assert not (runs.home / "index.db").exists()
    assert all((runs.home / "machines" / name / "index.db").exists() for name in "ab")
    assert os.listdir(runs.home / "machines" / "a" / "unsettled") == []
    wait_for(lambda: not runs.jobs())
