"""The loss of PyTorch scripts that report none: taken from what they call `.backward()` on."""

import json
from pathlib import Path

import pytest

from tests.conftest import nightly
from tests.frameworks.conftest import WITHOUT_COMPILER, FrameworkRuns, made_once, make_framework_runs

# Each training is a function; what would have been reported of it, at any instant, is printed: [step, name, value]
TRAININGS = """
    import inspect, json, math, pickle, sys, threading, torch
    from torch import nn
    from _backprop_trainer.hooks.pytorch import hook

    torch.set_num_threads(1)
    monitor, results = hook._monitor, {}
    now = [1e9]

    def taken():
        now[0] += 1e6
        return [[s.step, s.name, round(s.value, 5)] for s in monitor.losses.samples(now[0])]

    def training(function):
        monitor._most, monitor._counts = 0, {}
        monitor.losses._curves.clear()
        monitor.losses._made = 0
        monitor.losses._takes_turns, monitor.losses._last = False, None
        monitor.losses.is_watching = True
        monitor.losses._breaks_at, monitor.losses._has_breaks = math.inf, False  # every step is watched
        taken()
        results[function.__name__] = function()
        assert "sampled losses" not in __import__("_backprop_trainer.failsafe").failsafe._off, function.__name__

    # the loss of a Weight is its value, which an SGD step makes smaller by the number of backward passes
    def weight(value):
        return nn.Parameter(torch.tensor(float(value)))

    def sgd(*weights, lr=1.0):
        return torch.optim.SGD(weights, lr=lr)

    def loss(w, factor=1.0):
        return w * factor

    @training
    def plain():
        w = weight(10); optimizer = sgd(w); found = []
        for _ in range(3):
            optimizer.zero_grad(); loss(w).backward(); optimizer.step(); found.append(taken())
        return found

    @training
    def accumulated():
        w = weight(8); optimizer = sgd(w)
        for _ in range(2):
            optimizer.zero_grad()
            for _ in range(4):
                loss(w, 1 / 4).backward()
            optimizer.step()
        return taken()

    @training
    def adversarial():
        model = nn.Linear(1, 1, bias=False); model.weight.data.fill_(5.0); optimizer = sgd(*model.parameters())
        for _ in range(2):
            for _ in range(3):
                (100 * model.weight.sum()).backward()
                model.zero_grad()
            loss(model.weight.sum()).backward(); optimizer.step(); optimizer.zero_grad()
        return taken()

    class Sam(torch.optim.Optimizer):  # as in github.com/davda54/sam
        def __init__(self, params):
            super().__init__(params, {})
            self.base = torch.optim.SGD(self.param_groups, lr=1.0); self.param_groups = self.base.param_groups
        def first_step(self):
            for p in self.param_groups[0]["params"]:
                p.data.add_(p.grad)
            self.zero_grad()
        def second_step(self):
            for p in self.param_groups[0]["params"]:
                p.data.sub_(1.0)
            self.base.step(); self.zero_grad()

    @training
    def sharpness_aware():
        w = weight(10); optimizer = Sam([w])
        for _ in range(3):
            loss(w).backward(); optimizer.first_step(); loss(w).backward(); optimizer.second_step()
        return taken()

    @training
    def gan():
        d, g = weight(10), weight(100); optimizer_d, optimizer_g = sgd(d), sgd(g); found = []
        for _ in range(3):
            optimizer_d.zero_grad(); loss(d).backward(); loss(d, 2.0).backward(); optimizer_d.step()
            optimizer_g.zero_grad(); loss(g).backward(); optimizer_g.step()
            found.append(taken())
        return found

    @training
    def critics():
        d, g = weight(100), weight(1000); optimizer_d, optimizer_g = sgd(d), sgd(g)
        for _ in range(3):
            for _ in range(5):
                optimizer_d.zero_grad(); loss(d).backward(); optimizer_d.step()
            optimizer_g.zero_grad(); loss(g).backward(); optimizer_g.step()
        return taken()

    @training
    def two_optimizers_of_one_loss():
        a, b = weight(10), weight(20); optimizers = [sgd(a), sgd(b)]
        for _ in range(3):
            (loss(a) + loss(b)).backward()
            for optimizer in optimizers:
                optimizer.step(); optimizer.zero_grad()
        return taken()

    @training
    def one_training_after_the_other():
        for value in (10, 20):
            w = weight(value); optimizer = sgd(w)
            for _ in range(3):
                optimizer.zero_grad(); loss(w).backward(); optimizer.step()
            yielded = taken()
        return yielded

    @training
    def closure():
        w = weight(3); optimizer = torch.optim.LBFGS([w], lr=0.1, max_iter=4); evaluated = []
        def evaluate():
            optimizer.zero_grad(); value = (loss(w) - 1) ** 2; value.backward(); evaluated.append(round(value.item(), 5))
            return value
        for _ in range(2):
            optimizer.step(evaluate)
        (step, name, value), = taken()
        return [step, name, value == evaluated[-1], len(evaluated) > 2]

    def scaled_training(backward):
        w = weight(10); optimizer = sgd(w); scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for _ in range(3):
            optimizer.zero_grad(); backward(scaler, w); scaler.step(optimizer); scaler.update()
        return taken()

    @training
    def scaled():
        return scaled_training(lambda scaler, w: scaler.scale(loss(w)).backward())

    @training
    def divided_after_scaling():
        return scaled_training(lambda scaler, w: [(scaler.scale(loss(w)) / 2).backward() for _ in range(2)])

    @training
    def several_scaled_at_once():
        return scaled_training(lambda scaler, w: [l.backward() for l in scaler.scale([loss(w, 0.25), loss(w, 0.75)])])

    @training
    def unscaled_by_hand():
        w = weight(10); optimizer = sgd(w); scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for _ in range(3):
            optimizer.zero_grad(); scaler.scale(loss(w)).backward(); scaler.unscale_(optimizer); optimizer.step()
            scaler.update()
        return taken()

    @training
    def skipped_by_the_scaler():
        w = weight(10); optimizer = sgd(w); scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        for factor in (1.0, 1.0, math.inf):
            optimizer.zero_grad(); scaler.scale(loss(w, factor)).backward(); scaler.step(optimizer); scaler.update()
        return taken()

    @training
    def diverged():
        w = weight(10); optimizer = sgd(w)
        for factor in (1.0, 1.0, math.nan):
            optimizer.zero_grad(); loss(w, factor).backward(); optimizer.step()
        return [[step, name, repr(value)] for step, name, value in taken()]

    @training
    def parts_of_something_larger():
        w = weight(10); optimizer = sgd(w)
        for _ in range(2):
            optimizer.zero_grad()
            loss(w).backward(torch.tensor(1.0)); loss(w, 100.0).backward(gradient=torch.tensor(1.0))
            other = weight(7); (loss(w) * other).backward(inputs=[other])
            loss(w, 2.0).backward(retain_graph=True)
            w.grad.fill_(1.0); optimizer.step()
        return taken()

    @training
    def second_derivatives():
        w = weight(3); optimizer = sgd(w, lr=0.0)
        for _ in range(2):
            optimizer.zero_grad(); (loss(w) ** 2).backward(create_graph=True); (w.grad ** 2).backward(); optimizer.step()
        return taken()

    @training
    def no_scalar():
        w = nn.Parameter(torch.ones(2)); optimizer = sgd(w); messages = []
        for _ in range(2):
            for wrong in (lambda: (w * 2).backward(), lambda: (w * 2).backward("gradient"), lambda: w.sum().backward(1, 2, 3, 4, 5)):
                try:
                    wrong()
                except Exception as error:
                    messages.append(type(error).__name__ + " " + str(error)[:20])
            w.sum().backward(); optimizer.step(); optimizer.zero_grad()
        return [messages[:3], taken()]

    @training
    def one_of_several_elements():
        w = nn.Parameter(torch.ones(1, 1)); optimizer = sgd(w)
        for _ in range(2):
            (w * 3).backward(); optimizer.step(); optimizer.zero_grad()
        return taken()

    @training
    def under_a_torch_function_mode():
        w = weight(10); optimizer = sgd(w)
        with torch.device("cpu"):
            for _ in range(2):
                optimizer.zero_grad(); loss(w).backward(); optimizer.step()
        return taken()

    @training
    def a_tensor_subclass():
        class Own(torch.Tensor): pass
        w = nn.Parameter(torch.tensor(10.0)); optimizer = sgd(w)
        for _ in range(2):
            optimizer.zero_grad(); loss(w).as_subclass(Own).backward(); optimizer.step()
        return [w.item(), taken()]

    @training
    def half_of_it_unknown():
        class Own(torch.Tensor): pass
        w = weight(10); optimizer = sgd(w)
        for _ in range(2):
            optimizer.zero_grad(); loss(w).backward(); loss(w).as_subclass(Own).backward(); optimizer.step()
        return taken()

    @training
    def without_gradients_around_it():
        w = weight(10); optimizer = sgd(w)
        for _ in range(2):
            optimizer.zero_grad(); value = loss(w)
            with torch.no_grad():
                value.backward(); optimizer.step()
        return taken()

    @training
    def transforms():
        w = weight(10); optimizer = sgd(w)
        for _ in range(2):
            w.grad = torch.func.grad(lambda value: value * 2)(w.detach()); optimizer.step()
        def inside(value):
            value.backward()
            return value
        try:
            torch.func.grad(inside)(torch.tensor(1.0))
        except RuntimeError as error:
            return [taken(), str(error)[:20]]

    @training
    def a_step_inside_backward():
        w = weight(10); optimizer = sgd(w)
        def step(_):
            optimizer.step(); optimizer.zero_grad()
        w.register_post_accumulate_grad_hook(step)
        for _ in range(3):
            loss(w).backward()
        return taken()

    @training
    def two_threads():
        w = weight(10); optimizer = sgd(w)
        optimizer.zero_grad(); loss(w).backward()
        def other():
            loss(weight(1000)).backward()
        thread = threading.Thread(target=other); thread.start(); thread.join()
        optimizer.step()
        optimizer.zero_grad(); loss(w).backward(); optimizer.step()
        return taken()

    @training
    def evaluated_only():
        w = weight(1)
        for _ in range(10_100):
            loss(w).backward()
        count = len(monitor.losses.thread.parts)
        optimizer = sgd(w); optimizer.step()
        for _ in range(2):
            optimizer.zero_grad(); w.data.fill_(5.0); loss(w).backward(); optimizer.step()
        return [count, taken()]

    @training
    def a_library_that_scales_by_itself():
        w = weight(10); optimizer = sgd(w); sys.modules["deepspeed"] = sys
        for _ in range(2):
            optimizer.zero_grad(); (loss(w) * 65536).backward(); optimizer.step()
        found = taken(); del sys.modules["deepspeed"]
        return found

    @training
    def zeroed_by_another_with_an_empty_group():
        d, g = weight(10), weight(100); optimizer = sgd(d)
        other = torch.optim.SGD([{"params": []}, {"params": [g]}], lr=1.0)
        for _ in range(2):
            loss(d).backward(); other.zero_grad(); optimizer.step()
        return taken()

    @training
    def watched_in_turns():
        monitor.losses._breaks_at = 0.0
        d, g, w = weight(100), weight(1000), weight(10); optimizers = [sgd(d), sgd(g)]; found = []
        for _ in range(3):
            for _ in range(5):
                for optimizer, value in zip(optimizers, (d, g)):
                    optimizer.zero_grad(); loss(value, 0.5).backward(); loss(value, 0.5).backward(); optimizer.step()
            found += [monitor.losses.is_watching, taken(), monitor.losses.is_watching]
        return found

    @training
    def watched_in_the_middle_of_a_step():
        w = weight(10); optimizer = sgd(w); found = []
        monitor.losses._breaks_at = 0.0
        for number in range(9):
            optimizer.zero_grad(); loss(w, 0.5).backward()
            if number % 3 == 2:  # another thread's step begins a watch
                thread = threading.Thread(target=lambda: found.extend(taken())); thread.start(); thread.join()
            loss(w, 0.5).backward(); optimizer.step()
        return found

    @training
    def compiled():
        found = []
        for what in ("model", "step"):
            w = weight(10); optimizer = sgd(w)
            def forward():
                return loss(w)
            if what == "model":
                forward = torch.compile(forward, backend="eager")
            def step():
                optimizer.zero_grad(); value = forward(); value.backward(); optimizer.step()
                return value
            if what == "step":
                step = torch.compile(step, backend="eager")
            for _ in range(12):
                step()
            found.append([w.item(), taken()])
        return [found, torch._dynamo.utils.counters["stats"]["unique_graphs"]]

    @training
    def looks_as_before():
        same = pickle.loads(pickle.dumps(torch.Tensor.backward)) is torch.Tensor.backward
        @torch.jit.script
        def scripted(value: torch.Tensor) -> torch.Tensor:
            result = (value * value).sum()
            result.backward()
            return result
        value = torch.ones(2, requires_grad=True); scripted(value)
        return [same, str(inspect.signature(torch.Tensor.backward)), torch.Tensor.backward.__name__,
                torch.Tensor.backward.__doc__[:22], list(inspect.signature(torch.optim.SGD.zero_grad).parameters),
                value.grad.tolist()]

    print(json.dumps(results))
"""
EXPECTED = {
    "plain": [[], [[2, "loss", 9.0]], [[3, "loss", 8.0]]],  # once it is known that no other optimizer has its turn
    "accumulated": [[2, "loss", 7.0]],
    "adversarial": [[2, "loss", 4.0]],
    "sharpness_aware": [[3, "loss", 9.0]],  # 8, and 1 more where its gradient is taken
    "gan": [[], [[2, "loss/1", 21.0], [2, "loss/2", 99.0]], [[3, "loss/1", 12.0], [3, "loss/2", 98.0]]],
    "critics": [[15, "loss/1", 86.0], [15, "loss/2", 998.0]],
    "two_optimizers_of_one_loss": [[3, "loss", 26.0]],
    "one_training_after_the_other": [[6, "loss", 18.0]],
    "closure": [2, "loss", True, True],
    "scaled": [[3, "loss", 8.0]],
    "divided_after_scaling": [[3, "loss", 8.0]],
    "several_scaled_at_once": [[3, "loss", 8.0]],
    "unscaled_by_hand": [[3, "loss", 8.0]],
    "skipped_by_the_scaler": [[2, "loss", float("inf")]],
    "diverged": [[3, "loss", "nan"]],
    "parts_of_something_larger": [[2, "loss", 18.0]],
    "second_derivatives": [[2, "loss", 9.0 + 36.0]],
    "one_of_several_elements": [[2, "loss", -6.0]],
    "under_a_torch_function_mode": [[2, "loss", 9.0]],
    "a_tensor_subclass": [8.0, []],
    "half_of_it_unknown": [],
    "without_gradients_around_it": [[2, "loss", 9.0]],
    "a_step_inside_backward": [[3, "loss", 8.0]],
    "two_threads": [[2, "loss", 9.0]],
    "evaluated_only": [10_000, [[3, "loss", 5.0]]],
    # all of the first steps; then one turn of each, until the first has its second
    "zeroed_by_another_with_an_empty_group": [[2, "loss", 9.0]],
    "watched_in_turns": [
        *(True, [[5, "loss/1", 96.0], [5, "loss/2", 996.0]], True),
        *(False, [[7, "loss/1", 94.0], [6, "loss/2", 995.0]], True),
        *(False, [[12, "loss/1", 89.0], [11, "loss/2", 990.0]], True),
    ],
    "watched_in_the_middle_of_a_step": [
        [2, "loss", 9.0],
        [5, "loss", 6.0],
        [8, "loss", 3.0],
    ],  # not the others, of which half is known
    "a_library_that_scales_by_itself": [],
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    def train(folder: Path) -> None:
        runs = make_framework_runs(folder)
        runs.script(TRAININGS)
        done = runs.call("run", "train.py", "--run-id", "r")
        assert done.returncode == 0, done.stderr
        (folder / "results.json").write_text(runs.output("r"))
        runs.clean_up()

    return json.loads((made_once(tmp_path_factory, "trainings", train) / "results.json").read_text())


@pytest.mark.parametrize("name", EXPECTED)
def test_losses(results: dict, name: str):
    """The sum of what was backpropagated for a step, under a name that is true."""
    assert results[name] == EXPECTED[name]


def test_errors_of_backward_stay_what_they_are(results: dict):
    """And what failed counts for nothing."""
    messages, losses = results["no_scalar"]
    assert messages == [
        "RuntimeError grad can be implicit",
        "TypeError gradients can be eit",
        "TypeError Tensor.backward() ta",
    ]
    assert losses == [[2, "loss", 0.0]]


def test_transforms_work_as_before(results: dict):
    losses, message = results["transforms"]
    assert (losses, message) == ([], "backward() called in")


def test_compiled_code_is_not_disturbed(results: dict):
    """The loss of a compiled model is seen; where a step is compiled as a whole, it need not be. Nothing is recompiled."""
    (model, step), graphs = results["compiled"]
    assert model == [-2.0, [[12, "loss", -1.0]]]
    assert step[0] == -2.0
    assert step[1] in ([], [[12, "loss", -1.0]])
    assert graphs < 8


def test_the_methods_look_as_before(results: dict):
    """Pickle, inspect and TorchScript find what they found."""
    is_same, signature, name, doc, parameters, gradient = results["looks_as_before"]
    assert is_same
    assert signature == "(self, gradient=None, retain_graph=None, create_graph=False, inputs=None)"
    assert (name, doc) == ("backward", "Computes the gradient ")
    assert parameters == ["self", "set_to_none"]
    assert gradient == [2.0, 2.0]


# -- in runs


# Each step is watched: a machine so busy that these steps take seconds would have it take turns, and not see the last.
SILENT = f"""{WITHOUT_COMPILER}
    from _backprop_trainer.hooks.pytorch import sampled_loss
    sampled_loss.WATCHED_S = float("inf")
    torch.set_num_threads(1)
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)

    def steps(count, after=lambda: None):
        for _ in range(count):
            optimizer.zero_grad()
            weight.sum().backward()  # 0, -1, -2, ...
            optimizer.step()
            after()
"""


def test_a_silent_script_has_a_loss(framework_runs: FrameworkRuns):
    """Its last step's is there as soon as it has ended; marked, listed, and the same when the index is made anew."""
    framework_runs.script(SILENT + "    steps(3000)\n")
    assert framework_runs.call("run", "train.py", "--run-id", "r").returncode == 0
    for _ in range(2):
        document = framework_runs.document("r")
        assert (document["metrics"], document["last_step"]) == ({"loss": -2999.0}, 3000)
        assert (document["sampled_metrics"], document["printed_metrics"]) == (["loss"], [])
        assert all(value == 1 - step for step, value in framework_runs.curve("r", "loss").items())
        assert framework_runs.call("reindex").returncode == 0
    assert "-2,999" in framework_runs.call("list").stdout.replace("-2999", "-2,999")


@pytest.mark.parametrize(
    ("report", "name"),
    [
        ('for _ in range(2): print(json.dumps({"step": 7, "train_loss": 5.0}))', "train_loss"),
        ('print("iter 7: loss 5.0\\niter 7: loss 5.0")', "loss"),
        ("import backprop; backprop.log(step=7, loss=5.0)", "loss"),
    ],
)
def test_what_is_reported_wins(framework_runs: FrameworkRuns, report: str, name: str):
    """Even if it comes late: no curve has points of both."""
    framework_runs.script(
        SILENT
        + f"""
    link = __import__("_backprop_trainer.link").link.current()
    steps(100)
    while '"sampled"' not in open(os.environ["BACKPROP_EVENTS"]).read():
        steps(100)
    {report}
    steps(100)
    """
    )
    assert framework_runs.call("run", "train.py", "--run-id", "r").returncode == 0
    document = framework_runs.document("r")
    assert (document["metrics"], document["sampled_metrics"]) == ({name: 5.0}, [])
    assert framework_runs.curve("r", name) == {7.0: 5.0}
    assert '"sampled": true' in framework_runs.events("r")


def test_one_printed_loss_is_no_curve(framework_runs: FrameworkRuns):
    """A script that prints what it has come to keeps the curve that was sampled."""
    framework_runs.script(
        SILENT
        + """
    steps(100)
    while '"sampled"' not in open(os.environ["BACKPROP_EVENTS"]).read():
        steps(100)
    print("Loss: 5.0, accuracy: 0.75")
    """
    )
    assert framework_runs.call("run", "train.py", "--run-id", "r").returncode == 0
    document = framework_runs.document("r")
    assert (document["metrics"]["accuracy"], document["sampled_metrics"]) == (0.75, ["loss"])
    assert document["metrics"]["loss"] < 0


def test_it_can_be_turned_off(framework_runs: FrameworkRuns):
    framework_runs.script(SILENT + "    steps(100)\n    print(torch.Tensor.backward.__module__)")
    assert framework_runs.call("run", "train.py", "--run-id", "r", "--no-printed-metrics").returncode == 0
    assert framework_runs.document("r")["metrics"] == {}
    assert "sampled" not in framework_runs.events("r")


def test_a_resumed_session_goes_on_at_its_step(framework_runs: FrameworkRuns):
    """As its counted steps do."""
    framework_runs.script(
        SILENT
        + """
    offered = os.environ.get("BACKPROP_RESUME_FROM")
    if offered:
        weight.data = torch.load(offered)["weight"]
    steps(100)
    torch.save({"weight": weight.data, "optimizer": optimizer.state_dict()}, "state.pt")
    """
    )
    assert framework_runs.call("run", "train.py", "--run-id", "r").returncode == 0
    assert framework_runs.call("resume", "r", "--again").returncode == 0
    assert framework_runs.curve("r", "loss").keys() >= {100.0, 200.0}
    assert all(value == 1 - step for step, value in framework_runs.curve("r", "loss").items())


@pytest.mark.nightly
def test_only_rank_0_reports(framework_runs: FrameworkRuns):
    """Its own loss: that of the others is another one."""
    framework_runs.script(
        """
    import os, torch
    import torch.distributed as dist
    dist.init_process_group("gloo")
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(1, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for _ in range(50):
        optimizer.zero_grad()
        (model(torch.ones(1, 1)).sum() * 0 + dist.get_rank() + 1).backward()
        optimizer.step()
    dist.destroy_process_group()
    """
    )
    command = (framework_runs.python, "-m", "torch.distributed.run", "--nproc-per-node", 2, "train.py")
    assert framework_runs.call("run", "--run-id", "r", "--", *command).returncode == 0
    assert set(framework_runs.curve("r", "loss").values()) == {1.0}


def test_rank_1_reports_nothing_after_its_process_group_is_gone(framework_runs: FrameworkRuns):
    """Without a launcher that sets variables, it looks like rank 0 when it exits."""
    runs = framework_runs
    runs.script(
        """
        import subprocess, sys, torch
        from torch import distributed
        if len(sys.argv) == 1:
            ranks = [subprocess.Popen([sys.executable, "train.py", rank]) for rank in "01"]
            sys.exit(any([rank.wait() for rank in ranks]))
        rank = int(sys.argv[1])
        distributed.init_process_group("gloo", init_method="file://" + os.path.abspath("store"), rank=rank, world_size=2)
        weight = torch.nn.Parameter(torch.tensor(10.0 + 100 * rank))
        optimizer = torch.optim.SGD([weight], lr=1.0)
        for _ in range(3):
            optimizer.zero_grad()
            (weight * 1).backward()
            optimizer.step()
        distributed.destroy_process_group()
        """
    )
    done = runs.call("run", "--run-id", "r", "train.py")
    assert done.returncode == 0, done.stderr
    curve = runs.curve("r", "loss")
    assert curve[3] == 8.0
    assert curve == {step: 11.0 - step for step in curve}  # earlier ones where the steps take long


@pytest.mark.parametrize("library", ["accelerate", nightly("fabric"), nightly("fabric_fp16")])
def test_losses_of_other_backwards(framework_runs: FrameworkRuns, library: str):
    """`accelerator.backward` and Fabric's: accumulated, divided and scaled as they do."""
    framework_runs.script(
        f"""
    import sys, torch
    library = {library!r}
    weight = torch.nn.Linear(1, 1, bias=False); torch.nn.init.constant_(weight.weight, 10.0)
    optimizer = torch.optim.SGD(weight.parameters(), lr=0.0)
    data = torch.ones(1, 1)
    if library == "accelerate":
        from accelerate import Accelerator
        accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
        weight, optimizer = accelerator.prepare(weight, optimizer)
        for number in range(40):
            with accelerator.accumulate(weight):
                accelerator.backward(weight(data).sum() * (number % 4))
                optimizer.step(); optimizer.zero_grad()
    else:
        from lightning.fabric import Fabric
        from lightning.fabric.plugins import MixedPrecision
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        plugins = [MixedPrecision("16-mixed", "cpu", scaler)] if library == "fabric_fp16" else None
        fabric = Fabric(accelerator="cpu", plugins=plugins); fabric.launch()
        weight, optimizer = fabric.setup(weight, optimizer)
        for _ in range(10):
            optimizer.zero_grad(); fabric.backward(weight(data).sum() * 1.5); optimizer.step()
    """
    )
    assert framework_runs.call("run", "train.py", "--run-id", "r").returncode == 0
    document = framework_runs.document("r")
    assert (document["metrics"], document["last_step"]) == ({"loss": 15.0}, 10)
