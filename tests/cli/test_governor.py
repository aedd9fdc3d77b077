"""GPUs as users of the installed command see them: chosen, watched, paused for heat, and not to be seen at all.

The card is a pretend one: `tests/fakes/nvidia-smi` first on PATH, or a pretend NVML below the real binding.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import HANG_S, Runs, wait_for
from tests.fakes import nvml

FAKES = Path(__file__).parents[1] / "fakes"
GB = 10**9
SAYS_WHAT_IT_SEES = """
    names = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "PYTORCH_CUDA_ALLOC_CONF", "TF_FORCE_GPU_ALLOW_GROWTH",
             "XLA_PYTHON_CLIENT_MEM_FRACTION")
    print("sees", json.dumps({name: os.environ.get(name) for name in names}), flush=True)
"""
GOES_ON = """
    step = 0
    while not os.path.exists("go"):
        step += 1
        print(json.dumps({"step": step}), flush=True)
        time.sleep(0.02)
"""
HAS_CHILDREN = """
    # a worker from the start, and a new one every moment: all of them count in files of their own
    COUNT = "import sys, time\\nn = 0\\nwhile True:\\n    n += 1\\n    open(sys.argv[1], 'w').write(str(n))\\n    time.sleep(0.2)"
    workers = []
    try:
        while not os.path.exists("go"):
            if len(workers) < 30:
                name = f"worker-{len(workers)}"
                workers.append(subprocess.Popen([sys.executable, "-c", COUNT, name], start_new_session=len(workers) % 2 == 1))
            print(json.dumps({"step": len(workers)}), flush=True)
            time.sleep(0.05)
    finally:
        for worker in workers:
            worker.kill()
"""


class Machine:
    """A machine with pretend cards, in the words of nvidia-smi."""

    def __init__(self, runs: Runs, folder: Path) -> None:
        self.runs = runs
        self._state = folder / "nvidia-smi.json"
        self._cards: dict[int, dict[str, Any]] = {}
        self._apps: list[dict[str, Any]] = []
        runs.environment |= {
            # a python3 that is a script of pyenv's would take ten times as long, for every reading
            "PATH": os.pathsep.join((str(FAKES), str(Path(sys.executable).parent), os.environ["PATH"])),
            "FAKE_NVIDIA_SMI": str(self._state),
            "BACKPROP_GPU_PROBE": "nvidia-smi",
        }

    def card(
        self,
        index: int,
        *,
        used_mib: int | None = 1000,
        total_mib: int | None = 80_000,
        temp_c: int | None = 40,
        **fields: object,
    ) -> None:
        """fields: more of them, by nvidia-smi's names."""
        self._cards[index] = {
            "index": index,
            "uuid": f"GPU-{index}",
            "name": "Fake H100",
            "memory.total": total_mib,
            "memory.used": used_mib,
            "temperature.gpu": temp_c,
            **fields,
        }
        if total_mib is None:
            del self._cards[index]["memory.total"]
        self._write()

    def holds(self, pid: int, mib: int, index: int = 0) -> None:
        """A process and what it holds of a card."""
        self._apps.append({"gpu_uuid": f"GPU-{index}", "pid": pid, "used_gpu_memory": mib})
        self._write()

    def breaks(self, **how: object) -> None:
        nvml.write_state(self._state, {"gpus": [], **how})

    def _write(self) -> None:
        nvml.write_state(self._state, {"gpus": list(self._cards.values()), "apps": self._apps})


@pytest.fixture
def machine(runs: Runs, tmp_path: Path) -> Machine:
    made = Machine(runs, tmp_path)
    made.card(0)
    return made


def seen(runs: Runs, run_id: str) -> dict[str, str | None]:
    line = next(line for line in runs.output(run_id).splitlines() if line.startswith("sees "))
    return json.loads(line.removeprefix("sees "))


def entries(runs: Runs, run_id: str, event: str) -> list[dict]:
    return [entry for entry in runs.journal(run_id) if entry["event"] == event]


def trainer_pid(runs: Runs, run_id: str) -> int:
    (entry,) = wait_for(lambda: entries(runs, run_id, "trainer_launched"))
    return entry["pid"]


# -- the choice


def test_a_run_gets_one_card_by_its_uuid(machine: Machine):
    """The one with most free memory; numbers mean what nvidia-smi means by them; all of it is on record."""
    machine.card(1, used_mib=200, temp_c=50)
    machine.card(2, used_mib=70_000, temp_c=30)
    machine.runs.script(SAYS_WHAT_IT_SEES)
    done = machine.runs.call("run", "train.py", "--run-id", "r")
    assert done.returncode == 0
    assert "run r · GPU 0 (Fake H100)" in done.stderr  # as free as 1, within a GiB, and cooler
    told = seen(machine.runs, "r")
    assert (told["CUDA_VISIBLE_DEVICES"], told["CUDA_DEVICE_ORDER"]) == ("GPU-0", "PCI_BUS_ID")
    (admitted,) = entries(machine.runs, "r", "admitted")
    assert admitted["gpus"] == ["GPU-0"]
    assert [card["temp_c"] for card in admitted["figures"]["gpus"]] == [40, 50, 30]


def test_as_many_cards_as_were_asked_for(machine: Machine):
    machine.card(1, temp_c=30)
    machine.card(2, used_mib=79_000)
    machine.runs.script(SAYS_WHAT_IT_SEES)
    assert machine.runs.call("run", "train.py", "--gpus", "2", "--run-id", "two").returncode == 0
    assert seen(machine.runs, "two")["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-0"
    assert machine.runs.call("run", "train.py", "--gpus", "0", "--run-id", "none").returncode == 0
    assert seen(machine.runs, "none")["CUDA_VISIBLE_DEVICES"] == ""
    done = machine.runs.call("run", "train.py", "--gpus", "4")
    assert done.returncode == 75  # no waiting will help
    assert "3 GPU(s) found (requested: 4)" in done.stderr


def test_a_choice_the_user_made_already_is_kept_to(machine: Machine):
    """Only cards of CUDA_VISIBLE_DEVICES are chosen from."""
    machine.card(1, used_mib=30_000, temp_c=60)
    machine.card(2)
    machine.runs.script(SAYS_WHAT_IT_SEES)
    for chosen, expected in (("1", "GPU-1"), ("GPU-2", "GPU-2"), ("2,1", "GPU-2"), ("", None)):
        done = machine.runs.call(
            "run", "train.py", "--run-id", f"r{chosen}".replace(",", "-"), CUDA_VISIBLE_DEVICES=chosen
        )
        assert done.returncode == 0
        assert seen(machine.runs, f"r{chosen}".replace(",", "-"))["CUDA_VISIBLE_DEVICES"] == (expected or "")


def test_a_run_waits_for_a_card_with_room(machine: Machine):
    """Memory that strangers hold is taken; it starts by itself when they let go."""
    machine.card(0, used_mib=79_000)
    machine.runs.script(SAYS_WHAT_IT_SEES)
    done = machine.runs.call("run", "train.py", "--no-wait")
    assert done.returncode == 75
    assert "GPU 0 has 1.0 GB of memory free (needed: 2.5)" in done.stderr
    waiting = machine.runs.start("run", "train.py", "--run-id", "r", stderr=subprocess.PIPE)
    wait_for(lambda: json.loads(machine.runs.call("status", "--json").stdout)["queue"])
    machine.card(0)
    _, err = waiting.communicate(timeout=HANG_S)
    assert waiting.returncode == 0
    assert b"run r queued: GPU 0 has 1.0 GB of memory free (needed: 2.5). Wait, or change --gpu-min-vram" in err


def test_a_run_waits_for_a_hot_card_to_cool(machine: Machine):
    machine.card(0, temp_c=90)
    machine.runs.script("")
    done = machine.runs.call("run", "train.py", "--no-wait")
    assert (done.returncode, "GPU 0 is at 90 °C (limit 85)" in done.stderr) == (75, True)
    assert machine.runs.call("run", "train.py", "--no-wait", "--gpu-max-temp", "95").returncode == 0


def test_what_was_promised_counts_before_it_is_taken(machine: Machine):
    """A run that was admitted a moment ago has not allocated yet; what it holds by now is not counted twice."""
    runs = machine.runs
    runs.script(GOES_ON)
    runs.start("run", "train.py", "--gpu-memory-limit", "50", "--run-id", "first")
    wait_for(lambda: runs.output("first"))
    wanted = ("run", "train.py", "--gpu-memory-limit", "40", "--no-wait")
    done = runs.call(*wanted, "--run-id", "second")
    assert done.returncode == 75
    assert "GPU 0 has 82.8 GB of memory free, 50.0 GB of it reserved for other runs (needed: 40.0)" in done.stderr
    machine.holds(trainer_pid(runs, "first"), 20_000)
    machine.card(0, used_mib=21_000)

    def is_promised_less() -> bool:
        (ticket,) = json.loads(runs.call("status", "--json").stdout)["slots"]["taken"]
        return ticket["vram_seen_bytes"] == {"GPU-0": 20_000 << 20}

    wait_for(is_promised_less)
    done = runs.call(*wanted, "--run-id", "third")
    assert "GPU 0 has 61.9 GB of memory free, 29.0 GB of it reserved" in done.stderr
    (runs.work / "go").touch()


def test_several_runs_share_a_card_by_what_they_use(machine: Machine):
    """Nothing but memory and heat keeps runs apart."""
    runs = machine.runs
    runs.script(GOES_ON)
    for run_id in ("a", "b", "c"):
        runs.start("run", "train.py", "--gpu-min-vram", "20000", "--run-id", run_id)
        wait_for(lambda run_id=run_id: runs.output(run_id))
    assert {run_id: runs.document(run_id)["status"] for run_id in "abc"} == dict.fromkeys("abc", "running")
    done = runs.call("run", "train.py", "--gpu-min-vram", "30000", "--no-wait")
    assert "60.0 GB of it reserved for other runs (needed: 30.0)" in done.stderr
    (runs.work / "go").touch()


def test_a_card_whose_values_are_missing_hinders_nobody(machine: Machine):
    """`[N/A]` is unknown, not zero."""
    machine.card(0, used_mib=None, total_mib=None, temp_c=None)
    machine.runs.script(SAYS_WHAT_IT_SEES)
    assert machine.runs.call("run", "train.py", "--no-wait", "--run-id", "r").returncode == 0
    assert seen(machine.runs, "r")["CUDA_VISIBLE_DEVICES"] == "GPU-0"
    (card,) = json.loads(machine.runs.call("status", "--json").stdout)["machine"]["gpus"]
    assert card["vram_free_bytes"] is card["temp_c"] is None


# -- blind


@pytest.mark.parametrize("how", [{"exit": 9}, {"stdout": "<html>"}, {"delay_s": 30}], ids=lambda how: next(iter(how)))
def test_a_broken_probe_stops_nobody(machine: Machine, how: dict[str, object]):
    """The governor says that it is blind to GPUs, and why, and goes on with the rest."""
    machine.breaks(**how)
    machine.runs.script(SAYS_WHAT_IT_SEES)
    done = machine.runs.call("run", "train.py", "--run-id", "r")
    assert done.returncode == 0
    assert "backprop: the governor cannot read the GPUs: nvidia-smi " in done.stderr
    assert seen(machine.runs, "r")["CUDA_VISIBLE_DEVICES"] is None  # whatever it finds
    (admitted,) = entries(machine.runs, "r", "admitted")
    assert admitted["figures"]["gpu_problem"].startswith("nvidia-smi ")
    status = machine.runs.call("status")
    assert status.returncode == 0
    assert re.search(r"^gpus +unknown: nvidia-smi ", status.stdout, re.MULTILINE)
    assert machine.runs.call("run", "train.py", "--no-wait", "--min-free-ram", "9999").returncode == 75


def test_a_probe_that_breaks_while_a_run_is_going_on(machine: Machine):
    """Nobody stops it; that the governor is blind is said once, and so is that it sees again."""
    runs = machine.runs
    runs.script(GOES_ON)
    running = runs.start("run", "train.py", "--run-id", "r", stderr=subprocess.PIPE)
    wait_for(lambda: runs.output("r"))
    machine.breaks(exit=9)
    assert running.stderr is not None
    told = running.stderr.readline() + running.stderr.readline()
    assert b"the governor cannot read the GPUs: nvidia-smi failed: NVIDIA-SMI has failed" in told
    machine.card(0)
    assert b"the governor can read the GPUs again" in running.stderr.readline()
    (runs.work / "go").touch()
    assert running.wait(HANG_S) == 0


def test_a_run_that_began_blind_is_watched_as_soon_as_its_cards_can_be_read(machine: Machine):
    """A driver that was slow or broken for a moment must not leave a training without a governor until its end."""
    runs = machine.runs
    machine.breaks(exit=9)
    runs.script(GOES_ON)
    running = runs.start("run", "train.py", "--run-id", "r", stderr=subprocess.PIPE)
    wait_for(lambda: runs.output("r"))
    machine.card(0, temp_c=91)
    wait_for(lambda: runs.document("r")["status"] == "paused")
    machine.card(0, temp_c=70)
    wait_for(lambda: runs.document("r")["status"] == "running")
    (runs.work / "go").touch()
    _, err = running.communicate(timeout=HANG_S)
    assert running.returncode == 0
    told = [line for line in err.decode().splitlines() if "GPU" in line]
    assert told[0].startswith("backprop: the governor cannot read the GPUs: nvidia-smi failed")
    assert told[1] == "backprop: the governor can read the GPUs again"
    assert "backprop: paused: GPU 0 is at 91 °C (limit 85)" in told
    assert "backprop: continuing: GPU 0 is at 70 °C (limit 85)" in told


# -- heat


def counts(runs: Runs) -> dict[str, str]:
    return {path.name: path.read_text() for path in runs.work.glob("worker-*")}


def test_a_hot_card_pauses_the_whole_tree_until_it_is_cooler(machine: Machine):
    """Children in sessions of their own and those started at the last moment stand still as well, and all go on."""
    runs = machine.runs
    runs.script(HAS_CHILDREN)
    running = runs.start("run", "train.py", "--run-id", "r", stderr=subprocess.PIPE)
    wait_for(lambda: len(counts(runs)) > 3)
    machine.card(0, temp_c=91)
    wait_for(lambda: runs.document("r")["status"] == "paused")
    document = runs.document("r")
    assert document["reason"] == "GPU 0 is at 91 °C (limit 85)"
    assert len(runs.tree()) > 4
    wait_for(runs.stands_still)  # one that is just writing to a disk, a moment later
    assert "paused" in runs.call("list").stdout
    assert "GPU 0 is at 91 °C (limit 85)" in runs.call("status", "r").stdout
    machine.card(0, temp_c=81)  # not cool enough: two more looks change nothing
    before = counts(runs)
    looks = len(entries(runs, "r", "governed"))
    machine.card(0, temp_c=80)
    wait_for(lambda: runs.document("r")["status"] == "running")
    assert len(before) >= 4
    wait_for(lambda: all(int(counts(runs)[name] or 0) > int(value or 0) for name, value in before.items()))
    (runs.work / "go").touch()
    _, err = running.communicate(timeout=HANG_S)
    assert running.returncode == 0
    assert b"backprop: paused: GPU 0 is at 91 \xc2\xb0C (limit 85)" in err
    assert b"backprop: continuing: GPU 0 is at 80 \xc2\xb0C (limit 85)" in err
    assert looks == 1
    assert [entry["action"] for entry in entries(runs, "r", "governed")] == ["pause", "continue"]
    (continued,) = entries(runs, "r", "continued")
    assert continued["paused_s"] > 0
    assert runs.document("r")["elapsed_s"] is not None


def test_what_a_stranger_sets_going_again_is_stopped_again(machine: Machine):
    """The card is hot whoever sent SIGCONT."""
    runs = machine.runs
    runs.script(GOES_ON)
    runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: runs.output("r"))
    machine.card(0, temp_c=91)
    wait_for(lambda: runs.document("r")["status"] == "paused")
    (trainer,) = runs.tree()
    trainer.send_signal(signal.SIGCONT)
    wait_for(lambda: trainer.status() == psutil.STATUS_STOPPED)
    assert runs.call("stop", "r").returncode == 0
    assert runs.document("r")["status"] == "stopped"


def test_a_pause_that_takes_too_long_ends_gracefully(machine: Machine):
    """The trainer goes on to hear of the stop, saves, and the reading is the reason."""
    runs = machine.runs
    runs.script(
        """
        step = 0
        try:
            while True:
                step += 1
                print(json.dumps({"step": step}), flush=True)
                time.sleep(0.02)
        except KeyboardInterrupt:
            open("ckpt", "w").write("x")
            print(json.dumps({"event": "checkpoint_saved", "path": "ckpt", "step": step}), flush=True)
        """
    )
    running = runs.start("run", "train.py", "--run-id", "r", "--max-pause-minutes", "0.03")
    wait_for(lambda: runs.output("r"))
    machine.card(0, temp_c=99)
    assert running.wait(HANG_S) == 0
    document = runs.document("r")
    assert document["status"] == "stopped"
    assert re.match(r"GPU 0 is at 99 °C after [\d.]+ min", document["reason"])
    assert [checkpoint["valid"] for checkpoint in document["checkpoints"]] == [True]


def test_a_paused_run_is_stopped_by_ctrl_c(machine: Machine):
    """It goes on to be stopped gracefully."""
    runs = machine.runs
    runs.script(GOES_ON)
    running = runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: runs.output("r"))
    machine.card(0, temp_c=91)
    wait_for(lambda: runs.document("r")["status"] == "paused")
    running.send_signal(signal.SIGINT)
    assert running.wait(HANG_S) == 130
    assert runs.document("r")["status"] == "stopped"
    assert not runs.tree()


def test_the_timebox_stands_still_with_the_run(machine: Machine):
    """Time spent paused is not time trained: the timebox ends as much later."""
    runs = machine.runs
    runs.script(GOES_ON)
    running = runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: runs.output("r"))
    deadline_s = runs.deadline_s("r")
    machine.card(0, temp_c=91)
    wait_for(lambda: runs.document("r")["status"] == "paused")
    machine.card(0, temp_c=40)
    (continued,) = wait_for(lambda: entries(runs, "r", "continued"))
    wait_for(lambda: runs.deadline_s("r") - deadline_s > continued["paused_s"] / 2)
    (runs.work / "go").touch()
    assert running.wait(HANG_S) == 0


# -- GPU memory


def test_the_frameworks_are_told_the_limit(machine: Machine):
    """TensorFlow and JAX by variables of their own; what the user has set already stays."""
    runs = machine.runs
    runs.script(SAYS_WHAT_IT_SEES)
    assert runs.call("run", "train.py", "-g", "50%", "--run-id", "r").returncode == 0
    told = seen(runs, "r")
    assert (told["TF_FORCE_GPU_ALLOW_GROWTH"], told["XLA_PYTHON_CLIENT_MEM_FRACTION"]) == ("true", "0.5000")
    runs.call("run", "train.py", "-g", "50%", "--run-id", "own", XLA_PYTHON_CLIENT_MEM_FRACTION="0.1")
    assert seen(runs, "own")["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.1"
    runs.call("run", "train.py", "--run-id", "free")
    assert seen(runs, "free")["XLA_PYTHON_CLIENT_MEM_FRACTION"] is None


def test_more_gpu_memory_than_it_may_ends_a_run(machine: Machine):
    """What all its processes hold together, for three seconds; what strangers hold is theirs."""
    runs = machine.runs
    runs.script(
        """
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print(json.dumps({"step": 1}), flush=True)
        open("pids", "w").write(f"{os.getpid()} {worker.pid}")
        try:
            while True:
                time.sleep(0.1)
        finally:
            worker.kill()
        """
    )
    running = runs.start("run", "train.py", "--run-id", "r", "-g", "10")
    pids = wait_for(lambda: (runs.work / "pids").exists() and (runs.work / "pids").read_text().split())
    machine.holds(os.getpid(), 60_000)
    machine.holds(int(pids[0]), 5_000)
    wait_for(lambda: json.loads(runs.call("status", "--json").stdout)["slots"]["taken"][0]["vram_seen_bytes"])
    assert runs.document("r")["status"] == "running"
    machine.holds(int(pids[1]), 6_000)
    assert running.wait(HANG_S) in {0, 130, 1}
    document = runs.document("r")
    assert document["status"] == "stopped"
    assert document["reason"].startswith("it has held 11.5 GB of GPU 0 for ")
    assert document["reason"].endswith(" s (--gpu-memory-limit 10.0 GB)")
    (entry,) = entries(runs, "r", "governed")
    assert entry["figures"]["tree_vram_bytes"] == 11_000 << 20


# -- the same through NVML, in the supervisor's own process


def test_nvml_chooses_pauses_and_limits(runs: Runs, tmp_path: Path):
    """No tool is started: the whole command runs above a pretend library."""
    state = tmp_path / "nvml.json"

    def cards(temp: int, **held: int) -> None:
        card = {"uuid": "GPU-n", "name": "Fake", "total": 80 * GB, "used": GB, "temp": temp, "processes": held}
        nvml.write_state(state, {"gpus": [card]})

    cards(40)
    runs.script(GOES_ON)
    runs.environment |= {"FAKE_NVML": str(state), "BACKPROP_GPU_PROBE": "nvml"}
    command = [sys.executable, str(FAKES / "nvml.py"), "run", "train.py", "--run-id", "r", "-g", "10"]
    running = runs.start_program(command, stderr=subprocess.PIPE)
    wait_for(lambda: runs.output("r"))
    cards(90)
    wait_for(lambda: runs.document("r")["status"] == "paused")
    cards(60)
    wait_for(lambda: runs.document("r")["status"] == "running")
    cards(60, **{str(trainer_pid(runs, "r")): 11 * GB})
    _, err = running.communicate(timeout=HANG_S)
    assert b"run r \xc2\xb7 GPU 0 (Fake)" in err
    document = runs.document("r")
    assert document["status"] == "stopped"
    assert document["reason"].startswith("it has held 11.0 GB of GPU 0 for ")


def test_status_shows_cards_against_their_limits(machine: Machine):
    """Bars for memory and heat; figures in both forms."""
    machine.card(0, used_mib=60_000, temp_c=60)
    shown = machine.runs.call("status").stdout.splitlines()
    (vram,) = [text for text in shown if text.startswith("  vram")]
    (heat,) = [text for text in shown if text.startswith("  temp")]
    assert vram == "  vram  ███████████████░░░░░ 21.0 GB free of 83.9 GB (2.5 GB needed to start)"
    assert heat == "  temp  ██████████████░░░░░░ 60 °C of 85"
    (card,) = json.loads(machine.runs.call("status", "--json").stdout)["machine"]["gpus"]
    assert (card["uuid"], card["temp_c"], card["vram_free_bytes"]) == ("GPU-0", 60, 20_000 << 20)
