"""A real NVIDIA GPU and real PyTorch: what the pretend ones of the other tests only claim. `pytest -m gpu` runs these.

Skipped where there is none. $TORCH_PYTHON names a Python with a CUDA build of PyTorch when this one has none.
"""

import json
import os
import subprocess
import sys

import pytest

from backprop.governor.probes.gpus import read_gpus
from tests.conftest import HANG_S, Runs, wait_for

PYTHON = os.environ.get("TORCH_PYTHON", sys.executable)
GB = 10**9


def why_not() -> str | None:
    """What is missing here."""
    reading = read_gpus("nvml")
    if not reading.gpus:
        return f"no NVIDIA GPU here ({reading.problem or 'NVML lists none'})"
    program = "import torch; raise SystemExit(not torch.cuda.is_available())"
    if subprocess.run([PYTHON, "-c", program], capture_output=True, check=False).returncode != 0:
        return f"{PYTHON} has no PyTorch that sees the GPU; name another in $TORCH_PYTHON"
    return None


@pytest.fixture(scope="module", autouse=True)
def gpu() -> None:
    if (reason := why_not()) is not None:
        pytest.skip(reason)


pytestmark = pytest.mark.gpu


@pytest.fixture
def torch_runs(runs: Runs) -> Runs:
    """A home whose trainers have PyTorch, and whose governor asks NVML."""
    runs.environment |= {"BACKPROP_PYTHON": PYTHON, "BACKPROP_GPU_PROBE": "nvml"}
    return runs


def test_nvml_and_the_tool_agree():
    by_library, by_tool = read_gpus("nvml"), read_gpus("nvidia-smi")
    assert by_tool.problem is None
    assert [(gpu.index, gpu.uuid, gpu.name) for gpu in by_library.gpus or ()] == [
        (gpu.index, gpu.uuid, gpu.name) for gpu in by_tool.gpus or ()
    ]


def test_a_trainer_sees_the_card_it_was_given_and_no_other(torch_runs: Runs):
    """And what it allocates is seen from outside."""
    torch_runs.script(
        """
        import torch
        print("count", torch.cuda.device_count(), flush=True)
        kept = torch.zeros(2 * 10**9, dtype=torch.uint8, device="cuda")
        print(json.dumps({"step": 1}), flush=True)
        while not os.path.exists("go"):
            time.sleep(0.05)
        """
    )
    running = torch_runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: '"step"' in torch_runs.output("r"))
    assert "count 1" in torch_runs.output("r")

    def held() -> int:
        (ticket,) = json.loads(torch_runs.call("status", "--json").stdout)["slots"]["taken"]
        return sum((ticket["vram_seen_bytes"] or {}).values())

    wait_for(lambda: held() >= 2 * GB)
    (torch_runs.work / "go").touch()
    assert running.wait(HANG_S) == 0


def test_the_allocator_itself_refuses_more_than_the_limit(torch_runs: Runs):
    torch_runs.script(
        """
        import torch
        half = torch.zeros(10**9, dtype=torch.uint8, device="cuda")
        try:
            torch.zeros(3 * 10**9, dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError:
            print("refused", flush=True)
        """
    )
    assert torch_runs.call("run", "train.py", "--run-id", "r", "-g", "3").returncode == 0
    assert "refused" in torch_runs.output("r")


def test_what_gets_past_the_allocator_is_seen_from_outside(torch_runs: Runs):
    """A trainer that allows itself more is stopped within seconds."""
    torch_runs.environment["PYTORCH_CUDA_ALLOC_CONF"] = "per_process_memory_fraction:1.0"
    torch_runs.script(
        """
        import torch
        kept = torch.zeros(5 * 10**9, dtype=torch.uint8, device="cuda")
        time.sleep(120)
        """
    )
    torch_runs.call("run", "train.py", "--run-id", "r", "-g", "3")
    document = torch_runs.document("r")
    assert document["status"] == "stopped"
    assert "(--gpu-memory-limit 3.0 GB)" in document["reason"]


def test_a_sampled_loss_never_waits_for_the_gpu(torch_runs: Runs):
    """Each value is right, and PyTorch sees no call that synchronizes."""
    torch_runs.script(
        """
        import torch
        weight = torch.nn.Parameter(torch.zeros((), device="cuda"))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        scaler = torch.amp.GradScaler("cuda", enabled="scaled" in sys.argv)
        torch.cuda.set_sync_debug_mode("error")
        end = time.monotonic() + 5
        while time.monotonic() < end:
            optimizer.zero_grad()
            scaler.scale(weight.sum()).backward()  # 0, -1, -2, ...
            scaler.unscale_(optimizer)  # scaler.step() waits for the GPU
            optimizer.step()
            scaler.update()
            time.sleep(0.001)
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        """
    )
    for run_id in ("plain", "scaled"):
        done = torch_runs.call("run", "train.py", "--run-id", run_id, "--", run_id)
        assert done.returncode == 0, done.stderr
        events = (torch_runs.rundir(run_id) / "session-1.events").read_text().splitlines()
        samples = [line for line in map(json.loads, events) if "sampled" in line]
        assert len(samples) > 5
        assert all(sample["loss"] == 1 - sample["step"] for sample in samples)
