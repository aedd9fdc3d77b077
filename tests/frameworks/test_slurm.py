"""torchrun over two nodes of Slurm, over gloo."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import wait_for
from tests.slurm.cluster import NODES, Cluster, missing_programs
from tests.slurm.conftest import SlurmRuns, first_port

# Each rank adds its number to a sum that all of them share, step by step; rank 0 reports and saves it.
SUM = """
    import torch
    import torch.distributed as distributed

    distributed.init_process_group("gloo")
    rank, size = distributed.get_rank(), distributed.get_world_size()
    path = os.environ.get("BACKPROP_RESUME_FROM")
    state = torch.load(path) if path else {"step": 0, "sum": torch.zeros(1)}
    first = state["step"]
    nodes = [None] * size
    distributed.all_gather_object(nodes, os.environ["SLURMD_NODENAME"])
    if rank == 0:
        print(json.dumps({"event": "started", "from": first, "nodes": nodes}), flush=True)
    steps, stop = int(sys.argv[1]), torch.zeros(1)

    def heard(number, frame):
        stop.fill_(1)

    signal.signal(signal.SIGTERM, heard)  # what torchrun's agents pass on
    signal.signal(signal.SIGINT, heard)
    while state["step"] < steps:
        part = torch.full((1,), float(rank + 1))
        distributed.all_reduce(part)
        state["sum"] += part
        state["step"] += 1
        if rank == 0:
            print(json.dumps({"step": state["step"], "sum": state["sum"].item()}), flush=True)
        asked = stop.clone()
        distributed.all_reduce(asked)
        if asked.item():
            break
        time.sleep(0.05)
    if rank == 0:
        path = f"sum-{state['step']}.pt"
        torch.save(state, path + ".new")
        os.rename(path + ".new", path)
        print(json.dumps({"event": "checkpoint_saved", "path": path, "step": state["step"]}), flush=True)
    distributed.destroy_process_group()
"""


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[SlurmRuns]:
    python = os.environ.get("FRAMEWORKS_PYTHON")
    if python is None:
        pytest.fail("FRAMEWORKS_PYTHON is not set: run these tests by `make frameworks`")
    if missing := missing_programs():
        pytest.fail(f"{', '.join(missing)} not found: install Slurm by tests/slurm/install.sh")
    cluster = Cluster(first_port=first_port(3))
    made = SlurmRuns(tmp_path, cluster)
    made.environment["PATH"] = f"{Path(python).parent}:{made.environment['PATH']}"
    yield made
    made.clean_up()
    cluster.stop()


@pytest.mark.timeout(2400)
@pytest.mark.nightly
def test_torchrun_over_two_nodes(runs: SlurmRuns):
    """One command, an agent on each node, one group of four; stopped over both, saved, resumed, and nothing is left."""
    runs.script(SUM, "sum.py")
    words = ["--nodes", 2, "--cpus", 2, "--", "torchrun", "--nproc-per-node", 2, "sum.py", 10**9]
    runs.start("run", "--run-id", "r", "--grace", 60, *words)
    wait_for(lambda: runs.output("r").count('"step"') > 10)
    started = json.loads(runs.output("r").splitlines()[0])
    assert sorted(started["nodes"]) == sorted([*NODES, *NODES])
    assert runs.call("stop", "r").returncode == 0
    document = runs.document("r")
    (saved,) = document["checkpoints"]
    assert document["status"] == "stopped"
    assert document["metrics"]["sum"] == saved["step"] * (1 + 2 + 3 + 4)
    assert runs.call("resume", "r", "-d").returncode == 0
    wait_for(lambda: runs.output("r", 2).count('"step"') > 10)
    assert runs.call("stop", "r").returncode == 0
    assert json.loads(runs.output("r", 2).splitlines()[0])["from"] == saved["step"]
    document = runs.document("r")
    assert document["metrics"]["sum"] == document["last_step"] * (1 + 2 + 3 + 4)
    assert len(document["checkpoints"]) == 2
    wait_for(lambda: not runs.jobs())
    assert runs.tree() == []
    wait_for(lambda: not runs.cluster.steps())
