"""Plain PyTorch: scripts with a loop of their own that know nothing of Backprop."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import HANG_S, IS_NIGHTLY, nightly, wait_for
from tests.frameworks.conftest import EXAMPLES, WITHOUT_COMPILER, FrameworkRuns, last_step, make_framework_runs

EXAMPLE = EXAMPLES / "digits_pytorch.py"
EPOCHS = 16 if IS_NIGHTLY else 10
STEPS_PER_EPOCH = 45

# The weight is minus the number of steps made.
TRAINING = f"""{WITHOUT_COMPILER}
    from torch import nn

    torch.set_num_threads(1)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(1, 1, bias=False)
            self.norm = nn.BatchNorm1d(1)
            nn.init.zeros_(self.inner.weight)

    def make():
        model = Network()
        return model, torch.optim.SGD(model.inner.parameters(), lr=1.0, momentum=0.0)

    def step(model, optimizer, pause_s=0.0):
        model.norm(torch.randn(4, 1))
        optimizer.zero_grad()
        model.inner.weight.sum().backward()
        optimizer.step()
        time.sleep(pause_s)

    def state(model, optimizer, **more):
        return {{"model": model.state_dict(), "optimizer": optimizer.state_dict(), **more}}

    def forever(model, optimizer):
        while True:
            step(model, optimizer, 0.005)

    class Signals:
        '''Pickling it sends signals to this very process: they arrive in the middle of the save.'''
        def __init__(self, *names): self.names = names
        def __reduce__(self):
            for name in self.names: os.kill(os.getpid(), getattr(signal, name))
            return (int, ())
"""


def trained(runs: FrameworkRuns, body: str, *words: object, code: int = 0, **variables: str) -> dict:
    """The run of a script that goes on from `TRAINING`."""
    runs.script(TRAINING + body)
    done = runs.call("run", "train.py", "--run-id", "r", *words, **variables)
    assert done.returncode == code, done.stderr
    assert "is off from here on" not in done.stderr
    return runs.document("r")


def stopped(runs: FrameworkRuns, body: str, grace_s: int = 120) -> dict:
    """The same of a script that goes on until `backprop stop`, which comes after 20 steps."""
    runs.script(TRAINING + body)
    running = runs.start("run", "train.py", "--run-id", "r", "--grace", grace_s)
    runs.wait_for_step("r", 20)
    assert runs.call("stop", "r").returncode == 0
    running.wait(HANG_S)
    document = runs.document("r")
    assert document["status"] == "stopped"
    return document


def saved(document: dict) -> list[tuple[str, int]]:
    """Name and step of what was reported, in that order; emergencies apart."""
    return [(Path(c["path"]).name, c["step"]) for c in document["checkpoints"] if not c["emergency"]]


def emergencies(document: dict) -> list[dict]:
    return [checkpoint for checkpoint in document["checkpoints"] if checkpoint["emergency"]]


# -- the example


class Reference(NamedTuple):
    """What the example does when nobody disturbs it."""

    folder: Path
    printed: str


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    runs = make_framework_runs(tmp_path_factory.mktemp("reference"))
    printed = runs.bare(EXAMPLE, "--epochs", EPOCHS)
    return Reference(runs.work / "digits-pytorch", printed)


def assert_equal(runs: FrameworkRuns, reference: Reference) -> None:
    """The run's losses, and the last of its states down to the momentum, are those of the reference."""
    sessions = len(runs.document("r")["sessions"])
    lines = "".join(runs.output("r", number) for number in range(1, sessions + 1)).splitlines()
    epochs = {line.split(":")[0]: line for line in lines if line.startswith("epoch")}  # the last of each
    assert list(epochs.values()) == reference.printed.splitlines()
    for name in (f"epoch-{EPOCHS - 1:03}.pt", "final.pt"):
        assert (runs.work / "digits-pytorch" / name).read_bytes() == (reference.folder / name).read_bytes()


@pytest.mark.nightly
def test_timeboxes_and_no_timebox_give_the_same(framework_runs: FrameworkRuns, reference: Reference):
    """Cut wherever the timebox ends, resumed from the end of the last epoch: losses and weights bit for bit."""
    words = ("run", "--run-id", "r", "--resume-arg", "--resume", EXAMPLE, "--", "--epochs", EPOCHS)
    minutes = 0.06  # too short for all of it on any machine
    while True:
        done = framework_runs.call(words[0], "-m", minutes, *words[1:])
        assert done.returncode == 0, done.stderr
        document = framework_runs.document("r")
        if document["status"] == "completed":
            break
        words, minutes = ("resume", "r"), minutes * 1.4
    assert document["sessions"][0]["status"] == "timeboxed"
    assert any(session["resumed_from"] for session in document["sessions"])
    assert_equal(framework_runs, reference)
    assert document["last_step"] == EPOCHS * STEPS_PER_EPOCH
    assert saved(document)[-1] == (f"epoch-{EPOCHS - 1:03}.pt", EPOCHS * STEPS_PER_EPOCH)


def test_stops_at_arbitrary_steps_give_the_same(framework_runs: FrameworkRuns, reference: Reference):
    """And resuming takes what the script saved, never what was saved for it: that is all but what it had just saved."""
    cuts = [60, 233] if IS_NIGHTLY else [60]
    framework_runs.cut(("--resume-arg", "--resume", EXAMPLE, "--", "--epochs", EPOCHS), "r", cuts)
    assert_equal(framework_runs, reference)
    document = framework_runs.document("r")
    resumed = [Path(session["resumed_from"]).name for session in document["sessions"][1:]]
    assert all(name.startswith("epoch-") for name in resumed), resumed
    own = {(c["session"], c["step"]) for c in document["checkpoints"] if not c["emergency"]}
    stops = {(n, last_step(framework_runs.rundir("r") / f"session-{n}.events")) for n in range(1, len(cuts) + 1)}
    assert {(c["session"], c["step"]) for c in emergencies(document)} == stops - own


# -- what is a checkpoint, and how it is called


def test_what_is_reported(framework_runs: FrameworkRuns):
    """States and, until there is one, weights, under the name they keep; nothing else."""
    document = trained(
        framework_runs,
        """
    import io, pathlib, shutil
    from torch.serialization import save as save_too
    from safetensors.torch import save_file, save_model

    model, optimizer = make()
    step(model, optimizer)
    # not ours
    torch.save({"x": torch.zeros(100, 8), "y": torch.zeros(100)}, "dataset.pt")
    torch.save(torch.zeros(1, 1), "tensor.pt")
    torch.save(optimizer.state_dict(), "optimizer.pt")
    adam = torch.optim.Adam(model.inner.parameters()); adam.state[model.inner.weight]["exp_avg"] = torch.zeros(1, 1)
    torch.save(adam.state_dict(), "adam.pt")
    torch.save([torch.zeros(1, 1)] * 1000, "list.pt")
    torch.save(state(model, optimizer), io.BytesIO())
    # weights
    torch.save(model.state_dict(), "weights.pt")
    torch.save({"net": {k: v.clone().half() for k, v in model.state_dict().items()}, "epoch": 1}, "copies.pt")
    torch.save(model, "module.pt")
    save_file(model.state_dict(), "weights.safetensors")
    save_model(model, "model.safetensors")
    # states
    step(model, optimizer)
    torch.save(state(model, optimizer, epoch=7), "state.pt")
    save_too(obj={"trainer": {"all": [model.state_dict(), optimizer.state_dict()]}, "iteration": 70}, f=pathlib.Path("deep.pt"))
    torch.save({"model": model, "optimizer": optimizer, "global_step": torch.tensor(71)}, "objects.pt")
    torch.save(model.state_dict(), "weights-late.pt")
    # states that are renamed
    full = state(model, optimizer)
    torch.save(full, "a.pt.tmp"); os.replace("a.pt.tmp", "a.pt")
    torch.save(full, "b.tmp"); pathlib.Path("b.tmp").rename("b.pt")
    with open("c.pt.new", "wb") as file:
        torch.save(full, file); file.flush(); os.fsync(file.fileno())
    os.replace("c.pt.new", "c.pt")
    os.mkdir("elsewhere")
    torch.save(full, "d.tmp"); shutil.move("d.tmp", "elsewhere")
    os.mkdir("e.tmp"); torch.save(full, "e.tmp/e.pt"); os.rename("e.tmp", "e")
    torch.save(full, "f.tmp"); subprocess.run(["mv", "f.tmp", "f.pt"], check=True)
    step(model, optimizer)
    torch.save(full, "g.tmp")
    """,
    )
    assert saved(document) == [
        ("weights.pt", 1),
        ("copies.pt", 1),
        ("module.pt", 1),
        ("weights.safetensors", 1),
        ("model.safetensors", 1),
        ("state.pt", 2),
        ("deep.pt", 70),
        ("objects.pt", 71),
        ("a.pt", 2),
        ("b.pt", 2),
        ("c.pt", 2),
        ("d.tmp", 2),
        ("e.pt", 2),
        ("f.pt", 2),
        ("g.tmp", 3),
    ]
    assert all(checkpoint["valid"] for checkpoint in document["checkpoints"])
    paths = {str(Path(c["path"]).relative_to(framework_runs.work)) for c in document["checkpoints"]}
    assert {"elsewhere/d.tmp", "e/e.pt"} <= paths


@pytest.mark.nightly
def test_what_others_save_with(framework_runs: FrameworkRuns):
    """Into memory, a zip file, a pickle, a folder of shards; and states of optimizers that are not PyTorch's."""
    document = trained(
        framework_runs,
        """
    del torch._dynamo, sys.modules["torch._dynamo"]
    import io, pickle, zipfile
    import torch.distributed.checkpoint as dcp
    own_model = nn.Linear(2, 1)
    torch.save({"model": own_model.state_dict(), "opt": {"state": [{"mom": torch.zeros(2)}], "hypers": [{"lr": 1.0}]}}, "own-epoch-1.pt")
    torch.save({"model": own_model.state_dict(), "opt": {"name": "sgd"}}, "weights.pt")
    model, optimizer = make()
    step(model, optimizer)
    full = state(model, optimizer, epoch=7)
    buffer = io.BytesIO(); torch.save(full, buffer); open("memory.pt", "wb").write(buffer.getvalue())
    step(model, optimizer)
    with zipfile.ZipFile("policy.zip", "w") as archive:
        with archive.open("policy.pth", "w", force_zip64=True) as file: torch.save(full, file)
    step(model, optimizer)
    with open("pickle.pkl", "wb") as file: pickle.dump(full, file)
    step(model, optimizer)
    dcp.save(full, checkpoint_id="shards/1", no_dist=True)
    buffer = io.BytesIO(); torch.save({"x": torch.zeros(9, 9), "epoch": 1}, buffer)
    open("data.pt", "wb").write(buffer.getvalue())
    for folder in (".", "step-5", "step-6"):
        if folder != ".": step(model, optimizer); os.mkdir(folder)
        torch.save(model.state_dict(), folder + "/model.pt"); torch.save(optimizer.state_dict(), folder + "/optimizer.pt")
        if folder == "step-6": torch.save(model.state_dict(), folder + "/ema.pt")
    """,
    )
    expected = [("own-epoch-1.pt", 1), ("memory.pt", 1), ("policy.zip", 2), ("pickle.pkl", 3), ("1", 4)]
    assert saved(document) == [*expected, ("step-5", 5), ("step-6", 6)]
    assert all(c["valid"] and c["size_bytes"] and not c["weights_only"] for c in document["checkpoints"])


@pytest.mark.parametrize(
    ("ending", "newest"),
    [
        nightly('save("1.pt"); save("2.pt"); save("3.pt"); os.mkdir("old"); os.replace("1.pt", "old/1.pt")', "3.pt"),
        nightly('save("1.pt"); save("2.pt"); save("3.pt"); os.remove("3.pt"); os.replace("1.pt", "4.pt")', "2.pt"),
        ('save("all/1.pt"); save("all/2.pt"); save("all/1.pt"); os.rename("all", "old")', "old/1.pt"),
        nightly('save("1.tmp"); save("2.pt"); os.rename("1.tmp", "1.pt")', "2.pt"),
        nightly('file = open("1.pt", "wb"); save(file); save("2.pt"); file.close()', "2.pt"),
    ],
    ids=["into-a-folder", "the-newest-is-gone", "a-whole-folder", "draft", "open-file"],
)
def test_the_newest_state_is_resumed_from_whatever_moves(framework_runs: FrameworkRuns, ending: str, newest: str):
    """Not the one that was moved, renamed or closed last."""
    trained(
        framework_runs,
        f"""
    def save(where):
        step(model, optimizer)
        torch.save(state(model, optimizer), where)

    os.mkdir("all")
    model, optimizer = make()
    {ending}
    """,
    )
    framework_runs.script('sys.exit(os.path.relpath(os.environ["BACKPROP_RESUME_FROM"]))')
    assert framework_runs.call("resume", "r", "--again").stderr.splitlines().count(newest) == 1


@pytest.mark.nightly
def test_odd_places_to_save_in(framework_runs: FrameworkRuns):
    """What is no file of that name, or is gone at once, is no checkpoint; and what comes after it is one still."""
    document = trained(
        framework_runs,
        """
    import io, tempfile

    class Far(io.BytesIO):
        name = "https://example.com/model.pt"

    class Slots:
        __slots__ = ("file",)
        def __init__(self, path): self.file = open(path, "wb")
        def __getattr__(self, name): return getattr(self.file, name)

    model, optimizer = make()
    step(model, optimizer)
    full = state(model, optimizer)
    named = io.BytesIO(); named.name = "model.pt"
    torch.save(full, named)
    torch.save(full, "other.pt")
    named.name = "other.pt"
    torch.save(full, named)
    torch.save(full, Far())
    with open("unlinked.pt", "wb") as file:
        os.unlink("unlinked.pt")
        torch.save(full, file)
    with open("renamed.pt", "wb") as file:
        os.replace("renamed.pt", "away.pt")
        torch.save(full, "renamed.pt")
        torch.save(full, file)
    torch.save(full, Slots("slots.pt"))
    step(model, optimizer)
    with tempfile.NamedTemporaryFile(dir=".", prefix="kept-", suffix=".pt", delete=False) as file:
        torch.save(full, file)
    torch.save(full, "last.pt")
    """,
    )
    names = saved(document)
    others = [name for name, _ in names if not name.startswith("kept-")]
    assert others == ["other.pt", "renamed.pt", "slots.pt", "last.pt"]
    assert len(names) == 5


def test_best_weights_do_not_hide_the_last_state(framework_runs: FrameworkRuns):
    """In no session: best.pt is written first in each, and the second is killed right after."""
    body = """
    model, optimizer = make()
    if "BACKPROP_RESUME_FROM" in os.environ:
        step(model, optimizer)
        torch.save(model.state_dict(), "best.pt")
        os.kill(os.getpid(), signal.SIGKILL)
    step(model, optimizer)
    torch.save(state(model, optimizer), "last.pt")
    """
    trained(framework_runs, body)
    assert framework_runs.call("resume", "r", "--again").returncode == 137
    assert saved(framework_runs.document("r")) == [("last.pt", 1)]


def test_who_keeps_quiet(framework_runs: FrameworkRuns):
    """A framework's loop, saves that somebody else reports, data-loader workers, child processes, other ranks."""
    document = trained(
        framework_runs,
        """
    import multiprocessing
    from _backprop_trainer.link import current

    model, optimizer = make()

    class Data(torch.utils.data.Dataset):
        def __len__(self): return 1
        def __getitem__(self, index): return train("worker.pt")

    def train(name):
        step(model, optimizer)
        torch.save(state(model, optimizer), name)
        return 0

    if __name__ == "__main__":
        with current().training("framework"): train("framework.pt")
        with current().saving(): train("saving.pt")
        for _ in torch.utils.data.DataLoader(Data(), num_workers=1, multiprocessing_context="fork"): pass
        child = multiprocessing.get_context("fork").Process(target=train, args=("child.pt",))
        child.start(); child.join()
        os.environ["RANK"] = "1"
        train("rank.pt")
        del os.environ["RANK"]
        train("own.pt")
    """,
    )
    assert len(list(framework_runs.work.glob("*.pt"))) == 6
    assert saved(document) == [("own.pt", 3)]  # of its own steps; not the one in the framework's loop


CHILDREN = """
    import argparse, multiprocessing

    def train(resume, name, barrier=None):
        model, optimizer = make()
        first = 0
        if resume:
            content = torch.load(resume)
            model.load_state_dict(content["model"])
            first = content["step"]
        for number in range(first + 1, int(os.environ.get("LAST", 10**6)) + 1):
            step(model, optimizer, 0.005)
            if barrier is not None: barrier.wait()
            if number % 10 == 0: torch.save(state(model, optimizer, step=number), name)
        print("weight", model.inner.weight.item(), flush=True)

    def children(count, resume=None):
        context = multiprocessing.get_context(os.environ.get("METHOD", "spawn"))
        barrier = context.Barrier(count) if count > 1 else None
        started = [context.Process(target=train, args=(resume, f"{n}.pt", barrier)) for n in range(count)]
        for child in started: child.start()
        for child in started: child.join()

    if __name__ == "__main__":
        parser = argparse.ArgumentParser()
        parser.add_argument("--resume")
        options = parser.parse_args()
"""


@pytest.mark.parametrize("method", ["spawn", nightly("fork")])
def test_a_child_process_that_trains_alone_is_the_trainer(framework_runs: FrameworkRuns, method: str):
    """Its parent waits for it, or shows its progress. It is resumed, and its last steps are reported."""
    framework_runs.environment["METHOD"] = method
    first = stopped(framework_runs, CHILDREN + "        children(1, options.resume)")
    (name, step) = saved(first)[-1]
    assert name == "0.pt"
    done = framework_runs.call("resume", "r", LAST=str(step + 800))  # for more than two seconds
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"weight {-float(step + 800)}\n"
    document = framework_runs.document("r")
    assert document["sessions"][1]["resumed_from"] == str(framework_runs.work / "0.pt")
    assert document["last_step"] == step + 800
    assert document["sampled_metrics"] == ["loss"]


@pytest.mark.parametrize("method", ["fork", nightly("spawn")])
def test_children_that_train_at_the_same_time_keep_quiet(framework_runs: FrameworkRuns, method: str):
    """Whose step, and whose checkpoint, would it be? So do the workers of a pool."""
    framework_runs.environment["METHOD"] = method
    document = trained(framework_runs, CHILDREN + "        children(2)", LAST="800")
    assert len(list(framework_runs.work.glob("?.pt"))) == 2
    assert saved(document) == []
    body = "        multiprocessing.get_context(os.environ['METHOD']).Pool(1).apply(train, (None, 'pool.pt'))"
    framework_runs.script(TRAINING + CHILDREN + body)
    assert framework_runs.call("run", "train.py", "--run-id", "pool", LAST="800").returncode == 0
    document = framework_runs.document("pool")
    assert (document["last_step"], saved(document)) == (None, [])


def test_steps_are_counted(framework_runs: FrameworkRuns):
    """As many as the busiest optimizer made, named so and without a total; not more often than anybody can read."""
    document = trained(
        framework_runs,
        """
    first, second = make(), make()
    for _ in range(500):
        step(*first)
        if _ % 2: step(*second)
    """,
    )
    told = [json.loads(line) for line in framework_runs.events("r").splitlines()]
    assert all(line.get("counted") or line.get("sampled") for line in told)
    assert len(told) < 250
    assert (document["last_step"], document["total_steps"], document["step_unit"]) == (500, None, "optimizer step")


def test_steps_of_one_training_after_another_are_added(framework_runs: FrameworkRuns):
    """Folds, say. Optimizers inside of a training, for a part of it, do not count."""
    document = trained(
        framework_runs,
        """
    for fold in range(3):
        outer = make()
        for _ in range(10):
            step(*outer)
            inner = make()
            for _ in range(5): step(*inner)
        del inner
    """,
    )
    assert document["last_step"] == 30


@pytest.mark.nightly
def test_a_folder_of_accelerate(framework_runs: FrameworkRuns):
    """Reported whole, not the files in it."""
    document = trained(
        framework_runs,
        """
    del torch._dynamo, sys.modules["torch._dynamo"]  # which accelerate looks into
    from accelerate import Accelerator
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(*make())
    for epoch in range(2):
        step(model, optimizer)
        accelerator.save_state(f"epoch-{epoch}")
    accelerator.unwrap_model(model)
    torch.save(model.state_dict(), "weights.pt")
    """,
    )
    assert saved(document) == [("epoch-0", 1), ("epoch-1", 2)]
    assert all(checkpoint["valid"] and checkpoint["size_bytes"] for checkpoint in document["checkpoints"])


# -- the middle of a save


@pytest.mark.parametrize(
    "signals",
    [
        ("SIGINT", "SIGINT", "SIGTERM"),
        nightly(("SIGINT",)),
        nightly(("SIGTERM",)),
    ],
    ids="-".join,
)
def test_signals_in_the_middle_of_a_save_wait(framework_runs: FrameworkRuns, signals: tuple[str, ...]):
    """The save is whole and known, then the script ends: nothing deadlocks, nothing is torn, nothing is saved twice."""
    document = trained(
        framework_runs,
        f"""
    model, optimizer = make()
    step(model, optimizer)
    torch.save(state(model, optimizer, signals=Signals(*{signals})), "state.pt")
    print("never", flush=True)
    """,
        code=143 if signals == ("SIGTERM",) else 130,
    )
    assert saved(document) == [("state.pt", 1)]
    assert document["checkpoints"][0]["valid"]
    assert emergencies(document) == []
    assert framework_runs.output("r") == ""
    loaded = framework_runs.evaluate("import torch; print(torch.load('state.pt', weights_only=False)['signals'])")
    assert loaded == "0\n"


def test_a_save_that_a_kill_tears_is_not_resumed_from(framework_runs: FrameworkRuns):
    """It was never reported: what is resumed from is the one before."""
    body = """
    import resource
    model, optimizer = make()
    for number in range(3):
        step(model, optimizer)
        if number == 2:  # the kernel kills us in the middle of a write
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        torch.save(state(model, optimizer, much=torch.zeros(100_000)), f"state-{number}.pt")
    """
    document = trained(framework_runs, body, code=153)
    assert (framework_runs.work / "state-2.pt").stat().st_size == 100_000
    assert saved(document) == [("state-0.pt", 1), ("state-1.pt", 2)]
    framework_runs.script("")
    assert framework_runs.call("resume", "r").returncode == 0
    assert framework_runs.document("r")["sessions"][1]["offered"].endswith("state-1.pt")


# -- nobody answers

ENDINGS = {
    "uncaught": """
    def main():
        forever(*make())
    main()
    """,
    "swallowed": """
    def main():
        model, optimizer = make()
        forever(model, optimizer)
    try:
        main()
    except KeyboardInterrupt:
        print("bye", flush=True)
    """,
    "ignored": """
    signal.signal(signal.SIGINT, lambda *_: print("ignored", flush=True))
    forever(*make())
    """,
}


@pytest.mark.parametrize("ending", ["uncaught", nightly("swallowed"), nightly("ignored")])
def test_a_stop_that_nobody_answers_loses_nothing(framework_runs: FrameworkRuns, ending: str):
    """Weights, buffers, optimizer state and random states are in a file that torch loads by its safe defaults."""
    document = stopped(framework_runs, ENDINGS[ending], grace_s=12 if ending == "ignored" else 120)
    (emergency,) = emergencies(document)
    assert Path(emergency["path"]) == framework_runs.rundir("r") / "emergency-session-1.pt"
    assert "emergency" in framework_runs.call("status", "r").stdout
    loaded = framework_runs.evaluate(
        """
        import json, sys, torch
        saved = torch.load(sys.argv[1])
        (model,), (optimizer,) = saved["models"], saved["optimizers"]
        weights = model["state_dict"]
        print(json.dumps([
            saved["step"], -weights["inner.weight"].item(), weights["norm.num_batches_tracked"].item(),
            model["class"], optimizer["class"], optimizer["state_dict"]["param_groups"][0]["lr"],
            optimizer["parameters"], sorted(saved["random"]),
        ]))
        """,
        emergency["path"],
    )
    step, weight, batches, *others = json.loads(loaded)
    assert step == emergency["step"] == weight
    assert 0 <= batches - weight <= 1  # the step that the interrupt broke off may have begun
    assert step >= 20
    assert others[:4] == ["Network", "SGD", 1.0, []]
    assert {"python", "torch"} <= set(others[4])
    assert saved(document) == []


@pytest.mark.parametrize(
    "body",
    [
        nightly("""
    model, optimizer = make()
    try:
        forever(model, optimizer)
    except KeyboardInterrupt:
        torch.save(state(model, optimizer), "answer.pt")
    """),
        """
    asked = []
    signal.signal(signal.SIGINT, lambda *_: asked.append(1))
    model, optimizer = make()
    while not asked:
        step(model, optimizer, 0.005)
    torch.save(state(model, optimizer), "answer.tmp")
    os.replace("answer.tmp", "answer.pt")
    """,
    ],
    ids=["except", "handler"],
)
def test_a_script_that_answers_is_left_alone(framework_runs: FrameworkRuns, body: str):
    document = stopped(framework_runs, body)
    assert document["exit_code"] == 0
    assert saved(document) == [("answer.pt", document["last_step"])]
    assert emergencies(document) == []


THREADS = """
    import threading

    class Slow(torch.optim.SGD):
        # two weights that are equal between two steps
        def step(self, closure=None):
            for weight in self.param_groups[0]["params"]:
                with torch.no_grad():
                    weight -= 1
                time.sleep(0.01)

    def train():
        model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
        for weight in model.parameters():
            nn.init.zeros_(weight)
        optimizer = Slow(model.parameters(), lr=1.0)
        print("trains", flush=True)
        while True:
            optimizer.step()

    threads = [threading.Thread(target=train, daemon=True) for _ in range(COUNT)]
    [thread.start() for thread in threads]
"""


@pytest.mark.parametrize(
    ("count", "ending"),
    [
        (1, "time.sleep(1000)"),
        nightly(2, "signal.signal(signal.SIGINT, signal.SIG_IGN)\n    time.sleep(1000)"),
    ],
)
def test_what_threads_train_is_kept_once_and_of_one_step(framework_runs: FrameworkRuns, count: int, ending: str):
    """The main thread may end while another is in the middle of a step, and two may find that it is time to save."""
    framework_runs.script(TRAINING + THREADS.replace("COUNT", str(count)) + f"    {ending}\n")
    process = framework_runs.start("run", "train.py", "--run-id", "r", "--grace", "60")
    wait_for(lambda: framework_runs.output("r").count("trains") == count)
    framework_runs.wait_for_step("r", 5)
    framework_runs.call("stop", "r")
    process.wait(HANG_S)
    (told,) = [line for line in framework_runs.events("r").splitlines() if '"emergency"' in line]
    program = """
        import sys, torch
        weights = [int(w) for m in torch.load(sys.argv[1])["models"] for w in m["state_dict"].values()]
        print(weights[0::2] == weights[1::2], -min(weights))
    """
    path, step = json.loads(told)["path"], json.loads(told)["step"]
    assert framework_runs.evaluate(program, path) == f"True {step}\n"


@pytest.mark.nightly
def test_weights_that_are_in_no_module(framework_runs: FrameworkRuns):
    """Are in the file as the optimizer's parameters. It is not resumed from unasked."""
    document = trained(
        framework_runs,
        """
    weights = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        weights.sum().backward()
        optimizer.step()
    raise KeyboardInterrupt
    """,
        code=130,
    )
    (emergency,) = emergencies(document)
    assert framework_runs.call("resume", "r").returncode == 130
    assert framework_runs.document("r")["sessions"][1]["resumed_from"] is None
    program = "import sys, torch; print(torch.load(sys.argv[1])['optimizers'][0]['parameters'][0].tolist())"
    assert framework_runs.evaluate(program, emergency["path"]) == "[-3.0, -3.0]\n"


@pytest.mark.nightly
def test_two_ranks(framework_runs: FrameworkRuns):
    """torchrun and DDP: rank 0 alone reports, an accelerate folder when the other one's files are in it, too."""
    framework_runs.script(
        TRAINING
        + """
    del torch._dynamo, sys.modules["torch._dynamo"]  # which accelerate looks into
    from accelerate import Accelerator
    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    model = nn.Linear(1, 1)
    model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for number in range(4):
        optimizer.zero_grad()
        accelerator.backward(model(torch.ones(2, 1)).sum())
        optimizer.step()
        if number == 1:
            if rank == 1: time.sleep(1)
            accelerator.save_state("state")
    if rank == 0: torch.save(state(model, optimizer), "last.pt")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    """
    )
    command = (framework_runs.python, "-m", "torch.distributed.run", "--nproc-per-node", 2, "train.py")
    done = framework_runs.call("run", "--run-id", "r", "--", *command)
    assert done.returncode == 0, done.stderr
    document = framework_runs.document("r")
    assert saved(document) == [("state", 2), ("last.pt", 4)]
    assert document["last_step"] == 4
    measured = [entry for entry in framework_runs.journal("r") if entry["event"] == "checkpoint_measured"]
    files = {entry[0] for entry in measured[0]["manifest"]}
    assert {"random_states_0.pkl", "random_states_1.pkl"} <= files


STEPS = f"""{WITHOUT_COMPILER}
    import time
    torch.set_num_threads(1)
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    def train(steps, pause_s=0.0):
        for _ in range(steps):
            model(torch.ones(1, 2)).sum().backward()
            optimizer.step()
            time.sleep(pause_s)
"""


def test_steps_go_on_only_where_the_script_goes_on(framework_runs: FrameworkRuns):
    """A script that does not read its checkpoint trains from the beginning, and its steps say so."""
    runs = framework_runs
    save = '    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "a.pt")\n'
    runs.script(STEPS + "    train(30)\n" + save)
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 0
    assert runs.call("resume", "r", "--again").returncode == 0
    assert runs.document("r")["last_step"] == 30
    runs.script(STEPS + '    import os; torch.load(os.environ["BACKPROP_RESUME_FROM"])\n    train(12)\n' + save)
    assert runs.call("resume", "r", "--again").returncode == 0
    assert runs.document("r")["last_step"] == 42


@pytest.mark.nightly
def test_steps_go_on_however_the_checkpoint_is_read(framework_runs: FrameworkRuns):
    runs = framework_runs
    save = '    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "a.pt")\n'
    runs.script(STEPS + "    train(42)\n" + save)
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 0
    # as torch.distributed.checkpoint, or out of a zip file
    read = '    import io, os; torch.load(io.BytesIO(open(os.environ["BACKPROP_RESUME_FROM"], "rb").read()))\n'
    runs.script(STEPS + read + "    train(8)\n" + save)
    assert runs.call("resume", "r", "--again").returncode == 0
    assert runs.document("r")["last_step"] == 50
    # by another process, once the supervisor has seen that; what is read after it was saved anew continues nothing
    child = '    import os, subprocess; subprocess.run(["cat", os.environ["BACKPROP_RESUME_FROM"]], stdout=subprocess.DEVNULL)\n'
    wait = '    while b\'"checkpoint_was_read":true\' not in open(os.environ["BACKPROP_CONTROL"], "rb").read(): time.sleep(0.01)\n'
    runs.script(STEPS + child + "    train(3)\n" + wait + "    time.sleep(0.2)\n    train(2)\n" + save)
    assert runs.call("resume", "r", "--again").returncode == 0
    assert runs.document("r")["last_step"] == 55
    runs.script(STEPS + "    train(4)\n" + save + '    torch.load("a.pt")\n    train(1)\n' + save)
    assert runs.call("resume", "r", "--again").returncode == 0
    assert '"step":5,' in (runs.rundir("r") / "session-4.events").read_text().replace(" ", "")


SAVED_STEPS = """
    import os, shutil
    def save(step, path="last.pt"):
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, path)
"""


@pytest.mark.parametrize(
    ("second", "step"),
    [
        ('shutil.copy("last.pt", "old.pt"); train(10); save(10); train(2)', 12),  # a copy is a read, too
        nightly('train(10); torch.load("last.pt"); train(2)', 12),
        ('torch.load(".hidden.pt"); train(10); save(40); train(2)', 42),
        nightly('train(1); torch.load("last.pt"); train(11)', 42),
    ],
    ids=["it copies it and starts over", "it reads it at the end", "it reads a copy", "it makes a step before"],
)
def test_steps_are_those_of_the_script(framework_runs: FrameworkRuns, second: str, step: int):
    """Whether they count on from the earlier session is told by what was read when, and at last by the saved step."""
    framework_runs.script(STEPS + SAVED_STEPS + '    train(30); save(30, ".hidden.pt"); save(30)\n')
    assert framework_runs.call("run", "train.py", "--run-id", "r").returncode == 0
    framework_runs.script(STEPS + SAVED_STEPS + f"    {second}\n")
    assert framework_runs.call("resume", "r", "--again").returncode == 0
    assert framework_runs.document("r")["last_step"] == step


@pytest.mark.nightly
def test_a_stop_looks_as_it_does_without_us(framework_runs: FrameworkRuns):
    """The traceback of the KeyboardInterrupt ends where the script was."""
    runs = framework_runs
    runs.script(STEPS + '    train(20)\n    print("ready", flush=True)\n    train(100_000, 0.01)\n')
    running = runs.start("run", "train.py", "--run-id", "r")
    wait_for(lambda: "ready" in runs.output("r"))
    assert runs.call("stop", "r").returncode == 0
    assert running.wait(HANG_S) == 0
    told = (runs.rundir("r") / "session-1.err").read_text()
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert "train.py" in told
    assert "deferred_signals.py" not in told


# -- checkpoints that are written over

IN_PLACE = """
    model, optimizer = make()
    for number in range(1, int(os.environ["SAVES"]) + 1):
        step(model, optimizer)
        end = Signals("SIGKILL") if number == int(os.environ.get("KILLED_AT", 0)) else None
        torch.save(state(model, optimizer, step=number, noise=torch.rand(100_000), end=end), "last.pt")
    os._exit(1)
"""
LOADS = """
    import torch
    print(torch.load(os.environ["BACKPROP_RESUME_FROM"])["step"])
"""


def test_a_save_in_place_that_is_killed_loses_nothing(framework_runs: FrameworkRuns):
    """By C++ code that opens the file itself."""
    framework_runs.script(TRAINING + IN_PLACE)
    assert framework_runs.call("run", "--run-id", "r", "train.py", SAVES="3", KILLED_AT="3").returncode == 137
    framework_runs.script(LOADS)
    assert framework_runs.call("resume", "r").stdout == "2\n"
    assert [path.name for path in framework_runs.work.iterdir() if path.suffix == ".pt"] == ["last.pt"]


def test_a_script_that_begins_anew_does_not_destroy_what_there_was(framework_runs: FrameworkRuns):
    framework_runs.script(TRAINING + IN_PLACE)
    framework_runs.call("run", "--run-id", "r", "train.py", SAVES="5")
    told = framework_runs.call("resume", "r", SAVES="2").stderr
    assert "the old one (step 5) is kept as" in told
    assert framework_runs.document("r")["sessions"][1]["started_over"] is True
    kept = [one["step"] for one in framework_runs.document("r")["checkpoints"] if one["kept"]]
    assert kept == [5]
    framework_runs.script(LOADS)
    assert framework_runs.call("resume", "r").stdout == "5\n"


def test_what_hdf5_and_safetensors_hold(framework_runs: FrameworkRuns):
    """Told by the names in them; a step by an attribute, a data set or the metadata. What is in memory is no file."""
    framework_runs.script(
        """
        import io, numpy, h5py, safetensors.numpy
        ones = numpy.ones(9)
        def hdf5(path, attributes=(), **arrays):
            with h5py.File(path, "w") as file:
                file.attrs.update(attributes)
                for name, array in arrays.items(): file[name.replace("_of_", "/")] = array
        hdf5("data.h5", x=ones, y=ones)
        hdf5("weights.h5", {"epoch": 1}, weights_of_w=ones)
        hdf5("a.h5", {"epoch": 2}, model_of_w=ones, optimizer_of_m=ones)
        hdf5("b.h5.tmp", model_of_w=ones, optimizer_of_m=ones, step=numpy.int64(3)); os.rename("b.h5.tmp", "b.h5")
        safetensors.numpy.save_file({"x": ones}, "data.safetensors")
        safetensors.numpy.save_file({"model.w": ones, "optimizer.m": ones}, "c.safetensors", metadata={"step": "4"})
        h5py.File("a.h5", "r").close()
        hdf5(io.BytesIO(), model_of_w=ones, optimizer_of_m=ones)
        """
    )
    done = framework_runs.call("run", "--run-id", "r", "train.py")
    assert done.returncode == 0, done.stderr
    assert "is off from here on" not in done.stderr
    document = framework_runs.document("r")
    assert saved(document) == [("weights.h5", 1), ("a.h5", 2), ("b.h5", 3), ("c.safetensors", 4)]
    assert [one["weights_only"] for one in document["checkpoints"]] == [True, False, False, False]


def test_libraries_that_open_files_by_themselves(framework_runs: FrameworkRuns):
    """safetensors, XGBoost, LightGBM and HDF5: what they write over is kept, and what they read is seen to be read."""
    framework_runs.script(
        """
        import numpy, h5py, lightgbm, safetensors.numpy, xgboost
        from _backprop_trainer import file_events

        rows, labels = numpy.random.rand(50, 2), numpy.arange(50) % 2
        forest = xgboost.train({}, xgboost.DMatrix(rows, labels), 1)
        trees = lightgbm.train({"verbose": -1}, lightgbm.Dataset(rows, labels), 1)
        def dataset(path, mode):
            with h5py.File(path, mode) as file:
                file.require_dataset("x", shape=(9,), dtype="f8")
        writes = {
            "a.safetensors": lambda path: safetensors.numpy.save_file({"x": rows}, path),
            "a.json": forest.save_model,
            "a.txt": trees.save_model,
            "a.h5": lambda path: dataset(path, "w"),
            "b.h5": lambda path: dataset(path, "a"),
        }
        for name, write in writes.items():
            write(name)
            file_events.checkpoint_is_reported(name, 1)
            write(name)
            print(name, os.path.exists(f".{name[0]}.r.before-save{name[1:]}"))
        reads = {
            "a.json": lambda path: xgboost.Booster(model_file=path),
            "a.txt": lambda path: lightgbm.Booster(model_file=path),
            "a.h5": lambda path: h5py.File(path).close(),
        }
        for name, read in reads.items():
            seen = []
            file_events.on_first_read(os.path.realpath(name), lambda: seen.append(name))
            assert not seen
            read(name)
            print("read", seen)
        """
    )
    done = framework_runs.call("run", "--run-id", "r", "train.py")
    lines = done.stdout.splitlines()
    names = ("a.safetensors", "a.json", "a.txt", "a.h5", "b.h5")
    read = [f"read ['{name}']" for name in ("a.json", "a.txt", "a.h5")]
    assert lines == [*(f"{name} True" for name in names), *read], done.stderr
    assert "is off from here on" not in done.stderr
