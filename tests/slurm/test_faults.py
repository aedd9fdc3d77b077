"""Whoever submits is killed in the middle of it, and the controller is away, slow, or killed: nothing is left behind."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from backprop.store.journal.file import HEARTBEAT_INTERVAL_S
from tests.conftest import HANG_S, wait_for
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import LONG_S, SlurmRuns, first_port


class Wrapped:
    """A program of Slurm's whose calls are to be seen: what lies before it on PATH, as sites have it."""

    def __init__(self, runs: SlurmRuns, program: str, text: str) -> None:
        """text: a shell script; $real is the program, $seen the file that says how far it is."""
        self.folder = runs.work / f"wrapped-{program}"
        self.folder.mkdir()
        self.seen = self.folder / "seen"
        real = shutil.which(program, path=runs.environment["PATH"])
        script = self.folder / program
        script.write_text(f"#!/bin/sh\nreal={real} seen={self.seen}\n{text}\n")
        script.chmod(0o700)
        self._runs, self._path_before = runs, runs.environment["PATH"]
        runs.environment["PATH"] = f"{self.folder}:{self._path_before}"

    def wait_until_it_hangs(self) -> psutil.Process:
        """The hanging call, once it has written its number down."""
        pid = wait_for(lambda: self.seen.exists() and self.seen.read_text().strip())
        return psutil.Process(int(str(pid)))

    def unwrap(self) -> None:
        self._runs.environment["PATH"] = self._path_before


HANG = "echo $$ > $seen.new; mv $seen.new $seen; exec sleep 600"


def kill_while_it_hangs(runs: SlurmRuns, wrapped: Wrapped, *words: object) -> None:
    """A front that submits run r, ended by SIGKILL together with the call of Slurm that it waits for."""
    front = runs.start("run", "--run-id", "r", *words, "train.py", "--", 20, 0.0)
    call = wrapped.wait_until_it_hangs()
    front.kill()
    front.wait()
    call.kill()
    wrapped.unwrap()


def reason(runs: SlurmRuns) -> str:
    """Why the only job waits, in Slurm's word."""
    return runs.cluster.call("squeue", "--noheader", "--format=%r").stdout.strip()


def test_a_front_killed_before_it_wrote_down_its_job(runs: SlurmRuns):
    """Whoever looks leaves it alone while it may still be submitting; then ends the held job and files the run."""
    kill_while_it_hangs(runs, Wrapped(runs, "sbatch", f'$real "$@"; {HANG}'))
    for seconds in (0, 20):  # a submission may take a minute, of which a busy machine needs some to look
        runs.make_older("r", seconds)
        assert runs.document("r")["status"] == "queued"
        assert reason(runs) == "JobHeldUser"
    runs.make_older("r", LONG_S)
    document = runs.check("r")
    assert document["status"] == "interrupted"
    assert "never submitted" in document["reason"]


def test_a_resume_killed_before_it_wrote_down_its_job(runs: SlurmRuns):
    """The run knows nothing of it, and its job is held: `doctor` tells of that, and how to be rid of it."""
    assert runs.call("run", "--run-id", "r", "train.py", "--", 20, 0.0).returncode == 0
    assert held_jobs(runs) == []
    wrapped = Wrapped(runs, "sbatch", f'$real "$@"; {HANG}')
    front = runs.start("resume", "r", "--again")
    call = wrapped.wait_until_it_hangs()
    front.kill()
    front.wait()
    call.kill()
    wrapped.unwrap()
    (told,) = held_jobs(runs)
    assert runs.cluster.call(*told["advice"].rpartition(": ")[2].split()).returncode == 0
    assert held_jobs(runs) == []
    runs.check("r", "completed")


def held_jobs(runs: SlurmRuns) -> list[dict]:
    """What `doctor` says of jobs that nobody released."""
    findings = json.loads(runs.call("doctor", "--json").stdout)
    return [one for one in findings if "never released" in one["text"]]


def test_a_front_killed_before_it_released_its_job(runs: SlurmRuns):
    """Whoever looks leaves the held job alone while it may still be submitting; then lets it begin."""
    kill_while_it_hangs(runs, Wrapped(runs, "scontrol", f'test "$1" = release && {{ {HANG}; }}; exec $real "$@"'))
    runs.make_older("r", 0)
    assert runs.document("r")["status"] == "queued"
    assert reason(runs) == "JobHeldUser"
    runs.make_older("r", LONG_S)
    runs.wait_for_status("r", "completed")
    runs.check("r", "completed")


def test_a_job_that_a_user_holds_stays_held(runs: SlurmRuns):
    """Once it was released, a hold is somebody's wish."""
    full = runs.cluster.call("sbatch", "--exclusive", "--nodes=2", "--output=/dev/null", "--wrap=sleep 600")
    assert full.returncode == 0, full.stderr
    runs.submit("r")
    shown = ["scontrol", "--oneliner", "show", "job", runs.job("r")]
    wait_for(lambda: "EligibleTime=Unknown" not in runs.cluster.call(*shown).stdout)
    time.sleep(2)  # Slurm forgets this time of a job that is held later than in the same second
    assert runs.cluster.call("scontrol", "uhold", runs.job("r")).returncode == 0  # the hold of a user, also by root
    runs.make_older("r", LONG_S)
    assert "JobHeldUser" in runs.document("r")["reason"]
    assert "Reason=JobHeldUser" in runs.cluster.call(*shown).stdout
    assert runs.call("stop", "r").returncode == 0
    runs.check("r")


# -- no controller


def test_no_controller_when_a_run_is_submitted(runs: SlurmRuns):
    """It is told in Slurm's words within the time limits; there is no run, and no job when the controller is back."""
    runs.cluster.stop_controller()
    done = runs.call("run", "--run-id", "r", "train.py")
    runs.cluster.start_controller()
    assert done.returncode == 2
    assert "Unable to contact slurm controller" in done.stderr
    assert "scancel --name=backprop-r" in done.stderr
    assert not runs.rundir("r").exists()
    assert runs.cluster.line() == []


def test_a_stop_in_line_without_a_controller(runs: SlurmRuns):
    """It is filed, and said to be: the job that begins later hears of it, and trains nothing."""
    runs.submit("r", "--slurm-arg=--begin=now+1hour")
    runs.cluster.stop_controller()
    stopped = runs.call("stop", "r")
    runs.cluster.start_controller()
    assert stopped.returncode == 75
    assert "will do so when its job starts" in stopped.stderr
    begin = ["scontrol", "update", f"JobId={runs.job('r')}", "StartTime=now"]
    wait_for(lambda: runs.cluster.call(*begin).returncode == 0)
    runs.wait_for_status("r", "refused", session=0)
    document = runs.check("r")
    assert "`backprop stop`" in document["reason"]


def test_a_front_whose_run_is_removed(runs: SlurmRuns):
    """It ends, and says why."""
    front = runs.start("run", "--run-id", "r", "--slurm-arg=--begin=now+1hour", "train.py", stderr=subprocess.PIPE)
    assert front.stderr is not None
    wait_for(lambda: b"BeginTime" in front.stderr.readline())  # it writes nothing there any more
    job = runs.job("r")
    shutil.rmtree(runs.rundir("r"))
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode == 3
    assert "run r was removed" in told.decode()
    assert runs.cluster.call("scancel", job).returncode == 0


# sbatch has taken too long as soon as it has submitted and hangs; nothing else has
IMPATIENT = """
import os, subprocess, sys, time
from backprop.engines.slurm import client as slurm_client
plain, hangs = subprocess.Popen.communicate, sys.argv.pop(1)
slurm_client.LOOK_LIMIT_S = slurm_client.CALL_LIMIT_S = 240.0

def communicate(process, *words, **options):
    if process.args[0] == "sbatch":
        while not os.path.exists(hangs):
            time.sleep(0.01)
        options["timeout"] = 0.01
    return plain(process, *words, **options)

subprocess.Popen.communicate = communicate
from backprop.__main__ import main
main()
"""


def test_an_sbatch_that_takes_too_long(runs: SlurmRuns):
    """It has submitted, and says so to nobody within the time limit: the run is not started, and no job stays."""
    wrapped = Wrapped(runs, "sbatch", f'$real "$@"; {HANG}')
    python, hangs = runs.environment["BACKPROP_PYTHON"], str(wrapped.seen)
    program = [python, "-c", IMPATIENT, hangs, "run", "--run-id", "r", "train.py"]
    front = runs.start_program(program, stderr=subprocess.PIPE)
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode == 2
    assert "Slurm does not answer (sbatch, 240 s)" in told.decode()
    assert not runs.rundir("r").exists()
    assert runs.cluster.line() == []


# -- a controller that is killed


def test_the_controller_is_killed(runs: SlurmRuns):
    """It knows the job when it is started again: the run does not notice, and is stopped as any other."""
    front = runs.start("run", "--run-id", "r", "train.py", "--", 10**9, 0.05)
    runs.wait_for_steps("r", 5)
    runs.cluster.save(runs.job("r"))  # a job that was saved while it was pending would be started a second time
    runs.cluster.kill_controller()
    runs.wait_for_steps("r", runs.output("r").count('"step"') + 10)
    runs.cluster.start_controller()
    assert runs.document("r")["status"] == "running"
    assert front.poll() is None
    assert runs.call("stop", "r").returncode == 0
    assert front.wait(HANG_S) == 0
    runs.check("r", "stopped")


@pytest.fixture
def forgetful(tmp_path: Path) -> Iterator[SlurmRuns]:
    """Runs on a cluster of their own: a controller that counts job ids anew is at odds with its nodes for good."""
    cluster = Cluster(first_port=first_port(4))
    made = SlurmRuns(tmp_path, cluster)
    yield made
    made.clean_up()
    cluster.stop()


def lose_the_job(runs: SlurmRuns, node: str) -> None:
    """Run r begins there, and its controller is killed before it has saved that: it is started again, and knows no job.

    The node does not tell it of what it executes, which would be the end of that: its daemon is gone.
    """
    runs.submit("r", f"--slurm-arg=--nodelist={node}")
    runs.wait_for_steps("r", 5)
    runs.cluster.kill_node(node, with_steps=False)
    runs.cluster.kill_controller()
    for saved in runs.cluster.folder.glob("state/job_state*"):
        saved.unlink()
    runs.cluster.start_controller()
    assert runs.cluster.line() == []


def status_elsewhere(runs: SlurmRuns, silent_s: float) -> str:
    """That of run r, for a machine on which its lock does not show, when its supervisor was silent for so long.

    On one machine every lock shows. A copy of the home has none.
    """
    copy = runs.work / f"copy-{silent_s:g}"
    (supervisor,) = runs.supervisors()
    psutil.Process(supervisor).suspend()  # it would replace files while they are copied
    shutil.copytree(runs.home, copy)
    psutil.Process(supervisor).resume()
    at = time.time() - silent_s
    os.utime(copy / "runs" / "r" / "journal.jsonl", (at, at))
    done = runs.call("status", "r", "--json", BACKPROP_HOME=str(copy), BACKPROP_MACHINE="elsewhere")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["status"]


def test_a_job_that_runs_and_is_forgotten(forgetful: SlurmRuns):
    """Neither Slurm nor a lock tells of it: it is taken for lost once its journal is silent, not before, and is complete."""
    runs = forgetful
    lose_the_job(runs, "node1")
    assert status_elsewhere(runs, 0) == status_elsewhere(runs, 10) == "running"  # 35 s, in which it must be looked
    assert status_elsewhere(runs, 40) == "interrupted"
    assert len(runs.supervisors()) == 1
    runs.let_them_complete()
    runs.wait_for_status("r", "completed")
    runs.check("r", "completed")


def test_a_supervisor_gives_signs_of_life(runs: SlurmRuns):
    """While a trainer says nothing for longer than a silence may last, its journal is never that old."""
    runs.script("print('ready', flush=True)\ntime.sleep(1000)", "silent.py")
    assert runs.call("run", "--run-id", "r", "-d", "silent.py").returncode == 0
    wait_for(lambda: runs.told("r", "output_seen"))
    path = runs.rundir("r") / "journal.jsonl"
    entries = path.read_text()
    os.utime(path, (0, 0))
    wait_for(lambda: time.time() - path.stat().st_mtime < HEARTBEAT_INTERVAL_S)
    assert path.read_text() == entries
    assert runs.call("stop", "r").returncode == 0
    runs.check("r", "stopped")


def test_a_job_that_is_forgotten_and_ended(forgetful: SlurmRuns):
    """Slurm kills what it does not know as soon as a node tells of it: it is filed, and resumed from its checkpoint."""
    runs = forgetful
    lose_the_job(runs, "node1")
    runs.wait_for_steps("r", 20)
    runs.cluster.start_node("node1")
    wait_for(lambda: not runs.supervisors())
    runs.make_older("r", LONG_S)
    ended = runs.document("r")["status"]
    assert ended in {"interrupted", "failed"}  # the trainer is killed first, or last
    runs.let_them_complete()
    assert runs.call("resume", "r").returncode == 0
    document = runs.check("r", ended, "completed")
    assert document["sessions"][1]["resumed_from"]
