"""Trainers that eat memory: stopped in time to save, and never at anybody else's cost."""

import textwrap
from pathlib import Path

import pytest

from tests.conftest import Runs, wait_for

pytestmark = pytest.mark.alone

LEAKING = """
    MB = 10**6
    kept, step = [], 0
    try:
        while True:
            began = time.monotonic()
            kept.append(b"x" * (50 * MB))  # written to, so that it is held
            step += 1
            print(json.dumps({"step": step}), flush=True)
            time.sleep(max(0.0, 0.1 - (time.monotonic() - began)))  # 500 MB/s
    except KeyboardInterrupt:
        json.dump({"step": step}, open("ckpt.json", "w"))
        print(json.dumps({"event": "checkpoint_saved", "path": "ckpt.json", "step": step}), flush=True)
"""
BYSTANDER = """
    kept, step = b"x" * 10**9, 0
    while not os.path.exists("enough"):
        step += 1
        print(json.dumps({"step": step}), flush=True)
        time.sleep(0.1)
"""


def governed(runs: Runs, run_id: str) -> list[dict]:
    return [entry for entry in runs.journal(run_id) if entry["event"] == "governed"]


@pytest.fixture
def bystander(runs: Runs) -> Runs:
    """A home in which another run with a gigabyte of its own goes on."""
    runs.script(BYSTANDER, "bystander.py")
    runs.start("run", "bystander.py", "--run-id", "other")
    wait_for(lambda: runs.output("other"))
    return runs


def check_bystander(runs: Runs) -> None:
    """It still trains, and comes to its end when it is let."""
    assert runs.document("other")["status"] == "running"
    (runs.work / "enough").touch()
    wait_for(lambda: runs.document("other")["status"] != "running")
    document = runs.document("other")
    assert (document["status"], document["exit_code"]) == ("completed", 0)


def test_a_steady_leak_is_stopped_with_its_checkpoint_saved(bystander: Runs):
    """500 MB/s under --ram-limit 2: the trainer hears of it, saves, and exits."""
    runs = bystander
    runs.script(LEAKING)
    done = runs.call("run", "train.py", "--ram-limit", "2", "--run-id", "r")
    assert done.returncode == 0
    document = runs.document("r")
    assert document["status"] == "stopped"
    assert "GB of RAM (--ram-limit 2)" in document["reason"]
    (checkpoint,) = document["checkpoints"]
    assert checkpoint["valid"]
    assert checkpoint["step"] - document["last_step"] in {0, 1}  # 1: interrupted before it could tell of the step
    (entry,) = governed(runs, "r")
    assert entry["action"] == "stop"
    assert 2e9 < entry["figures"]["tree_ram_bytes"] < 3e9
    check_bystander(runs)


def test_twenty_gigabytes_at_once_take_nothing_else_down(bystander: Runs):
    """Faster than any look: the kernel ends the trainer at the hard limit, or we do, and a bystander goes on."""
    runs = bystander
    runs.script(
        """
        print(json.dumps({"step": 1}), flush=True)
        kept = b"x" * (20 * 10**9)
        print(json.dumps({"step": 2}), flush=True)
        """
    )
    done = runs.call("run", "train.py", "--ram-limit", "2", "--run-id", "r")
    assert done.returncode == 137
    document = runs.document("r")
    assert document["last_step"] == 1
    assert "--ram-limit" in document["reason"]
    launched = next(entry for entry in runs.journal("r") if entry["event"] == "trainer_launched")
    if launched["cage"] is not None:
        assert "the kernel killed a process of its tree for going over 3 GB of RAM (--ram-limit)" in document["reason"]
    check_bystander(runs)


def test_memory_of_the_whole_tree_counts(runs: Runs):
    """Workers that hold little each are over the limit together, and what they share is counted once."""
    runs.script(
        """
        shared = b"x" * 400_000_000
        workers = []
        for _ in range(4):
            pid = os.fork()
            if pid == 0:
                own = b"x" * 100_000_000 if sys.argv[1] == "small" else b"x" * 500_000_000
                time.sleep(1000)
                os._exit(0)
            workers.append(pid)
        usage = os.environ["BACKPROP_RUN_DIR"] + "/session-1.usage"
        try:  # until it is stopped, or has been measured again and again, which takes four seconds
            while sys.argv[1] == "big" or not os.path.exists(usage) or open(usage).read().count("\\n") < 3:
                time.sleep(0.1)
        except KeyboardInterrupt:
            print(json.dumps({"step": 1}), flush=True)
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        """
    )
    assert runs.call("run", "train.py", "--ram-limit", "1", "--run-id", "small", "--", "small").returncode == 0
    assert runs.document("small")["status"] == "completed"  # resident sets would add up to 2.5 GB
    runs.call("run", "train.py", "--ram-limit", "1", "--run-id", "big", "--", "big")
    document = runs.document("big")
    assert "--ram-limit" in document["reason"]
    assert document["status"] in {"stopped", "failed"}


def test_a_cage_is_gone_with_its_run(runs: Runs):
    """Whatever cgroup was made for a session is removed at its end, also by whoever finds its supervisor dead."""
    runs.script('print(json.dumps({"step": 1}), flush=True); time.sleep(60)')
    process = runs.start("run", "train.py", "--ram-limit", "2", "--run-id", "r")
    told = lambda: [entry for entry in runs.journal("r") if entry["event"] == "trainer_launched"]  # noqa: E731
    wait_for(lambda: runs.output("r") and told())
    (launched,) = told()
    if launched["cage"] is None:
        pytest.skip("no memory cgroup of this machine is ours to make")
    assert Path(launched["cage"]).is_dir()
    process.kill()
    process.wait()
    assert runs.document("r")["status"] == "interrupted"
    assert not Path(launched["cage"]).exists()


def test_a_leak_is_worth_a_retry(runs: Runs):
    """Stopped for its appetite, a run with --retries goes on from the checkpoint that it saved at the stop."""
    resumes = 'if path := os.environ.get("BACKPROP_RESUME_FROM"):\n    open(path).read()\n    sys.exit(0)\n'
    runs.script(resumes + textwrap.dedent(LEAKING))
    done = runs.call("run", "train.py", "--ram-limit", "1", "--retries", "1", "--run-id", "r")
    assert done.returncode == 0
    document = runs.document("r")
    assert [session["status"] for session in document["sessions"]] == ["stopped", "completed"]
    assert document["sessions"][1]["resumed_from"] == str(runs.work / "ckpt.json")
