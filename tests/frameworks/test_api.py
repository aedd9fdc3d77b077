"""`import backprop` in PyTorch scripts, in an environment where Backprop is not installed."""

from pathlib import Path

import pytest

from tests.conftest import HANG_S, nightly, wait_for
from tests.frameworks.conftest import EXAMPLES, WITHOUT_COMPILER, FrameworkRuns, assert_first_step_has_total

SOURCE = Path(__file__).parents[2] / "src"
EXAMPLE = EXAMPLES / "digits_backprop.py"

# Where order and randomness of the data come from is in the arguments; waits for a stop at the steps that follow them.
LOADERS = (
    WITHOUT_COMPILER
    + """
    import json, os, sys, time
    import backprop
    from torch import nn
    from torch.utils.data import DataLoader, RandomSampler, TensorDataset

    torch.set_num_threads(1)
    torch.manual_seed(5)
    images, labels = torch.randn(24, 6), torch.randint(0, 3, (24,))

    class Noisy(TensorDataset):
        def __getitem__(self, index):
            image, label = super().__getitem__(index)
            return image + torch.randn(6), label

    def loader(kind):
        data, seeded = TensorDataset(images, labels), torch.Generator().manual_seed(7)
        return {
            "global": lambda: DataLoader(Noisy(images, labels), 4, shuffle=True),
            "generator": lambda: DataLoader(data, 4, shuffle=True, generator=seeded),
            "sampler": lambda: DataLoader(data, 4, sampler=RandomSampler(data, replacement=True, generator=seeded)),
            "workers": lambda: DataLoader(Noisy(images, labels), 4, shuffle=True, num_workers=2),
            "persistent": lambda: DataLoader(data, 4, shuffle=True, num_workers=1, persistent_workers=True),
            "own state": lambda: Own(24),
        }[kind]()

    class Own:  # a loader that knows where it is, and shuffles by a random state of its own
        def __init__(self, size):
            self.order, self.at, self.rng = [], 0, torch.Generator().manual_seed(3)
        def __len__(self):
            return 6
        def state_dict(self):
            return {"order": self.order, "at": self.at, "rng": self.rng.get_state()}
        def load_state_dict(self, state):
            self.order, self.at = state["order"], state["at"]
            self.rng.set_state(state["rng"])
        def __iter__(self):
            if self.at == len(self.order):
                self.order, self.at = torch.randperm(24, generator=self.rng).tolist(), 0
            while self.at < len(self.order):
                self.at += 4
                chosen = self.order[self.at - 4 : self.at]
                yield images[chosen], labels[chosen]

    if __name__ == "__main__":
        kind, *cuts = sys.argv[1:]
        model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        average = torch.zeros(3)
        state = {"model": model, "optimizer": optimizer, "average": average, "steps": 0}
        for epoch, (inputs, targets) in backprop.loop(loader(kind), epochs=4, state=state):
            loss = nn.functional.cross_entropy(model(inputs), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average.mul_(0.9).add_(model[2].bias.detach(), alpha=0.1)
            state["steps"] += 1
            backprop.log(loss=loss)
            print(f"{state['steps']} {loss.item()!r}", flush=True)
            if str(state["steps"]) in cuts:
                open(f"at-{state['steps']}", "w").close()
                while not backprop.should_stop():
                    time.sleep(0.01)
        if not backprop.should_stop():
            print(average.tolist(), torch.rand(1).item(), [p.tolist() for p in model.parameters()])
"""
)


def without_a_run(runs: FrameworkRuns, script: Path, *words: object) -> str:
    """What a script prints that runs alone, where Backprop can be imported."""
    before, runs.environment = runs.environment, {**runs.environment, "PYTHONPATH": str(SOURCE)}
    try:
        return runs.bare(script, *words)
    finally:
        runs.environment = before


def cut_at(runs: FrameworkRuns, words: list[object], cuts: list[int]) -> str:
    """What all sessions print together, when each is stopped at the next of these steps."""
    running = runs.start("run", "--run-id", "r", *words, *cuts)
    for cut in cuts:
        wait_for(lambda cut=cut: (runs.work / f"at-{cut}").exists())
        assert runs.call("stop", "r").returncode == 0
        assert running.wait(HANG_S) == 0
        running = runs.start("resume", "r")
    assert running.wait(HANG_S) == 0
    assert runs.document("r")["status"] == "completed"
    return "".join(runs.output("r", session) for session in range(1, len(cuts) + 2))


@pytest.mark.nightly
def test_the_example_cut_anywhere_is_the_same_run(framework_runs: FrameworkRuns):
    """Losses and final weights of the run that was never cut, bit for bit, with workers that draw random numbers."""
    runs = framework_runs
    options = ["--workers", 2, "--epochs", 6]
    program = """
        import sys, torch
        for path in sys.argv[1:]:
            print({name: tensor.tolist() for name, tensor in torch.load(path).items()})
    """
    assert runs.call("run", "--run-id", "whole", EXAMPLE, "--", *options, "--out", "a.pt").returncode == 0
    runs.cut([EXAMPLE, "--", *options, "--out", "b.pt"], "cut", [20, 100, 200])
    whole, cut = runs.evaluate(program, "a.pt", "b.pt").splitlines()
    assert cut == whole
    for name in ("loss", "lr", "test_accuracy"):
        assert runs.curve("cut", name) == runs.curve("whole", name) != {}
    assert list(runs.curve("cut", "loss")) == list(range(1, 271))


@pytest.mark.parametrize(
    ("kind", "cuts"),
    [
        nightly("global", [2, 12]),
        nightly("generator", [8]),
        nightly("sampler", [8]),
        ("workers", [9]),
        nightly("persistent", [8]),
        nightly("own state", [6, 9]),
    ],
)
def test_order_and_randomness_of_data_go_on(framework_runs: FrameworkRuns, kind: str, cuts: list[int]):
    """Wherever they come from: the same losses, weights and next random number."""
    script = framework_runs.script(LOADERS)
    expected = without_a_run(framework_runs, script, kind)
    assert cut_at(framework_runs, [script, "--", kind], cuts) == expected


def test_checkpoints_are_saved_when_they_are_wanted_and_are_whole(framework_runs: FrameworkRuns):
    """Periodically, and at a stop: files that PyTorch can read."""
    runs = framework_runs
    running = runs.start("run", "--run-id", "r", "-c", 0.01, EXAMPLE, "--", "--epochs", 100000)
    wait_for(lambda: runs.events("r").count("checkpoint_saved") >= 2)
    assert runs.call("stop", "r").returncode == 0
    assert running.wait(HANG_S) == 0
    document = runs.document("r")
    assert (document["status"], document["exit_code"]) == ("stopped", 0)
    assert_first_step_has_total(runs, "r", "batch")
    checkpoints = document["checkpoints"]
    assert len(checkpoints) >= 3
    assert all(checkpoint["valid"] for checkpoint in checkpoints)
    assert checkpoints[-1]["step"] == document["last_step"]
    program = "import sys, torch; print(torch.load(sys.argv[1], weights_only=False)['step'])"
    assert int(runs.evaluate(program, checkpoints[-1]["path"])) == document["last_step"]


# Two processes on the CPU; each has random states and data of its own, gradients are averaged.
TWO = """
    import json, os, sys, time
    import torch
    import torch.distributed as dist
    import backprop
    from torch import nn
    from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(5)
    data = TensorDataset(torch.randn(48, 6), torch.randint(0, 3, (48,)))
    model = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    torch.manual_seed(100 + rank)
    loader = DataLoader(data, 4, sampler=DistributedSampler(data, shuffle=True))
    lines = open(f"lines-{sys.argv[1]}-{rank}", "a", buffering=1)
    steps = 0
    state = {"model": model, "optimizer": optimizer, "steps": 0}
    for epoch, (inputs, targets) in backprop.loop(loader, epochs=5, state=state):
        loss = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state["steps"] += 1
        backprop.log(loss=loss.item())
        print(state["steps"], loss.item(), file=lines)
        if rank == 0 and str(state["steps"]) in sys.argv[2:]:
            open(f"at-{state['steps']}", "w").close()
            while not backprop.should_stop():
                time.sleep(0.01)
    if not backprop.should_stop():
        print([p.tolist() for p in model.parameters()], torch.rand(1), file=lines)
    dist.destroy_process_group()
"""


RANKS = """
import os, model
import torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
open(f"rank-{rank}", "a").write(model.NAME)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.nightly
def test_ranks_run_from_the_snapshot(framework_runs: FrameworkRuns):
    """torchrun names the script by a relative path: each rank executes what was submitted, in the user's folder."""
    runs = framework_runs
    runs.script(RANKS)
    (runs.work / "model.py").write_text("NAME = 'one'\n")
    torchrun = [runs.python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "train.py"]
    assert runs.call("run", "--snapshot", "--run-id", "r", "--", *torchrun).returncode == 0
    (runs.work / "model.py").write_text("NAME = 'three'\n")
    assert runs.call("resume", "r", "--again").returncode == 0
    assert [(runs.work / f"rank-{rank}").read_text() for rank in range(2)] == ["oneone"] * 2


@pytest.mark.nightly
def test_two_processes_stop_at_the_same_step_and_go_on_alike(framework_runs: FrameworkRuns):
    """None is left waiting for the other; each has its own random states and data back."""
    runs = framework_runs
    script = runs.script(TWO)
    torchrun = [runs.python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, script]
    assert runs.call("run", "--run-id", "whole", "--", *torchrun, "whole").returncode == 0
    cut_at(runs, ["--", *torchrun, "cut"], [4, 20])
    for rank in range(2):
        whole, cut = ((runs.work / f"lines-{name}-{rank}").read_text() for name in ("whole", "cut"))
        assert whole == cut
    assert (runs.work / "lines-cut-0").read_text() != (runs.work / "lines-cut-1").read_text()
    assert runs.curve("r", "loss") == runs.curve("whole", "loss")
