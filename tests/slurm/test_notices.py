"""Notifications of runs on Slurm: each end is told once, by the job or by whoever finds that it cannot tell."""

import json
import shutil

import psutil
import pytest

from tests.cli.test_notify import configure, messengers, recorder, told
from tests.conftest import HANG_S, wait_for
from tests.slurm.conftest import SlurmRuns

IN_LINE = "--slurm-arg=--begin=now+1hour"


@pytest.fixture
def runs(runs: SlurmRuns) -> SlurmRuns:
    """With a command that is told of every end."""
    configure(runs, {"command": recorder(runs)})
    return runs


def told_once(runs: SlurmRuns, status: str) -> dict:
    """What was told of a run's end; fails if anything else was told, or is about to be."""
    wait_for(lambda: told(runs, status))
    for _ in range(2):  # looks again: a run that was told of is not told of by others
        assert runs.call("list").returncode == 0
    wait_for(lambda: not messengers(runs))
    (event,) = told(runs, "*")
    document = event["document"]
    assert (event["BACKPROP_EVENT"], document["status"]) == (status, status)
    return document


def test_a_completed_run(runs: SlurmRuns):
    """By the job, with the metrics that only its node has by then."""
    assert runs.call("run", "--run-id", "r", "train.py", "--", 5, 0.0).returncode == 0
    assert told_once(runs, "completed")["metrics"]["value"] == 15


def test_a_killed_supervisor(runs: SlurmRuns):
    """By whoever looks first, of several who look at once; with what the trainer wrote until then."""
    runs.submit("r")
    runs.wait_for_steps("r", 5)
    (supervisor,) = runs.supervisors()
    psutil.Process(supervisor).kill()
    wait_for(lambda: not runs.jobs())
    looks = [runs.start("list") for _ in range(4)]
    for look in looks:
        look.wait(HANG_S)
    document = told_once(runs, "interrupted")
    assert document["metrics"]["value"] == 3 * document["last_step"] > 0


def test_a_request_that_can_never_be_met(runs: SlurmRuns):
    """By whoever takes it out of the line, with Slurm's reason."""
    refused = runs.call("run", "--run-id", "r", "--on", "slurm:short", "-m", 60, "train.py")
    assert refused.returncode == 75, refused.stderr
    assert "PartitionTimeLimit" in told_once(runs, "refused")["reason"]


def test_a_run_that_leaves_the_line(runs: SlurmRuns):
    """By whoever took it out: it was never started."""
    runs.submit("r", IN_LINE)
    assert runs.call("stop", "r").returncode == 0
    assert "`backprop stop`" in told_once(runs, "refused")["reason"]


def test_a_run_that_leaves_the_line_between_two_sessions(runs: SlurmRuns):
    """Its last session's end, which was not told while another was to follow."""
    runs.submit("r", "--sessions", 2, "--until-step", 5)
    runs.wait_for_status("r", "queued", session=2)
    assert told(runs, "*") == []
    assert runs.call("stop", "r").returncode == 0
    assert told_once(runs, "timeboxed")["metrics"]["value"] > 0


def test_a_stop_that_the_job_finds_when_it_begins(runs: SlurmRuns):
    """By the job, which has nothing left to do."""
    runs.submit("r", "--sessions", 2, "--until-step", 5)
    runs.wait_for_status("r", "queued", session=2)
    asked = {
        "event": "stop_asked",
        "at": "2026-01-01T00:00:00Z",
        "session": 2,
        "by": "user",
        "detail": "`backprop stop`",
    }
    runs.rundir("r").joinpath("asked").mkdir(exist_ok=True)
    runs.rundir("r").joinpath("asked", "1").write_text(json.dumps(asked))
    runs.hurry("r")
    wait_for(lambda: not runs.jobs())
    assert told_once(runs, "timeboxed")["metrics"]["value"] > 0
    assert runs.check("r", "timeboxed")["reason"].endswith("`backprop stop` while queued")


def test_a_job_that_cannot_be_released(runs: SlurmRuns):
    """By whoever submitted it: it is refused, and its job gone."""
    broken = runs.work / "broken"
    broken.mkdir()
    real = shutil.which("scontrol", path=runs.environment["PATH"])
    (broken / "scontrol").write_text(f'#!/bin/sh\ncase "$1" in release) exit 1;; esac\nexec {real} "$@"\n')
    (broken / "scontrol").chmod(0o700)
    runs.environment["PATH"] = f"{broken}:{runs.environment['PATH']}"
    refused = runs.call("run", "--run-id", "r", "train.py")
    assert refused.returncode == 75, refused.stderr
    assert "scontrol" in told_once(runs, "refused")["reason"]
    assert runs.jobs() == []


def test_a_pause_and_each_wait(runs: SlurmRuns):
    """By the job, and by whoever submitted it: in the midst of things, when that is asked for."""
    configure(runs, {"command": recorder(runs), "on": ["queued", "paused"]})
    runs.hold_before(5)
    runs.submit("r", "--sessions", 2, "--until-step", 5)
    runs.wait_for_steps("r", 4)
    assert runs.call("pause", "r").returncode == 0
    wait_for(lambda: told(runs, "paused"))
    wait_for(lambda: len(told(runs, "queued")) == 1)  # whoever submitted it tells of that on its own
    assert runs.call("resume", "r").returncode == 0
    runs.let_go(5)
    wait_for(lambda: len(told(runs, "queued")) == 2)
    assert runs.call("stop", "r").returncode == 0


def test_whoever_is_slow_to_be_told_keeps_nobody_waiting(runs: SlurmRuns):
    """A run that has ended can be resumed, and removed, while its job still tells of the end; which it does to its end."""
    configure(runs, {"command": ["sh", "-c", "cat > /dev/null; until test -e go; do sleep 0.1; done; echo x >> told"]})
    for command in (["run", "--run-id", "r", "train.py", "--", 20, 0.0], ["resume", "r", "--again"]):
        done = runs.call(*command)
        assert done.returncode == 0, done.stderr
    assert runs.jobs()  # the second at least: a notification is given up after 30 s
    removed = runs.call("rm", "--yes", "r")
    assert removed.returncode == 0, removed.stderr
    (runs.work / "go").touch()
    wait_for(lambda: not runs.cluster.line())
    assert (runs.work / "told").read_text() in {"x\n", "x\nx\n"}
