"""tqdm: which bars are of the whole training, and the time that remains by them."""

import json

from tests.conftest import wait_for
from tests.frameworks.conftest import FrameworkRuns


def totals(runs: FrameworkRuns) -> list[int]:
    """Of the bars that the hook reported."""
    events = [json.loads(line) for line in runs.events("a").splitlines()]
    return [event["total"] for event in events if event.get("event") == "bar"]


def test_only_bars_outside_of_loops_may_be_of_the_whole_training(framework_runs: FrameworkRuns):
    """Wherever the loop is: around the bar, or around a call of the function that makes it."""
    runs = framework_runs
    runs.script("""
        from tqdm import tqdm, trange
        from tqdm.auto import tqdm as automatic
        def train():
            for _ in tqdm(range(5)):
                pass
        def main():
            for _ in tqdm(range(3)):
                train()
        main()
        for _ in range(2):
            for _ in tqdm(range(11)):
                pass
            train()
        seen = []
        while len(seen := [*seen, None]) < 3:
            tqdm(total=13).close()
        [list(tqdm(range(19))) for _ in range(2)]
        with automatic(total=17) as bar:
            for _ in range(17):
                bar.update()
        for _ in trange(23):
            pass
        tqdm(total=29, disable=True)
        tqdm(iter(()))
    """)
    done = runs.call("run", "--run-id", "a", "train.py")
    assert done.returncode == 0, done.stderr
    assert totals(runs) == [3, 17, 23]


def test_bars_of_libraries_are_not_of_the_training(framework_runs: FrameworkRuns):
    """Such as of a download; wherever the system keeps its libraries."""
    runs = framework_runs
    runs.script("""
        from tqdm import tqdm
        def load(folder, total):
            library = {}
            exec(compile("def bar(make, total): make(total=total)", f"/usr/lib/{folder}/library.py", "exec"), library)
            library["bar"](tqdm, total)
        load("site-packages", 3)
        load("dist-packages", 5)
        tqdm(total=7)
    """)
    done = runs.call("run", "--run-id", "a", "train.py")
    assert done.returncode == 0, done.stderr
    assert totals(runs) == [7]


def test_a_plain_loop_has_an_estimate(framework_runs: FrameworkRuns):
    """Of PyTorch, by the bar in which the optimizer steps: not by that of the preparation before it."""
    runs = framework_runs
    runs.script("""
        import torch
        from tqdm import tqdm
        layer = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(layer.parameters())
        for _ in tqdm(range(10)):
            time.sleep(0.01)
        for _ in tqdm(range(100_000)):
            layer(torch.ones(2)).backward()
            optimizer.step()
            time.sleep(0.01)
    """)
    running = runs.start("run", "--run-id", "a", "train.py")
    wait_for((runs.rundir("a") / "run.json").exists)
    wait_for(lambda: runs.document("a")["remaining_s"] is not None)
    document = runs.document("a")
    assert document["remaining_is_estimate"] is True
    assert document["remaining_s"] > 100
    assert (document["total_steps"], document["step_unit"]) == (None, "optimizer step")
    assert "ETA" in runs.call("list").stdout
    runs.call("stop", "a")
    running.wait()


def test_the_bar_of_an_epoch_gives_no_estimate(framework_runs: FrameworkRuns):
    """However long it is: another one follows."""
    runs = framework_runs
    runs.script("""
        from tqdm import tqdm
        for epoch in range(2):
            for step in tqdm(range(100_000)):
                time.sleep(0.01)
                if step == 400:
                    open(f"epoch-{epoch}", "w")
    """)
    running = runs.start("run", "--run-id", "a", "train.py")
    wait_for((runs.work / "epoch-0").exists)
    assert runs.document("a")["remaining_s"] is None
    assert runs.document("a")["total_steps"] is None
    runs.call("stop", "a")
    running.wait()
