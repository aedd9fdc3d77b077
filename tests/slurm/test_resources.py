"""What a run asked for is what its job has: memory, cards, CPUs and nodes; and what lies on disk is its owner's alone."""

import json
import stat
import subprocess
import sys

import pytest

from tests.cli.test_governor import FAKES
from tests.conftest import HANG_S, is_alive, wait_for
from tests.slurm.cluster import NODES
from tests.slurm.conftest import COUNTER, SlurmRuns

# each trainer of a run tells what it finds
TELLING = """
    names = ("SLURM_PROCID", "SLURMD_NODENAME", "MASTER_ADDR", "MASTER_PORT", "NNODES", "CUDA_VISIBLE_DEVICES",
             "SLURM_CPUS_PER_TASK", "BACKPROP_RUN_ID")
    line = json.dumps({"event": "told", **{name: os.environ.get(name) for name in names}})
    os.write(1, (line + "\\n").encode())
"""
# the counting script once a node: the first one speaks, and each has files of its own
COUNTING_TOGETHER = (
    """
    if os.environ["SLURM_PROCID"] != "0":
        sys.stdout = open(os.devnull, "w")
        os.environ["BACKPROP_RUN_ID"] += "-second"
"""
    + COUNTER
)
# The second one ends as soon as it is asked to; the first is not done before it is told a second time, and then saves.
SAVING_LONG = """
    heard = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCONT):
        signal.signal(number, lambda number, frame: heard.append(signal.Signals(number).name))
    is_first = os.environ["SLURM_PROCID"] == "0"
    if is_first:
        os.write(1, b'{"step": 1, "value": 3}\\n')
    while not heard:
        time.sleep(0.01)
    if not is_first:
        sys.exit(130)
    while len(heard) < 2:
        time.sleep(0.01)
    open("saved.json", "w").write("{}")
    os.write(1, b'{"event": "checkpoint_saved", "path": "saved.json", "step": 1}\\n')
    os.write(1, (json.dumps({"event": "heard", "signals": heard}) + "\\n").encode())
    sys.exit(130)
"""
# Both hear nothing of it.
DEAF = """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.write(1, b'{"step": 1, "value": 3}\\n')
    time.sleep(600)
"""
LEAKING = """
    held, step = [], 0
    try:
        while True:
            if len(held) < 40:  # over its limit, and not so far that it is killed
                held.append(bytearray(os.urandom(1)) * 20_000_000)
            step += 1
            print(json.dumps({"step": step, "value": step * 3}), flush=True)
            time.sleep(0.05)
    except KeyboardInterrupt:
        open("saved.json", "w").write("{}")
        print(json.dumps({"event": "checkpoint_saved", "path": "saved.json", "step": step}), flush=True)
        sys.exit(130)
"""


def told(runs: SlurmRuns, *words: object) -> list[dict[str, str | None]]:
    """What the trainers of a run with these options find, by their ranks."""
    runs.script(TELLING, "tell.py")
    done = runs.call("run", "--run-id", "r", *words, "tell.py")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return sorted(found, key=lambda one: one["SLURM_PROCID"])


def test_a_trainer_that_takes_too_much_memory(runs: SlurmRuns):
    """`--ram-limit` ends it as on this machine: gracefully, with its checkpoint, and with the reason on record."""
    runs.script(LEAKING, "leak.py")
    done = runs.call("run", "--run-id", "r", "--ram-limit", 0.5, "leak.py")
    assert done.returncode == 0, done.stderr
    document = runs.check("r", "stopped")
    assert "GB of RAM (--ram-limit 0.5)" in document["reason"]
    assert document["checkpoints"][-1]["valid"]


@pytest.fixture
def cards(runs: SlurmRuns) -> None:
    """What the governor finds on every node: two, the first of the second node being somebody else's. All are pretended."""
    taken = runs.cluster.call(
        "sbatch", "--gpus-per-node=1", "--nodelist=node2", "--output=/dev/null", "--wrap=sleep 600"
    )
    assert taken.returncode == 0, taken.stderr
    wait_for(lambda: " RUNNING " in "".join(runs.cluster.line()))
    folder = runs.work / "smi"
    folder.mkdir()
    state = folder / "state.json"
    found = [
        {"index": number, "uuid": f"GPU-{number}", "name": "Fake", "memory.total": 80_000, "memory.used": 10,
         "temperature.gpu": 40}
        for number in range(2)
    ]  # fmt: skip
    state.write_text(json.dumps({"gpus": found}))
    script = folder / "nvidia-smi"
    # the environment that a job gets has no variable of the pretended tool
    script.write_text(f'#!/bin/sh\nFAKE_NVIDIA_SMI={state} exec {sys.executable} -IS {FAKES}/nvidia-smi "$@"\n')
    script.chmod(0o700)
    runs.environment |= {"PATH": f"{folder}:{runs.environment['PATH']}", "BACKPROP_GPU_PROBE": "nvidia-smi"}


@pytest.mark.parametrize(("node", "gpus", "seen"), [("node1", 1, "GPU-0"), ("node2", 1, "GPU-1"), ("node2", 0, "")])
@pytest.mark.usefixtures("cards")
def test_cards(runs: SlurmRuns, node: str, gpus: int, seen: str):
    """A run has the card that Slurm gave its job, and no other; or none."""
    (one,) = told(runs, "--gpus", gpus, f"--slurm-arg=--nodelist={node}")
    assert one["CUDA_VISIBLE_DEVICES"] == seen


def test_cpus(runs: SlurmRuns):
    """`--cpus` is what the job has."""
    (one,) = told(runs, "--cpus", 2)
    assert one["SLURM_CPUS_PER_TASK"] == "2"


@pytest.mark.usefixtures("cards")
def test_two_nodes(runs: SlurmRuns):
    """A plain script is started once on each, and finds there how to reach the first and which cards are this node's."""
    first, second = told(runs, "--nodes", 2, "--gpus", 1)
    assert (first["SLURM_PROCID"], second["SLURM_PROCID"]) == ("0", "1")
    assert (first["SLURMD_NODENAME"], second["SLURMD_NODENAME"]) == NODES
    for name in ("MASTER_ADDR", "MASTER_PORT", "NNODES", "BACKPROP_RUN_ID"):
        assert first[name] == second[name] is not None
    assert (first["CUDA_VISIBLE_DEVICES"], second["CUDA_VISIBLE_DEVICES"]) == ("0", "1")


def test_one_of_two_nodes_fails(runs: SlurmRuns):
    """The exit code and last words are those of the trainer that failed; the other may save, and is ended."""
    runs.script(
        """
        if os.environ["SLURM_PROCID"] == "1":
            while not os.path.exists("ready"):
                time.sleep(0.01)
            sys.stderr.write("no such data set\\n")
            sys.exit(4)

        def save(number, frame):
            open("saved.json", "w").write("{}")
            os.write(1, b'{"event": "checkpoint_saved", "path": "saved.json", "step": 1}\\n')
            os._exit(0)

        signal.signal(signal.SIGTERM, save)
        os.write(2, b"half a line")  # srun's own words follow on it
        open("ready", "w").close()
        while True:
            time.sleep(600)
        """
    )
    done = runs.call("run", "--run-id", "r", "--nodes", 2, "--grace", 240, "train.py")
    assert done.returncode == 4, done.stderr
    document = runs.check("r", "failed")
    assert document["exit_code"] == 4
    assert document["reason"] == "exit code 4: no such data set (task 1 on node2)"
    assert [one["valid"] for one in document["checkpoints"]] == [True]


def test_two_nodes_are_stopped_and_cannot_be_paused(runs: SlurmRuns):
    """`pause` says why not; `stop` reaches the trainers of both."""
    runs.script(COUNTING_TOGETHER)
    runs.submit("r", "--nodes", 2)
    runs.wait_for_steps("r", 5)
    paused = runs.call("pause", "r")
    assert paused.returncode == 2
    assert "trains on 2 nodes, which cannot be paused together" in paused.stderr
    assert len(runs.tree()) >= 2
    stopped = runs.call("stop", "r")
    assert stopped.returncode == 0, stopped.stderr
    document = runs.check("r", "stopped")
    assert document["checkpoints"][-1]["step"] == document["last_step"]


def test_two_nodes_stop_at_their_own_pace(runs: SlurmRuns):
    """One that saves for longer than the other is neither ended by that one's end nor by SIGTERM, which it hears once."""
    runs.script(SAVING_LONG)
    runs.let_first("from backprop.supervisor import stop_ladder\nstop_ladder.TERMINATE_AFTER = 1 / 30")
    assert runs.call("run", "--run-id", "r", "-d", "--nodes", 2, "--grace", 240, "train.py").returncode == 0
    runs.wait_for_steps("r", 1)
    stopped = runs.call("stop", "r")
    assert stopped.returncode == 0, stopped.stderr
    document = runs.check("r", "stopped")
    assert [one["step"] for one in document["checkpoints"]] == [1]
    assert json.loads(runs.output("r").splitlines()[-1])["signals"] == ["SIGINT", "SIGTERM"]
    told = [one["signal"] for one in runs.told("r", "signalled")]
    assert told[:2] == ["SIGINT", "SIGTERM"]  # after that, to what has outlived the trainers


def test_two_nodes_are_killed(runs: SlurmRuns):
    """`stop --now` leaves no trainer on either when the session has ended, and says that they were killed."""
    runs.script(DEAF)
    assert runs.call("run", "--run-id", "r", "-d", "--nodes", 2, "train.py").returncode == 0
    runs.wait_for_steps("r", 2)
    trainers = [process for process in runs.tree() if process.name().startswith("python")]
    assert len(trainers) == 2
    stopped = runs.start("stop", "--now", "r")
    wait_for(lambda: runs.told("r", "session_ended"))
    assert not [process for process in trainers if is_alive(process)]
    assert stopped.wait(HANG_S) == 0
    document = runs.check("r", "stopped")
    assert document["reason"].endswith("had to be killed")


def test_two_nodes_are_preempted(runs: SlurmRuns):
    """They save, wait together in line, and go on together from there."""
    runs.script(COUNTING_TOGETHER)
    front = runs.start(
        "run", "--run-id", "r", "--on", "slurm:low", "--nodes", 2, "--slurm-arg=--exclusive",
        "train.py", "--", 10**9, 0.03, stderr=subprocess.PIPE,
    )  # fmt: skip
    runs.wait_for_steps("r", 30)
    urgent = runs.cluster.call(
        "sbatch", "--partition=high", "--exclusive", "--nodelist=node2", "--output=/dev/null", "--wrap=sleep 1"
    )
    assert urgent.returncode == 0, urgent.stderr
    runs.wait_for_steps("r", 5, session=2)
    runs.let_them_complete()
    _, said = front.communicate(timeout=HANG_S)
    assert front.returncode == 0, said.decode()
    document = runs.check("r", "stopped", "completed")
    saved = max(one["step"] for one in document["checkpoints"] if one["session"] == 1)
    assert json.loads(runs.output("r", 2).splitlines()[0])["from"] == saved >= 30


@pytest.mark.parametrize("machine", [{}, {"BACKPROP_MACHINE": "a"}], ids=["alone", "shared"])
def test_nobody_else_can_read(runs: SlurmRuns, machine: dict[str, str]):
    """Home, machines and runs, with each file in them, are their owner's, also where the umask forbids nothing."""
    runs.environment |= machine
    notify = json.dumps({"notify": [{"command": ["true"]}]})
    (runs.work / "backprop.config.json").write_text(notify)
    front = runs.start("run", "--run-id", "r", "train.py", "--", 10**9, 0.05, umask=0)
    runs.wait_for_steps("r", 25)
    assert runs.start("stop", "r", umask=0).wait(HANG_S) == 0
    assert front.wait(HANG_S) == 0
    found = [runs.home, *runs.home.rglob("*")]
    names = {path.name for path in found}
    assert {"asked", "job.sh", "journal.jsonl", "session-1.out", "control.json", "notify.json", "index.db"} <= names
    open_to_others = {
        str(path): oct(stat.S_IMODE(path.lstat().st_mode)) for path in found if path.lstat().st_mode & 0o77
    }
    assert open_to_others == {}
