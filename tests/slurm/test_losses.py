"""What a cluster does to jobs: it preempts them, loses them, forgets them, and is away. Nothing is lost by it."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cli.test_sweep import entries
from tests.cli.test_sweep import status as sweep_status
from tests.conftest import HANG_S, wait_for
from tests.slurm.cluster import NODES, Cluster
from tests.slurm.conftest import LONG_S, SlurmRuns, first_port, runs_on
from tests.slurm.test_sweep import HELD
from tests.slurm.test_sweep import WORDS as SWEEP


def test_preemption(runs: SlurmRuns):
    """A job of higher priority takes its node: it saves, waits in line, and goes on there in the rest of its timebox."""
    front = runs.start(
        "run", "--run-id", "r", "--on", "slurm:low", "--slurm-arg=--exclusive", "--nodes", 1, "-m", 60,
        "--slurm-arg=--nodelist=node1", "train.py", "--", 10**9, 0.02, stderr=subprocess.PIPE,
    )  # fmt: skip
    runs.wait_for_steps("r", 30)
    urgent = runs.cluster.call(
        "sbatch", "--parsable", "--partition=high", "--exclusive", "--nodelist=node1", "--output=/dev/null",
        "--wrap=sleep 3",
    )  # fmt: skip
    assert urgent.returncode == 0, urgent.stderr
    runs.wait_for_steps("r", 30, session=2)
    runs.let_them_complete()
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode == 0, told.decode()
    document = runs.check("r", "stopped", "completed")
    first, second = document["sessions"]
    left_s = runs.told("r", "session_started")[1]["timebox_s"]
    assert left_s == pytest.approx(3600 - first["elapsed_s"], abs=0.01)
    started = json.loads(runs.output("r", 2).splitlines()[0])
    stopped_at = max(one["step"] for one in document["checkpoints"] if one["session"] == 1)
    assert started["from"] == stopped_at >= 30
    assert second["resumed_from"].endswith(f"-{stopped_at}.json")
    assert document["last_step"] > stopped_at
    assert {entry["job"] for entry in runs.told("r", "submitted")} == {runs.job("r")}


def test_scancel(runs: SlurmRuns):
    """`scancel` by hand ends it for good: it is stopped, says so, is not put back into the line, and can be resumed."""
    runs.submit("r")
    runs.wait_for_steps("r", 25)
    assert runs.cluster.call("scancel", runs.job("r")).returncode == 0
    runs.wait_for_status("r", "stopped")
    document = runs.check("r", "stopped")
    assert "SIGTERM" in document["reason"]
    resumed = runs.call("resume", "r", "--until-step", 1)
    assert resumed.returncode == 0, resumed.stderr
    runs.check("r", "stopped", "timeboxed")


def test_slurms_warning(runs: SlurmRuns):
    """SIGUSR1 reaches the supervisor, which saves, and puts the job back into the line for the rest of the timebox."""
    front = runs.start("run", "--run-id", "r", "train.py", "--", 10**9, 0.02, stderr=subprocess.PIPE)
    runs.wait_for_steps("r", 10)
    assert runs.cluster.call("scancel", "--batch", "--signal=USR1", runs.job("r")).returncode == 0
    runs.wait_for_steps("r", 10, session=2)
    runs.let_them_complete()
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode == 0, told.decode()
    document = runs.check("r", "stopped", "completed")
    saved = [one["step"] for one in document["checkpoints"] if one["session"] == 1]
    assert json.loads(runs.output("r", 2).splitlines()[0])["from"] == max(saved) >= 10


def test_a_killed_supervisor(runs: SlurmRuns):
    """SIGKILL of the supervisor in the job: whoever watches it is told that it is interrupted, and can be resumed."""
    front = runs.start("run", "--run-id", "r", "train.py", "--", 10**9, 0.05, stderr=subprocess.PIPE)
    runs.wait_for_steps("r", 25)
    (supervisor,) = runs.supervisors()
    psutil.Process(supervisor).kill()
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode == 137
    assert "run r interrupted after" in told.decode()
    document = runs.check("r", "interrupted")
    assert runs.job("r") in document["reason"]
    resumed = runs.call("resume", "r", "--until-step", 1)
    assert resumed.returncode == 0, resumed.stderr
    document = runs.check("r", "interrupted", "timeboxed")
    assert document["sessions"][1]["resumed_from"]


def test_a_nodes_daemon_killed(runs: SlurmRuns):
    """Without its slurmd a node's job goes on: the run does not notice, and ends as it should."""
    runs.submit("r", "--slurm-arg=--nodelist=node1")
    runs.wait_for_steps("r", 10)
    runs.cluster.kill_node("node1", with_steps=False)
    runs.wait_for_steps("r", runs.output("r").count('"step"') + 20)
    assert runs.document("r")["status"] == "running"
    runs.let_them_complete()
    runs.cluster.start_node("node1")
    runs.wait_for_status("r", "completed")
    runs.check("r", "completed")


def test_a_lost_node(lossy: SlurmRuns):
    """Node, supervisor and trainer at once: Slurm puts the job back, and it goes on elsewhere from its checkpoint."""
    runs = lossy
    front = runs.start("run", "--run-id", "r", "train.py", "--", 10**9, 0.05)
    runs.wait_for_steps("r", 45)
    node = json.loads(runs.output("r").splitlines()[0])["node"]
    runs.cluster.kill_node(node, with_steps=True)
    runs.cluster.give_up(node)
    runs.wait_for_steps("r", 5, session=2)
    runs.let_them_complete()
    assert front.wait(HANG_S) == 0
    document = runs.check("r", "interrupted", "completed")
    assert "lost" in document["sessions"][0]["reason"]
    trained_s = document["sessions"][0]["elapsed_s"]
    assert trained_s > 1  # more than forty steps of 0.05 s each
    assert runs.told("r", "session_started")[1]["timebox_s"] == pytest.approx(600 - trained_s, abs=0.01)
    started = json.loads(runs.output("r", 2).splitlines()[0])
    saved = [one["step"] for one in document["checkpoints"] if one["session"] == 1]
    assert started["from"] == max(saved) >= 40
    assert max(saved) % 20 == 0  # nobody lived to save once more
    assert started["node"] == next(other for other in NODES if other != node)


def test_a_forgotten_job(lossy: SlurmRuns):
    """No last word in the journal, and Slurm knows nothing of it any more: interrupted, and resumable.

    Not at once: a controller that was killed forgets jobs that live, and those show it by their journal's time.
    """
    runs = lossy
    runs.submit("r")
    runs.wait_for_steps("r", 25)
    (supervisor,) = runs.supervisors()
    psutil.Process(supervisor).kill()
    job = runs.job("r")
    wait_for(lambda: runs.cluster.call("scontrol", "show", "job", job).returncode)
    assert runs.document("r")["status"] == "running"
    then = time.time() - LONG_S
    os.utime(runs.rundir("r") / "journal.jsonl", (then, then))
    runs.wait_for_status("r", "interrupted")
    document = runs.check("r", "interrupted")
    assert f"does not know its job {job}" in document["reason"]
    resumed = runs.call("resume", "r", "--until-step", 1)
    assert resumed.returncode == 0, resumed.stderr
    runs.check("r", "interrupted", "timeboxed")


def test_the_controller_restarts(runs: SlurmRuns):
    """A run trains on while nobody governs the cluster; `list` answers and says so; its end is known afterwards."""
    front = runs.start("run", "--run-id", "r", "train.py", "--", 10**9, 0.05, stderr=subprocess.PIPE)
    runs.wait_for_steps("r", 5)
    runs.cluster.stop_controller()
    listed = runs.call("list")
    assert listed.returncode == 0, listed.stderr
    assert "running" in listed.stdout
    assert "squeue" in listed.stderr
    runs.wait_for_steps("r", runs.output("r").count('"step"') + 20)
    runs.cluster.start_controller()
    assert front.poll() is None
    assert runs.call("stop", "r").returncode == 0
    assert front.wait(HANG_S) == 0
    runs.check("r", "stopped")


def test_a_stop_without_a_controller(runs: SlurmRuns):
    """`stop` goes by the files: it needs nobody to pass it on."""
    runs.submit("r")
    runs.wait_for_steps("r", 5)
    runs.cluster.stop_controller()
    stopped = runs.call("stop", "r")
    assert stopped.returncode == 0, stopped.stderr
    assert runs.document("r")["status"] == "stopped"
    runs.cluster.start_controller()
    runs.check("r", "stopped")


def test_a_machine_that_cannot_ask_slurm(runs: SlurmRuns):
    """With a broken configuration `list` and `status` answer, with a note, and nothing is filed as interrupted."""
    runs.submit("r")
    runs.wait_for_steps("r", 5)
    for command in ("list", "status"):
        done = runs.call(command, SLURM_CONF="/nowhere/slurm.conf")
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("Its runs are shown in their last recorded state.") == 1
    assert "running" in runs.call("list", SLURM_CONF="/nowhere/slurm.conf").stdout
    assert not runs.told("r", "session_ended")
    assert runs.call("stop", "r").returncode == 0
    runs.check("r", "stopped")


@pytest.fixture(scope="module")
def cluster_that_gives_up() -> Iterator[Cluster]:
    """One that forgets jobs at once."""
    made = Cluster(first_port=first_port(1), min_job_age_s=5, kill_wait_s=3)
    yield made
    made.stop()


@pytest.fixture
def lossy(tmp_path: Path, cluster_that_gives_up: Cluster) -> Iterator[SlurmRuns]:
    """Runs on it."""
    yield from runs_on(cluster_that_gives_up, tmp_path)


def test_a_stop_of_a_lost_run(lossy: SlurmRuns):
    """Its node is gone and Slurm has put it back, while its journal still calls it running: it leaves the line."""
    runs = lossy
    begin(runs)
    runs.cluster.give_up(lose(runs))
    wait_for(lambda: " PENDING " in "".join(runs.jobs()))
    stopped = runs.call("stop", "r")
    assert stopped.returncode == 0, stopped.stderr
    document = runs.check("r", "interrupted")
    assert "`backprop stop`" in document["reason"]
    assert not list(runs.rundir("r").glob("asked/*"))


def test_a_stop_that_nobody_heard(lossy: SlurmRuns):
    """Asked before Slurm noticed the loss: the job that it puts back hears of it, and does not go on."""
    runs = lossy
    begin(runs)
    runs.cluster.stop_controller()  # so that nobody can notice
    node = lose(runs)
    stopping = runs.start("stop", "r")
    wait_for(lambda: list(runs.rundir("r").glob("asked/[!.]*")))
    stopping.send_signal(signal.SIGKILL)
    stopping.wait()
    runs.cluster.start_controller()
    runs.cluster.give_up(node)
    runs.hurry("r")
    wait_for(lambda: not runs.jobs())  # it files the loss, and then hears
    document = runs.check("r", "interrupted")
    assert "`backprop stop`" in document["reason"]


def begin(runs: SlurmRuns) -> None:
    """Run r."""
    runs.submit("r")
    runs.wait_for_steps("r", 25)


def lose(runs: SlurmRuns) -> str:
    """The node that run r is on, with all that runs there."""
    node = json.loads(runs.output("r").splitlines()[0])["node"]
    runs.cluster.kill_node(node, with_steps=True)
    wait_for(lambda: not runs.supervisors())
    return node


def test_a_sweep_with_a_lost_node(lossy: SlurmRuns):
    """The trial that was on it goes on elsewhere in the rest of its rung, and the sweep comes to its end."""
    runs = lossy
    runs.script(HELD)
    hold = runs.work / "hold"
    hold.touch()
    done = runs.call(*SWEEP, "-d")
    assert done.returncode == 0, done.stderr
    wait_for(lambda: len(entries(runs, "asked")) > 1)  # the first has shown that it continues from its checkpoint
    (doomed,) = [entry["run_id"] for entry in entries(runs, "asked")[1:2]]
    wait_for(lambda: '"step": 3' in runs.output(doomed))
    node = runs.told(doomed, "session_started")[0]["host"]
    runs.cluster.kill_node(node, with_steps=True)
    runs.cluster.give_up(node)
    hold.unlink()
    wait_for(lambda: sweep_status(runs)["state"] == "finished")
    assert runs.document(doomed)["sessions"][0]["status"] == "interrupted"
    ended = [(entry["trial"], entry["rung"]) for entry in entries(runs, "ended")]
    assert len(set(ended)) == len(ended)
    assert next(entry for entry in entries(runs, "ended") if entry["trial"] == 1)["value"] is not None
    wait_for(lambda: not runs.jobs())
