"""What a job does with the rest: it is put back into Slurm's line and goes on there, or says why it does not."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backprop.lifecycle import continuation
from backprop.store.journal import file as journals
from backprop.store.journal.entries import Refused
from backprop.store.journal.fold import fold
from backprop.store.rundir import RunDir
from tests.conftest import HANG_S, wait_for
from tests.slurm.cluster import Cluster
from tests.slurm.conftest import SlurmRuns, first_port, runs_on

LOW = ("--on", "slurm:low", "--slurm-arg=--nodelist=node1")


def preempt(runs: SlurmRuns) -> None:
    """A job of higher priority takes all of the first node, for a moment."""
    urgent = runs.cluster.call(
        "sbatch", "--partition=high", "--exclusive", "--nodelist=node1", "--output=/dev/null", "--wrap=sleep 1"
    )
    assert urgent.returncode == 0, urgent.stderr


def first_of(runs: SlurmRuns, session: int) -> int:
    """Where the trainer of a session says that it began."""
    return json.loads(runs.output("r", session).splitlines()[0])["from"]


def test_the_backstop(runs: SlurmRuns):
    """Slurm's own warning before a time limit that was lowered: saved, put back, and gone on with; nothing is lost."""
    front = runs.start(
        "run", "--run-id", "r", "-m", 60, "--grace", 20, "--slurm-arg=--time=2", "train.py", "--", 10**9, 0.05,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    runs.wait_for_steps("r", 5)
    wait_for(lambda: len(runs.told("r", "session_started")) == 2)
    runs.wait_for_steps("r", 5, session=2)
    assert runs.call("stop", "r").returncode == 0
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode == 0, told.decode()
    document = runs.check("r", "stopped", "stopped")
    first = document["sessions"][0]
    assert "SIGUSR1" in first["reason"]
    saved = [one["step"] for one in document["checkpoints"] if one["session"] == 1]
    assert first_of(runs, 2) == max(saved) == json.loads(runs.output("r").splitlines()[-2])["step"]
    assert runs.told("r", "session_started")[1]["timebox_s"] == pytest.approx(3600 - first["elapsed_s"], abs=0.01)


def test_a_turn_that_slurm_refuses(runs: SlurmRuns):
    """`--no-requeue` and `--sessions 2`: the first timebox is the last, its reason says why, and `resume` goes on."""
    words = ["--sessions", 2, "--until-step", 5, "--slurm-arg=--no-requeue", "train.py", "--", 10**9, 0.02]
    done = runs.call("run", "--run-id", "r", *words)
    assert done.returncode == 0, done.stderr
    document = runs.check("r", "timeboxed")
    (told,) = runs.told("r", "not_continued")
    assert told["reason"].startswith("not requeued: scontrol: ")
    assert document["status"] == "timeboxed"
    assert document["reason"].endswith(told["reason"])
    resumed = runs.call("resume", "r", "--until-step", 1)
    assert resumed.returncode == 0, resumed.stderr
    runs.check("r", "timeboxed", "timeboxed")
    assert first_of(runs, 2) == document["checkpoints"][-1]["step"]


def test_a_preemption_that_ends_the_job(runs: SlurmRuns):
    """`--no-requeue` and a preemption: it saves and is stopped, its reason says why, and `resume` goes on."""
    runs.submit("r", *LOW, "--slurm-arg=--no-requeue")
    runs.wait_for_steps("r", 5)
    preempt(runs)
    runs.wait_for_status("r", "stopped")
    document = runs.check("r", "stopped")
    assert "preemption" in document["reason"]
    (told,) = runs.told("r", "not_continued")
    assert document["reason"].endswith(told["reason"])
    assert document["checkpoints"][-1]["step"] == document["last_step"]
    resumed = runs.call("resume", "r", "--until-step", 1)
    assert resumed.returncode == 0, resumed.stderr
    runs.check("r", "stopped", "timeboxed")
    assert first_of(runs, 2) == document["last_step"]


@pytest.fixture(scope="module")
def cluster_without_warning() -> Iterator[Cluster]:
    """One that preempts as Slurm does unless told otherwise: SIGTERM to all processes of the job, and it waits again."""
    made = Cluster(first_port=first_port(2), warns_of_preemption=False)
    yield made
    made.stop()


@pytest.fixture
def unwarned(tmp_path: Path, cluster_without_warning: Cluster) -> Iterator[SlurmRuns]:
    yield from runs_on(cluster_without_warning, tmp_path)


@pytest.mark.parametrize("handles", [True, False], ids=["handled", "unhandled"])
def test_a_preemption_without_a_warning(unwarned: SlurmRuns, handles: bool):
    """SIGTERM to all at once: put back; what the trainer saved is where it goes on, in the rest of its timebox."""
    runs = unwarned
    if handles:
        text = (runs.work / "train.py").read_text()
        runs.work.joinpath("train.py").write_text(
            text.replace("\n", "\nsignal.signal(signal.SIGTERM, signal.default_int_handler)\n", 1)
        )
    runs.submit("r", *LOW)
    runs.wait_for_steps("r", 25)
    preempt(runs)
    runs.wait_for_status("r", "queued", session=2)
    runs.let_them_complete()
    waited = runs.call("wait", "r")
    assert waited.returncode == 0, waited.stderr
    document = runs.check("r", "stopped", "completed")
    first = document["sessions"][0]
    assert "SIGTERM" in first["reason"]
    saved = max(one["step"] for one in document["checkpoints"] if one["session"] == 1)
    assert first_of(runs, 2) == saved >= 20
    reported = json.loads(runs.output("r").splitlines()[-2 if handles else -1])["step"]
    assert (saved == reported) or not handles
    assert runs.told("r", "session_started")[1]["timebox_s"] == pytest.approx(600 - first["elapsed_s"], abs=0.01)
    assert [entry["job"] for entry in runs.told("r", "submitted")] == [runs.job("r")] * 2


# Fails in the sessions that it is told of, five steps on, of which it reports none; it has just saved then, so that a
# retry gets further.
FAILING = """
    path, run_id = os.environ.get("BACKPROP_RESUME_FROM"), os.environ["BACKPROP_RUN_ID"]
    counter = begun_at = json.load(open(path))["counter"] if path else 0
    target, is_to_fail = int(sys.argv[1]), os.environ["BACKPROP_SESSION"] in sys.argv[2:]
    print(json.dumps({"event": "started", "from": counter}), flush=True)
    try:
        while counter < target:
            time.sleep(0.02)
            counter += 1
            if not is_to_fail:
                print(json.dumps({"step": counter, "value": counter * 3}), flush=True)
            elif counter == begun_at + 5:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        path = f"{run_id}-{counter}.json"
        with open(path, "w") as file:
            json.dump({"counter": counter}, file)
        print(json.dumps({"event": "checkpoint_saved", "path": path, "step": counter}), flush=True)
        sys.exit("no such luck" if is_to_fail else 130)
"""


def timeboxes(runs: SlurmRuns) -> list[float]:
    """What the sessions were given, in seconds."""
    return [entry["timebox_s"] for entry in runs.told("r", "session_started")]


def test_retries(runs: SlurmRuns):
    """They are spent inside the job, in the rest of its timebox, and begin where the trainer saved."""
    runs.script(FAILING)
    done = runs.call("run", "--run-id", "r", "--retries", 2, "train.py", "--", 40, 1, 2)
    assert done.returncode == 0, done.stderr
    document = runs.check("r", "failed", "failed", "completed")
    first, second, _ = (session["elapsed_s"] for session in document["sessions"])
    assert timeboxes(runs) == pytest.approx([600, 600 - first, 600 - first - second], abs=0.01)
    assert [first_of(runs, number) for number in (1, 2, 3)] == [0, 5, 10]
    assert len(runs.told("r", "submitted")) == 1


def test_retries_that_are_spent(runs: SlurmRuns):
    """The run fails, with the trainer's exit code and last words, and is not put back into the line."""
    runs.script(FAILING)
    words = ["--retries", 1, "--sessions", 2, "train.py", "--", 40, 1, 2, 3]
    done = runs.call("run", "--run-id", "r", *words)
    assert done.returncode == 1, done.stderr
    document = runs.check("r", "failed", "failed")
    assert "no such luck" in document["reason"]
    assert "gave up after 1 retry" in document["reason"]
    assert len(runs.told("r", "submitted")) == 1


def test_retries_and_further_sessions(runs: SlurmRuns):
    """A retry is part of its timebox and the next one is whole; the retries are those of the request, not of each."""
    runs.script(FAILING)
    words = ["--retries", 1, "--sessions", 2, "--until-step", 8, "train.py", "--", 10**9, 1, 3]
    done = runs.call("run", "--run-id", "r", *words)
    assert done.returncode == 1, done.stderr
    document = runs.check("r", "failed", "timeboxed", "failed")
    first = document["sessions"][0]["elapsed_s"]
    assert timeboxes(runs) == pytest.approx([600, 600 - first, 600], abs=0.01)


def test_a_failure_after_a_preemption(runs: SlurmRuns):
    """It is retried in what preemption and failure left of the timebox, and whoever watches stays with it."""
    runs.script(FAILING)
    front = runs.start("run", "--run-id", "r", "--retries", 1, "train.py", "--", 300, 2, stderr=subprocess.PIPE)
    runs.wait_for_steps("r", 5)
    assert runs.cluster.call("scancel", "--batch", "--signal=USR1", runs.job("r")).returncode == 0
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode == 0, told.decode()
    document = runs.check("r", "stopped", "failed", "completed")
    first, second, _ = (session["elapsed_s"] for session in document["sessions"])
    assert timeboxes(runs) == pytest.approx([600, 600 - first, 600 - first - second], abs=0.01)
    assert first_of(runs, 3) == first_of(runs, 2) + 5


def test_a_preemption_while_a_retry_is_waited_for(runs: SlurmRuns):
    """The job waits again, and the retry follows there: nothing of the request is lost."""
    runs.let_first("from backprop.lifecycle import continuation\ncontinuation._backoff_s = lambda _: 500.0")
    runs.script(
        """
        session = int(os.environ["BACKPROP_SESSION"])
        print(json.dumps({"step": session, "value": session * 3}), flush=True)
        sys.exit(session < 2)
        """
    )
    front = runs.start("run", "--run-id", "r", "--retries", 9, "train.py", stderr=subprocess.PIPE)
    wait_for(lambda: runs.rundir("r").exists() and runs.told("r", "session_ended"))
    assert runs.cluster.call("scancel", "--batch", "--signal=USR1", runs.job("r")).returncode == 0
    _, told = front.communicate(timeout=HANG_S)
    assert front.returncode == 0, told.decode()
    runs.check("r", "failed", "completed")
    assert len(runs.told("r", "submitted")) == 2
    rundir = RunDir(runs.rundir("r"))
    entries, _ = journals.read(rundir.journal_path)
    until = next(number for number, entry in enumerate(entries, start=1) if isinstance(entry, Refused))
    seen = entries[:until]  # by whoever looks before the job says that it waits again
    assert continuation.remaining(fold(rundir.read_spec(), seen), seen)


def test_a_warning_before_anybody_listens(runs: SlurmRuns):
    """While the supervisor's Python is starting: it does not die of it, and the run trains."""
    slow = runs.work / "slow"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(
        "import pathlib, time\n"
        "here = pathlib.Path(__file__).parent\n"
        "if 'execute' in pathlib.Path('/proc/self/cmdline').read_text():\n"
        "    (here / 'starts').touch()\n"
        "    while not (here / 'go').exists():\n"
        "        time.sleep(0.05)\n"
    )
    runs.environment["PYTHONPATH"] = str(slow)
    runs.submit("r", target=5)
    wait_for((slow / "starts").exists)
    (supervisor,) = runs.supervisors()
    os.kill(supervisor, signal.SIGUSR1)
    (slow / "go").touch()
    runs.wait_for_status("r", "completed", "interrupted", session=0)
    runs.check("r", "completed")


@pytest.mark.parametrize("words", [["scancel"], ["stop"], ["stop", "--now"]], ids=" ".join)
def test_the_end_of_one_that_waits_again(runs: SlurmRuns, words: list[str]):
    """Preempted and put back, it leaves the line for good: it is what its session came to, and can be resumed."""
    runs.submit("r", *LOW)
    runs.wait_for_steps("r", 5)
    preempt(runs)
    runs.wait_for_status("r", "queued", session=2)
    done = runs.cluster.call("scancel", runs.job("r")) if words == ["scancel"] else runs.call(*words, "r")
    assert done.returncode == 0, done.stderr
    runs.wait_for_status("r", "stopped")
    document = runs.check("r", "stopped")
    assert document["checkpoints"][-1]["step"] == document["last_step"]
    resumed = runs.call("resume", "r", "--until-step", 1)
    assert resumed.returncode == 0, resumed.stderr
    runs.check("r", "stopped", "timeboxed")
    assert first_of(runs, 2) == document["last_step"]
