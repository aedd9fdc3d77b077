"""`--vary` on Slurm: an array, whose tasks are runs like any other. What befalls one is no other's business."""

import json
import signal
import subprocess

import pytest

from tests.conftest import HANG_S, wait_for
from tests.slurm.conftest import HeldBack, SlurmRuns

ONE_AT_A_TIME = ("--slurm-arg=--nodelist=node1", "--slurm-arg=--exclusive")


def submit(runs: SlurmRuns, *words: object, values: str = "1,2,3", target: int = 10**9, pause_s: float = 0.05) -> list:
    """An array of the counting script: the ids of its runs."""
    done = runs.call("run", "--vary", f"lr={values}", *words, "train.py", "--", target, pause_s)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def assert_they_train(runs: SlurmRuns, *ids: str) -> None:
    """They get further from now on, in the session that they were in."""
    counts = {run_id: runs.output(run_id).count('"step"') for run_id in ids}
    for run_id, count in counts.items():
        runs.wait_for_steps(run_id, count + 5)
        assert runs.document(run_id)["status"] == "running"


def stop(runs: SlurmRuns, *ids: str) -> None:
    for run_id in ids:
        done = runs.call("stop", run_id)
        assert done.returncode == 0, done.stderr


def test_one_that_trains_is_stopped(runs: SlurmRuns):
    """It saves and ends; the others train on. Each has its name, and its job's log in its own folder."""
    ids = submit(runs, "-n", "sweep")
    for run_id in ids:
        runs.wait_for_steps(run_id, 5)
    stop(runs, "sweep-2")
    assert_they_train(runs, ids[0], ids[2])
    stop(runs, "sweep-1", "sweep-3")
    array = runs.job(ids[0]).partition("_")[0]
    for task, run_id in enumerate(ids):
        document = runs.check(run_id, "stopped")
        assert document["name"] == f"sweep-{task + 1}"
        assert document["checkpoints"][-1]["step"] == document["last_step"]
        logs = {path.name: path.read_text() for path in runs.rundir(run_id).glob("slurm-*.log")}
        assert list(logs) == [f"slurm-{array}_{task}.log"]
        assert [f"run {one} stopped after" in "".join(logs.values()) for one in ids] == [one == run_id for one in ids]


def test_one_that_waits_is_stopped(runs: SlurmRuns):
    """It leaves the line; the one that trains trains on, and the one behind it gets its turn."""
    first, second, third = submit(runs, *ONE_AT_A_TIME)
    runs.wait_for_steps(first, 5)
    assert {runs.document(run_id)["status"] for run_id in (second, third)} == {"queued"}
    stop(runs, second)
    assert_they_train(runs, first)
    assert runs.document(third)["status"] == "queued"
    stop(runs, first)
    runs.wait_for_steps(third, 5)
    stop(runs, third)
    assert runs.check(second)["status"] == "refused"
    runs.check(first, "stopped")
    runs.check(third, "stopped")


def test_ctrl_c_while_they_are_submitted(runs: SlurmRuns):
    """Those that wait leave the line, and one that has begun meanwhile saves and stops: 130, and nothing is left."""
    releasing, cancelling = HeldBack(runs, "scontrol", "release*"), HeldBack(runs, "scancel")
    words = ("--vary", "lr=1,2,3", *ONE_AT_A_TIME, "train.py", "--", 10**9, 0.05)
    front = runs.start("run", *words, stdout=subprocess.PIPE)
    releasing.wait()
    front.send_signal(signal.SIGINT)
    releasing.go_on()
    cancelling.wait()
    wait_for(lambda: any(runs.home.glob("runs/*/session-1.out")))
    cancelling.go_on()
    out, _ = front.communicate(timeout=HANG_S)
    assert front.returncode == 130
    first, second, third = out.decode().split()
    runs.wait_for_status(first, "stopped")
    for run_id in (second, third):
        assert runs.document(run_id)["status"] == "refused"
        assert "Ctrl-C" in runs.document(run_id)["reason"]
    runs.check(first, "stopped")


def test_one_is_cancelled(runs: SlurmRuns):
    """`scancel` of one task ends that run, and can be resumed from where it had saved; the others train on."""
    first, second = submit(runs, values="1,2")
    for run_id in (first, second):
        runs.wait_for_steps(run_id, 25)
    assert runs.cluster.call("scancel", runs.job(first)).returncode == 0
    runs.wait_for_status(first, "stopped")
    assert_they_train(runs, second)
    resumed = runs.call("resume", first, "--until-step", 1)
    assert resumed.returncode == 0, resumed.stderr
    stop(runs, second)
    runs.check(first, "stopped", "timeboxed")
    runs.check(second, "stopped")


def test_all_are_preempted(runs: SlurmRuns):
    """Each saves, waits, and goes on where it was, in the same task of the same array and the rest of its timebox."""
    ids = submit(runs, "--on", "slurm:low", "--slurm-arg=--nodelist=node1")
    jobs = [runs.job(run_id) for run_id in ids]
    for run_id in ids:
        runs.wait_for_steps(run_id, 5)
    urgent = runs.cluster.call(
        "sbatch", "--partition=high", "--exclusive", "--nodelist=node1", "--output=/dev/null", "--wrap=sleep 1"
    )
    assert urgent.returncode == 0, urgent.stderr
    for run_id in ids:
        runs.wait_for_status(run_id, "queued", session=2)
    runs.let_them_complete()
    waited = runs.call("wait", *ids)
    assert waited.returncode == 0, waited.stderr
    for run_id in ids:
        document = runs.check(run_id, "stopped", "completed")
        saved = [one["step"] for one in document["checkpoints"] if one["session"] == 1]
        assert json.loads(runs.output(run_id, 2).splitlines()[0])["from"] == max(saved) >= 5
        left_s = runs.told(run_id, "session_started")[1]["timebox_s"]
        assert left_s == pytest.approx(600 - document["sessions"][0]["elapsed_s"], abs=0.01)
    assert [runs.job(run_id) for run_id in ids] == jobs


def test_each_lines_up_again(runs: SlurmRuns):
    """`--sessions 2` puts each task back by itself: one that is stopped before is not, and keeps nobody back."""
    runs.hold_before(5)
    first, second, third = submit(runs, "--sessions", 2, "--until-step", 5, pause_s=0.02)
    runs.wait_for_steps(second, 4)
    stop(runs, second)
    runs.let_go(5)
    waited = runs.call("wait", first, third)
    assert waited.returncode == 0, waited.stderr
    runs.check(second, "stopped")
    for run_id in (first, third):
        document = runs.check(run_id, "timeboxed", "timeboxed")
        assert document["sessions"][1]["resumed_from"]
        assert {entry["job"] for entry in runs.told(run_id, "submitted")} == {runs.job(run_id)}


def test_one_is_resumed(runs: SlurmRuns):
    """As a job of its own that asks for something else, while others of the array train and wait undisturbed."""
    first, second, third = submit(runs, *ONE_AT_A_TIME)
    runs.wait_for_steps(first, 5)
    stop(runs, first)
    runs.wait_for_steps(second, 5)
    words = ["--cpus", 2, "--slurm-arg=--nodelist=node2", "--slurm-arg=--comment=again", "--until-step", 1]
    resumed = runs.call("resume", first, *words)
    assert resumed.returncode == 0, resumed.stderr
    job = runs.job(first)
    assert job.isdigit()
    told = runs.cluster.call("scontrol", "--oneliner", "show", "job", job).stdout.split()
    assert {"CPUs/Task=2", "ReqNodeList=node2", "Comment=again"} <= set(told)
    assert_they_train(runs, second)
    assert runs.document(third)["status"] == "queued"
    stop(runs, third, second)
    document = runs.check(first, "stopped", "timeboxed")
    saved = [one["step"] for one in document["checkpoints"] if one["session"] == 1]
    assert json.loads(runs.output(first, 2).splitlines()[0])["from"] == max(saved)
    runs.check(second, "stopped")
    assert runs.check(third)["status"] == "refused"


def test_one_that_waits_again_is_stopped(runs: SlurmRuns):
    """A task that was put back leaves the line at `stop`; those beside it, that wait again too, stay in it."""
    first, second = submit(runs, "--sessions", 2, "--until-step", 5, values="1,2", pause_s=0.02)
    for run_id in (first, second):
        runs.wait_for_status(run_id, "queued", session=2)
    stop(runs, first)
    runs.hurry(second)
    runs.wait_for_steps(second, 1, session=2)
    runs.wait_for_status(second, "timeboxed", session=2)
    runs.check(first, "timeboxed")
    runs.check(second, "timeboxed", "timeboxed")
