"""Kill anything at any instant: no line that reached the file is lost or counted twice, nothing is left running.

The trainer prints numbered lines (as fast as it can in `make nightly`, else some 20,000 a second) and saves its
counter now and then. Its output files are the truth that the record is compared with, line by line.
"""

import json
import os
import random
import signal
import subprocess
import time
from array import array
from pathlib import Path

import psutil
import pytest

from backprop.store.index import Index
from tests.conftest import HANG_S, IS_NIGHTLY, Runs, scaled, wait_for

SUPERVISOR_KILLS = scaled(200)
TREE_KILLS = scaled(30)
READER_KILLS = scaled(30)
RUNS_AT_ONCE = scaled(50)
SEED = int(os.environ.get("BACKPROP_FAULT_SEED", "20261123"))

# The counter goes on exactly where the checkpoint left it. A checkpoint is torn once in a while: its report comes
# although the file is cut off, as it would after a power loss.
COUNTER = (
    f"""
    import random
    PAUSE_S = {0 if IS_NIGHTLY else 0.002}
"""
    """
    counter, path = 0, os.environ.get("BACKPROP_RESUME_FROM")
    if path:
        counter = json.load(open(path))["counter"]
    print(json.dumps({"event": "started", "from": counter}), flush=True)
    target, run_id = int(os.environ["TARGET"]), os.environ["BACKPROP_RUN_ID"]
    while counter < target:
        counter += 1
        print(json.dumps({"step": counter, "value": counter * 3}))
        if PAUSE_S and counter % 50 == 0:
            time.sleep(PAUSE_S)
        if counter % 2000 == 0:
            path = f"{run_id}-{counter}.json"
            with open(path + ".new", "w") as file:
                json.dump({"counter": counter, "padding": "x" * 5000}, file)
                file.flush()
                os.fsync(file.fileno())
            os.rename(path + ".new", path)
            print(json.dumps({"event": "checkpoint_saved", "path": path, "step": counter}), flush=True)
            for old in range(counter - 20000, 0, -2000):
                try:
                    os.unlink(f"{run_id}-{old}.json")
                except FileNotFoundError:
                    break
    print(json.dumps({"event": "finished", "counter": counter}), flush=True)
"""
)


class Truth:
    """What the output files of a run say, read with Python's own json, each file once: dead trainers do not write."""

    def __init__(self, runs: Runs, run_id: str) -> None:
        self._runs, self._run_id = runs, run_id
        self._read = 0
        self.steps, self.values = array("d"), array("d")
        self.saved: list[tuple[int, int, str]] = []  # session, step, path

    def read(self) -> "Truth":
        outputs = self._runs.rundir(self._run_id).glob("session-*.out")
        newest = max((int(path.stem.removeprefix("session-")) for path in outputs), default=0)
        while self._read < newest:
            self._read += 1
            text = self._runs.output(self._run_id, self._read)
            for line in text.replace("}{", "}\n{").splitlines():  # a signal came between a line and its end
                if not line.endswith("}"):
                    continue  # cut short by the kill
                event = json.loads(line)
                if "value" in event:
                    self.steps.append(event["step"])
                    self.values.append(event["value"])
                elif event["event"] == "checkpoint_saved":
                    self.saved.append((self._read, event["step"], str(self._runs.work / event["path"])))
        return self


@pytest.fixture
def runs(runs: Runs) -> Runs:
    """A home with the counting script, which counts for ever unless a test says otherwise."""
    runs.script(COUNTER)
    runs.environment["TARGET"] = str(10**9)
    return runs


def check_record(runs: Runs, run_id: str, truth: Truth | None = None) -> dict:
    """After `list`: the record says exactly what the files say, and nothing is left running."""
    listed = runs.call("list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert [d["id"] for d in json.loads(listed.stdout)].count(run_id) == 1
    document = runs.document(run_id)  # with all of its checkpoints
    truth = (truth or Truth(runs, run_id)).read()
    index = Index(runs.home / "index.db", 10)
    rows = index.rows("SELECT steps, vals FROM points WHERE run_id = ? AND name = 'value' ORDER BY number", (run_id,))
    index.close()
    # bytes, as they lie in the index, because a million points are compared hundreds of times
    steps, values = (b"".join(row[column] for row in rows) for column in (0, 1))
    assert len(steps) == len(truth.steps) * truth.steps.itemsize
    assert steps == truth.steps.tobytes()
    assert values == truth.values.tobytes()
    assert [(c["session"], c["step"], c["path"]) for c in document["checkpoints"]] == dedupe(truth.saved)
    assert document["last_step"] == (truth.steps[-1] if truth.steps else None)
    assert runs.tree() == []
    return document


def dedupe(saved: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """A path that was saved over counts once, where it was reported last."""
    newest: dict[str, tuple[int, int, str]] = {}
    for entry in saved:
        newest.pop(entry[2], None)
        newest[entry[2]] = entry
    return list(newest.values())


def newest_whole(document: dict) -> str | None:
    """The path that a resume must choose."""
    return next((c["path"] for c in reversed(document["checkpoints"]) if c["valid"]), None)


@pytest.mark.timeout(3600)
def test_kills_of_the_supervisor(runs: Runs):
    """SIGKILL at random instants, 200 times in `make nightly`; each time `list` is exact and `resume` goes on from the newest whole."""
    rng = random.Random(SEED)
    run_id, document = "victim", None
    truth = Truth(runs, run_id)
    for kill in range(SUPERVISOR_KILLS):
        words = ["run", "train.py", "--run-id", run_id, "--grace", "5"] if kill == 0 else ["resume", run_id]
        expected = None if document is None else newest_whole(document)
        supervisor = runs.start(*words, stderr=subprocess.PIPE)
        if kill % 4 == 3:  # any instant from the very start of the process on
            time.sleep(rng.uniform(0, 0.5))
        else:  # while the trainer works
            wait_for_output(runs, supervisor, next_session(document))
            time.sleep(rng.uniform(0, 0.25))
        supervisor.kill()
        supervisor.wait()
        supervisor.stderr.close()
        # Nearly always the kernel's SIGINT ends the trainer. Python drops a KeyboardInterrupt that comes in a destructor,
        # though: then it is `list` that must end it.
        patience_ends_at = time.monotonic() + 1
        wait_for(lambda end=patience_ends_at: not runs.tree() or time.monotonic() > end)
        if not runs.rundir(run_id).exists():
            continue
        before = next_session(document)
        document = check_record(runs, run_id, truth)
        assert document["status"] == "interrupted"
        if next_session(document) > before:  # it got as far as starting a session
            session = document["sessions"][-1]
            assert session["offered"] == expected
            output = runs.output(run_id, session["number"])
            if "\n" in output:
                counter = 0 if expected is None else int(Path(expected).stem.rpartition("-")[2])
                assert json.loads(output.partition("\n")[0])["from"] == counter
        if rng.random() < 0.15 and (newest := newest_whole(document)) is not None:
            Path(newest).write_bytes(Path(newest).read_bytes()[: rng.randrange(5000)])  # torn by a power loss
            document = check_record(runs, run_id, truth)
            assert newest_whole(document) != newest
    finish_exactly(runs, run_id, truth)


def wait_for_output(runs: Runs, supervisor: "subprocess.Popen[bytes]", session: int) -> None:
    """Until the trainer of this session prints; a supervisor that gives up before fails the test with its words."""
    path = runs.rundir("victim") / f"session-{session}.out"
    wait_for(lambda: (path.exists() and path.stat().st_size > 200) or supervisor.poll() is not None)
    assert supervisor.poll() is None, supervisor.stderr.read().decode()


def next_session(document: dict | None) -> int:
    return 1 if document is None else len(document["sessions"]) + 1


def finish_exactly(runs: Runs, run_id: str, truth: Truth) -> None:
    """Let the run go on to its end: its counter ends where it would have without any kill."""
    target = int(max(truth.steps)) + 5000
    done = runs.call("resume", run_id, timeout_s=120, TARGET=str(target))
    assert done.returncode == 0, done.stderr
    document = check_record(runs, run_id, truth)
    assert document["status"] == "completed"
    finished = [json.loads(line) for line in runs.output(run_id, len(document["sessions"])).splitlines()][-1]
    assert finished == {"event": "finished", "counter": target}
    assert set(truth.steps) == set(range(1, target + 1))
    assert all(value == step * 3 for step, value in zip(truth.steps, truth.values, strict=True))


@pytest.mark.timeout(2400)
def test_kills_of_the_whole_tree(runs: Runs):
    """Supervisor and trainer killed together, as when the machine dies: exact all the same."""
    rng = random.Random(SEED + 1)
    run_id, document = "victim", None
    truth = Truth(runs, run_id)
    for kill in range(TREE_KILLS):
        words = ["run", "train.py", "--run-id", run_id] if kill == 0 else ["resume", run_id]
        supervisor = runs.start(*words, stderr=subprocess.PIPE)
        wait_for_output(runs, supervisor, next_session(document))
        time.sleep(rng.uniform(0, 0.3))
        for process in [psutil.Process(supervisor.pid), *runs.tree()]:
            process.send_signal(signal.SIGKILL)
        supervisor.wait()
        wait_for(lambda: not runs.tree())
        document = check_record(runs, run_id, truth)
        assert document["status"] == "interrupted"
    finish_exactly(runs, run_id, truth)


def test_a_killed_reader_does_not_disturb(runs: Runs):
    """`list` and `status` killed at random instants while a run goes on: the record stays exact."""
    rng = random.Random(SEED + 2)
    supervisor = runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: runs.output("r"))
    for _ in range(READER_KILLS):
        reader = runs.start("list")
        time.sleep(rng.uniform(0, 0.4))
        reader.kill()
        reader.wait()
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(HANG_S) == 130
    assert check_record(runs, "r")["status"] == "stopped"


def test_the_index_deleted_under_a_running_supervisor(runs: Runs):
    """index.db vanishes while a run goes on, and a look makes a new one: all runs are complete afterwards."""
    runs.call("run", "train.py", "--run-id", "before", TARGET="3000")
    supervisor = runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: len(runs.output("r")) > 100_000)
    for name in ("index.db-wal", "index.db-shm", "index.db"):
        (runs.home / name).unlink(missing_ok=True)
    assert "running" in runs.call("list").stdout
    size = len(runs.output("r"))
    wait_for(lambda: len(runs.output("r")) > size + 100_000)
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(HANG_S) == 130
    assert check_record(runs, "r")["status"] == "stopped"
    assert check_record(runs, "before")["last_step"] == 3000


@pytest.mark.parametrize("spoil", ["garbage", "half", "empty"])
def test_a_corrupt_index_is_set_aside_and_rebuilt(runs: Runs, spoil: str):
    """The damaged file is kept with its date, and nothing is missing from the new one."""
    runs.call("run", "train.py", "--run-id", "a", TARGET="5000")
    index = runs.home / "index.db"
    for name in ("index.db-wal", "index.db-shm"):
        (runs.home / name).unlink(missing_ok=True)
    data = index.read_bytes()
    index.write_bytes({"garbage": b"\xff" * len(data), "half": data[: len(data) // 2], "empty": b""}[spoil])
    done = runs.call("list")
    assert done.returncode == 0, done.stderr
    assert "completed" in done.stdout
    assert check_record(runs, "a")["last_step"] == 5000
    if spoil != "empty":
        assert "is kept as" in done.stderr
        assert len(list(runs.home.glob("index.db.corrupt-20*"))) == 1


def test_a_corrupt_snapshot_is_set_aside_and_rebuilt(runs: Runs):
    """experiments.json likewise."""
    runs.call("run", "train.py", "--run-id", "a", TARGET="10")
    snapshot = runs.home / "experiments.json"
    snapshot.write_text('{"a": {"id"')
    done = runs.call("list")
    assert "is kept as" in done.stderr
    assert json.loads(snapshot.read_text())["a"]["status"] == "completed"
    (aside,) = runs.home.glob("experiments.json.corrupt-20*")
    assert aside.read_text() == '{"a": {"id"'


def test_a_journal_cut_short_keeps_all_before_the_cut(runs: Runs):
    """A truncated last line (power loss) is ignored: the run is interrupted, not broken, and goes on."""
    runs.call("run", "train.py", "--run-id", "a", TARGET="5000")
    journal = runs.rundir("a") / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    for name in ("index.db-wal", "index.db-shm", "index.db"):
        (runs.home / name).unlink(missing_ok=True)
    assert check_record(runs, "a")["status"] == "interrupted"
    assert runs.call("resume", "a", TARGET="5000").returncode == 0
    assert check_record(runs, "a")["status"] == "completed"


@pytest.mark.alone
def test_many_runs_at_once_in_one_home(runs: Runs):
    """Supervisors, 50 in `make nightly`, write one index and one snapshot: every run is complete in both."""
    runs.environment["TARGET"] = "3000"
    supervisors = [
        runs.start("run", "train.py", "--run-id", f"run-{n}", stderr=subprocess.PIPE) for n in range(RUNS_AT_ONCE)
    ]
    errors = [supervisor.communicate(timeout=HANG_S)[1].decode() for supervisor in supervisors]
    assert [supervisor.returncode for supervisor in supervisors] == [0] * RUNS_AT_ONCE, "".join(errors)
    documents = json.loads(runs.call("list", "--json").stdout)
    assert len(documents) == RUNS_AT_ONCE
    assert {(d["status"], d["last_step"]) for d in documents} == {("completed", 3000)}
    snapshot = json.loads((runs.home / "experiments.json").read_text())
    assert {(e["status"], e["lastStep"]) for e in snapshot.values()} == {("completed", 3000)}
    assert len(snapshot) == RUNS_AT_ONCE
    check_record(runs, "run-0")
