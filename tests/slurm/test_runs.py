"""`--on slurm` feels like a run here: the same output, the same record, the same ways to stop it and to go on."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta

import pytest

from backprop.supervisor.signals import DOUBLE_PRESS_S
from tests.conftest import HANG_S, wait_for
from tests.slurm.conftest import LONG_S, HeldBack, SlurmRuns


def test_a_run_in_the_foreground(runs: SlurmRuns):
    """Its output is ours to the byte, and so is its exit code; what is said of it names job and node."""
    done = runs.call("run", "--run-id", "r", "train.py", "--", 30, 0.01)
    assert done.returncode == 0, done.stderr
    assert done.stdout == runs.output("r")
    assert json.loads(done.stdout.splitlines()[-1]) == {"event": "finished", "counter": 30}
    assert re.search(r"run r · timebox 10 min, ends .* · Slurm job \d+ on ", done.stderr)
    assert re.search(r"run r completed after .* at step 30", done.stderr)
    runs.check("r", "completed")


def test_a_failure_in_the_foreground(runs: SlurmRuns):
    """The trainer's exit code and its last words come through."""
    runs.script("sys.exit('no such dataset')", "bad.py")
    done = runs.call("run", "--run-id", "r", "bad.py")
    assert done.returncode == 1
    assert "no such dataset" in done.stderr
    document = runs.check("r", "failed")
    assert document["exit_code"] == 1


def test_a_detached_run_and_all_that_shows_it(runs: SlurmRuns):
    """`-d` gives the id at once; list, status, logs -f, wait and --json tell of it while it goes on and afterwards."""
    runs.submit("r", "-n", "count")
    following = runs.start("logs", "r", "-f", stdout=subprocess.PIPE)
    runs.wait_for_steps("r", 1)
    document = runs.wait_for_status("r", "running")
    assert document["host"]
    assert "running" in runs.call("list").stdout
    runs.let_them_complete()
    waited = runs.call("wait", "r")
    assert waited.returncode == 0, waited.stderr
    assert following.communicate(timeout=HANG_S)[0].decode() == runs.output("r")
    assert following.returncode == 0
    document = runs.check("r", "completed")
    assert (document["metrics"]["value"], document["exit_code"]) == (3 * document["last_step"], 0)
    assert "completed" in runs.call("list").stdout


def test_the_timebox(runs: SlurmRuns):
    """The supervisor inside the job keeps it: stopped gracefully, saved, exit code of a timebox, resumable."""
    runs.script(
        """
        def is_over():
            with open(os.environ["BACKPROP_CONTROL"]) as file:
                return json.load(file)["stop_wanted"]

        step = 0
        while not step or not is_over():
            time.sleep(0.02)
            step += 1
            print(json.dumps({"step": step, "value": step * 3}), flush=True)
        with open("saved.json", "w") as file:
            json.dump({"counter": step}, file)
        print(json.dumps({"event": "checkpoint_saved", "path": "saved.json", "step": step}), flush=True)
        """
    )
    # the interrupt at its end may come before Python has begun to listen
    command = ["env", "--ignore-signal=INT", sys.executable, "train.py"]
    done = runs.call("run", "--run-id", "r", "-m", 0.05, "--", *command)
    assert done.returncode == 0, done.stderr
    assert "run r timeboxed after" in done.stderr
    document = runs.check("r", "timeboxed")
    assert document["checkpoints"][-1]["valid"]
    assert "resume with: backprop resume r" in done.stderr


def test_resume(runs: SlurmRuns):
    """Another session of the run is another job, and goes on exactly at the newest checkpoint."""
    runs.submit("r", "--until-step", 5, pause_s=0.02)
    before = runs.wait_for_status("r", "timeboxed")
    first_job = runs.job("r")
    resumed = runs.start("resume", "r", "-m", 5, stderr=subprocess.PIPE)
    runs.wait_for_steps("r", 5, session=2)
    assert runs.call("stop", "r").returncode == 0
    assert resumed.wait(HANG_S) == 0
    document = runs.check("r", "timeboxed", "stopped")
    newest = before["checkpoints"][-1]
    assert document["sessions"][1]["resumed_from"] == newest["path"]
    assert json.loads(runs.output("r", 2).splitlines()[0])["from"] == newest["step"]
    assert runs.job("r") != first_job


def test_stop(runs: SlurmRuns):
    """`stop` climbs the same ladder inside the job and waits for the end; the trainer saves."""
    runs.submit("r")
    runs.wait_for_steps("r", 5)
    done = runs.call("stop", "r")
    assert done.returncode == 0, done.stderr
    document = runs.check("r", "stopped")
    assert "`backprop stop`" in document["reason"]
    assert document["checkpoints"][-1]["step"] == document["last_step"]


def test_stop_now(runs: SlurmRuns):
    """`stop --now` kills what would not stop."""
    runs.script("signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint(1, flush=True)\ntime.sleep(1000)", "deaf.py")
    assert runs.call("run", "--run-id", "r", "-d", "--grace", 600, "deaf.py").returncode == 0
    wait_for(lambda: runs.output("r"))
    done = runs.call("stop", "r", "--now")
    assert done.returncode == 0, done.stderr
    runs.check("r", "stopped")


def test_stop_while_it_is_pending(runs: SlurmRuns):
    """A run that waits in Slurm's line says why in Slurm's words, and leaves it at `stop`; no trainer is started."""
    runs.submit("r", "--slurm-arg=--begin=now+1hour")
    document = runs.wait_for_status("r", "queued")
    assert "BeginTime" in document["reason"]
    done = runs.call("stop", "r")
    assert done.returncode == 0, done.stderr
    document = runs.check("r")
    assert document["status"] == "refused"
    assert "`backprop stop`" in document["reason"]


def test_ctrl_c_stops_the_run(runs: SlurmRuns):
    """Ctrl-C at the terminal stops the run in its job gracefully, and the front stays until that is done."""
    front = runs.start("run", "--run-id", "r", "train.py", "--", 10**9, 0.05, stderr=subprocess.PIPE)
    runs.wait_for_steps("r", 5)
    front.send_signal(signal.SIGINT)
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode == 130
    assert "stopping gracefully; press Ctrl-C again to kill" in told.decode()
    document = runs.check("r", "stopped")
    assert document["checkpoints"][-1]["step"] == document["last_step"]


def test_ctrl_c_twice_kills_the_run(runs: SlurmRuns):
    """The second Ctrl-C kills what does not stop by itself."""
    runs.script("signal.signal(signal.SIGINT, signal.SIG_IGN)\nprint(1, flush=True)\ntime.sleep(1000)", "deaf.py")
    front = runs.start("run", "--run-id", "r", "--grace", 600, "deaf.py", stderr=subprocess.PIPE)
    wait_for(lambda: runs.output("r"))
    front.send_signal(signal.SIGINT)
    assert front.stderr is not None
    while b"press Ctrl-C again to kill" not in front.stderr.readline():
        assert front.poll() is None
    time.sleep(DOUBLE_PRESS_S)  # sooner it is the same press
    front.send_signal(signal.SIGINT)
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode == 137
    assert "backprop: killing" in told.decode()
    runs.check("r", "stopped")


def test_ctrl_c_while_it_is_pending(runs: SlurmRuns):
    """Ctrl-C takes a run out of Slurm's line, in which it waited as long as the user wanted."""
    front = runs.start("run", "--run-id", "r", "--slurm-arg=--begin=now+1hour", "train.py", stderr=subprocess.PIPE)
    assert front.stderr is not None
    wait_for(lambda: b"BeginTime" in front.stderr.readline())
    (begins,) = runs.cluster.call("squeue", "--noheader", "--format=%S", f"--job={runs.job('r')}").stdout.split()
    assert datetime.fromisoformat(begins) > datetime.now() + timedelta(minutes=50)  # noqa: DTZ005  as squeue tells it
    front.send_signal(signal.SIGINT)
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode == 130, told.decode()
    document = runs.check("r")
    assert document["status"] == "refused"
    assert "Ctrl-C" in document["reason"]


def test_ctrl_c_while_it_is_being_submitted(runs: SlurmRuns):
    """At whatever instant of the first seconds it comes: no job stays behind, held for ever or training."""
    rng = random.Random(6)
    fronts = []
    for number in range(8):
        with (runs.work / f"said-{number}").open("wb") as said:  # to be read when one does not end
            words = ("run", "--run-id", f"r{number}", "train.py", "--", 10**9, 0.05)
            fronts.append(runs.start(*words, stderr=said))
    for front in fronts:
        time.sleep(rng.uniform(0, 0.5))
        front.send_signal(signal.SIGINT)
    for front in fronts:
        front.wait(HANG_S)
    wait_for(lambda: not runs.jobs())

    def statuses() -> dict[str, str]:
        return {one["id"]: one["status"] for one in json.loads(runs.call("list", "--json").stdout)}

    for run_id, status in statuses().items():
        if status == "queued":  # it was not handed over yet, and is believed to be under way for a minute
            runs.make_older(run_id, LONG_S)
    wait_for(lambda: set(statuses().values()) <= {"refused", "stopped", "interrupted"})
    assert runs.jobs() == []
    assert runs.tree() == []


def test_ctrl_c_while_it_is_submitted_for_the_background(runs: SlurmRuns):
    """`-d` is no reason to pass it over: the run leaves the line, or is stopped."""
    held = HeldBack(runs, "sbatch")
    front = runs.start("run", "--run-id", "r", "-d", "train.py", "--", 10**9, 0.05)
    held.wait()
    front.send_signal(signal.SIGINT)
    held.go_on()
    assert front.wait(HANG_S) == 130
    assert runs.document("r")["status"] in {"refused", "stopped"}
    wait_for(lambda: not runs.jobs())


def test_the_terminal_goes_and_the_run_stays(runs: SlurmRuns):
    """SIGHUP at the front is not the run's business: it goes on, and another terminal stops it."""
    front = runs.start("run", "--run-id", "r", "train.py", "--", 10**9, 0.05, stderr=subprocess.PIPE)
    runs.wait_for_steps("r", 5)
    front.send_signal(signal.SIGHUP)
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode == 0
    assert "continues as Slurm job" in told.decode()
    count = runs.output("r").count("step")
    runs.wait_for_steps("r", count + 5)
    assert runs.call("stop", "r").returncode == 0
    runs.check("r", "stopped")


def test_sessions(runs: SlurmRuns):
    """`--sessions 3` puts the same job back into Slurm's line after each timebox, and goes on where it was.

    Of a timebox that another follows nobody is told; of the last one, with the metrics that only the node had.
    """
    runs.script(
        """
        with open(f"told-{os.environ['BACKPROP_EVENT']}-{os.getpid()}.json", "w") as file:
            file.write(sys.stdin.read())
        """,
        "tell.py",
    )
    notify = [{"command": [sys.executable, str(runs.work / "tell.py")]}]
    (runs.work / "backprop.config.json").write_text(json.dumps({"notify": notify}))
    front = runs.start(
        "run",
        "--run-id",
        "r",
        "--sessions",
        3,
        "--until-step",
        5,
        "train.py",
        "--",
        10**9,
        0.02,
        stderr=subprocess.PIPE,
    )
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode == 0, told.decode()
    assert told.decode().count("timeboxed after") == 3
    document = runs.check("r", "timeboxed", "timeboxed", "timeboxed")
    assert {entry["job"] for entry in runs.told("r", "submitted")} == {runs.job("r")}
    starts = [json.loads(runs.output("r", number).splitlines()[0])["from"] for number in (1, 2, 3)]
    assert starts[0] == 0 < starts[1] < starts[2]
    assert document["sessions"][2]["resumed_from"]
    (message,) = [json.loads(path.read_text()) for path in runs.work.glob("told-*.json")]
    assert len(message["sessions"]) == 3
    assert message["metrics"]["value"] == 3 * message["last_step"] > 0


def test_wait_waits_for_further_sessions(runs: SlurmRuns):
    """`wait` and `logs -f` do not take the end of one timebox for the end of the run."""
    runs.submit("r", "--sessions", 2, "--until-step", 5, pause_s=0.02)
    following = runs.start("logs", "r", "-f", stdout=subprocess.PIPE)
    waited = runs.start("wait", "r", stderr=subprocess.PIPE)
    _, told = waited.communicate(timeout=HANG_S)
    assert waited.returncode == 0, told.decode()
    runs.check("r", "timeboxed", "timeboxed")
    assert following.communicate(timeout=HANG_S)[0].decode() == runs.output("r", 1) + runs.output("r", 2)


def test_a_turn_that_never_comes(runs: SlurmRuns):
    """What the governor on the node refuses is not put back into Slurm's line, to be refused there again."""
    runs.submit("r", "--until-step", 5)
    runs.wait_for_status("r", "timeboxed")
    resumed = runs.call("resume", "r", "--min-free-ram", 999999)
    assert resumed.returncode == 75, resumed.stderr
    assert "RAM" in resumed.stderr
    wait_for(lambda: not runs.jobs())
    runs.check("r", "timeboxed")
    assert len(runs.told("r", "submitted")) == 2
    assert runs.told("r", "refused")


def test_a_resume_after_leaving_the_line(runs: SlurmRuns):
    """What was asked of a session that never began is not obeyed by the one that has its number."""
    runs.submit("r", "--slurm-arg=--begin=now+1hour")
    assert runs.call("stop", "r").returncode == 0
    assert runs.document("r")["status"] == "refused"
    wait_for(lambda: not runs.jobs())
    runs.rundir("r").joinpath("asked").mkdir(exist_ok=True)
    runs.rundir("r").joinpath("asked", "1").write_text(
        '{"event":"stop_asked","at":"2026-01-01T00:00:00Z","session":1,"by":"user","detail":"late"}'
    )
    resumed = runs.call("resume", "r", "-d", "--until-step", 5)
    assert resumed.returncode == 0, resumed.stderr
    hurry = ["scontrol", "update", f"JobId={runs.job('r')}", "StartTime=now"]
    wait_for(lambda: runs.cluster.call(*hurry).returncode == 0)
    runs.wait_for_status("r", "timeboxed", "stopped")
    runs.check("r", "timeboxed")


def test_a_job_that_another_one_replaced(runs: SlurmRuns):
    """An older job of the run that comes to life leaves it alone; a resume takes it out of the line."""
    runs.submit("r", "--sessions", 2, "--until-step", 5)
    runs.wait_for_status("r", "queued", session=2)
    older = runs.cluster.call("sbatch", "--parsable", "--output=/dev/null", str(runs.rundir("r") / "job.sh"))
    assert older.returncode == 0, older.stderr
    wait_for(lambda: not [one for one in runs.cluster.line() if one.startswith(older.stdout.strip())])
    assert runs.document("r")["status"] == "queued"
    assert len(runs.told("r", "session_started")) == 1
    assert runs.call("stop", "r").returncode == 0
    runs.check("r", "timeboxed")


def test_a_stop_between_two_sessions(runs: SlurmRuns):
    """After one timebox, and before its job stands in line for the next: it is heard, and no other session begins."""
    held = HeldBack(runs, "scontrol", "*show*job*")
    runs.submit("r", "--sessions", 2, "--until-step", 5)
    held.wait()
    assert runs.told("r", "session_ended")
    stopped = runs.call("stop", "r")
    held.go_on()
    assert "is not running" not in stopped.stderr
    wait_for(lambda: not runs.jobs())
    document = runs.check("r", "timeboxed")
    assert "`backprop stop`" in document["reason"]


def test_a_run_is_renamed_in_every_state(runs: SlurmRuns):
    """While it is pending, while it trains on its node, and afterwards: commands know it by its new name, Slurm by its id."""
    runs.submit("r", "--slurm-arg=--begin=now+1hour")
    assert runs.call("rename", "r", "waiting").returncode == 0
    assert runs.document("waiting")["name"] == "waiting"
    assert runs.cluster.call("scontrol", "update", f"JobId={runs.job('r')}", "StartTime=now").returncode == 0
    runs.wait_for_steps("r", 5)
    assert runs.call("rename", "waiting", "training").returncode == 0
    wait_for(lambda: runs.document("r")["name"] == "training")
    done = runs.call("stop", "training")
    assert done.returncode == 0, done.stderr
    assert runs.call("rename", "training", "ended").returncode == 0
    assert runs.check("r", "stopped")["name"] == "ended"


@pytest.mark.parametrize("is_pending", [True, False], ids=["pending", "running"])
def test_the_job_of_somebody_else_is_not_cancelled(runs: SlurmRuns, is_pending: bool):
    """A journal may come from anywhere: what it says of a job counts only if the job has the run's name."""
    later = ("--begin=now+1hour",) if is_pending else ()
    other = runs.cluster.call(
        "sbatch", "--parsable", "--job-name=backprop-other", "--output=/dev/null", *later, "--wrap=sleep 3600"
    )
    job = other.stdout.strip()
    assert other.returncode == 0, other.stderr

    def state() -> str:
        return runs.cluster.call("squeue", "--noheader", "--format=%T", "--jobs", job).stdout.strip()

    expected = "PENDING" if is_pending else "RUNNING"
    wait_for(lambda: state() == expected)
    runs.submit("r", "--slurm-arg=--begin=now+1hour")
    ours, path = runs.job("r"), runs.rundir("r") / "journal.jsonl"
    path.write_text(path.read_text().replace(f'"job":"{ours}"', f'"job":"{job}"'))
    for words in (("stop", "r"), ("stop", "r", "--now"), ("rm", "r", "--yes")):
        runs.call(*words)
    assert state() == expected
    for one in (job, ours):
        assert runs.cluster.call("scancel", one).returncode == 0
