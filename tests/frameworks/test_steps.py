"""Steps of the frameworks' loops: reported from the first one on, with their total, and named as what they are."""

import json

import pytest

from tests.frameworks.conftest import EXAMPLES, FrameworkRuns


@pytest.fixture
def runs(framework_runs: FrameworkRuns) -> FrameworkRuns:
    return framework_runs


# logs that are rarer than the training is long
RARELY = """
    import torch
    from transformers import Trainer, TrainingArguments

    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 48
        def __getitem__(self, index):
            return {"x": torch.ones(2), "labels": torch.zeros(1)}

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)
        def forward(self, x, labels):
            return {"loss": (self.layer(x) - labels).square().mean()}

    Trainer(Model(), TrainingArguments("out", num_train_epochs=2, per_device_train_batch_size=8, use_cpu=True,
            report_to="none", save_strategy="no"), train_dataset=Data()).train()
"""


@pytest.mark.parametrize(
    ("example", "words", "unit"),
    [
        ("keras", ["--epochs", 2], "batch"),
        ("lightning", ["--epochs", 2], "optimizer step"),
        ("xgboost", ["--rounds", 20], "round"),
        ("lightgbm", ["--rounds", 20], "round"),
        ("backprop", ["--epochs", 2], "batch"),
    ],
)
def test_the_first_step_comes_with_total_and_unit(runs: FrameworkRuns, example: str, words: list[object], unit: str):
    """And the last one is the total."""
    done = runs.call("run", "--run-id", "a", EXAMPLES / f"digits_{example}.py", "--", *words)
    assert done.returncode == 0, done.stderr
    document = runs.document("a")
    assert (document["step_unit"], document["last_step"]) == (unit, document["total_steps"])
    lines = [json.loads(line) for line in runs.events("a").splitlines()]
    first = next(line for line in lines if "step" in line and "event" not in line)
    assert (first["step"], first["total_steps"]) == (1, document["total_steps"])


def test_a_trainer_that_logs_rarely_reports_its_steps(runs: FrameworkRuns):
    """With the default of 500 steps between two logs, in a training of twelve."""
    done = runs.call("run", "--run-id", "a", runs.script(RARELY))
    assert done.returncode == 0, done.stderr
    document = runs.document("a")
    assert (document["last_step"], document["total_steps"], document["step_unit"]) == (12, 12, "optimizer step")
    first = next(line for line in map(json.loads, runs.events("a").splitlines()) if "step" in line)
    assert (first["step"], first["total_steps"]) == (1, 12)


def test_counted_steps_are_named_and_have_no_total(runs: FrameworkRuns):
    """Of plain PyTorch nobody knows how many there will be."""
    runs.script("""
        import torch
        layer = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(layer.parameters())
        for _ in range(20):
            layer(torch.ones(2)).backward()
            optimizer.step()
    """)
    assert runs.call("run", "--run-id", "a", "train.py").returncode == 0
    document = runs.document("a")
    assert (document["last_step"], document["total_steps"], document["step_unit"]) == (20, None, "optimizer step")


LIGHTNING = """
    import torch
    import lightning

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)
        def training_step(self, batch, _):
            loss = (self.layer(batch) - 0).square().mean()
            self.log("train/loss", loss)
            return loss
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    lightning.Trainer(max_epochs=2, accelerator="cpu", accumulate_grad_batches=2, log_every_n_steps=LOG_EVERY,
        enable_progress_bar=False, enable_checkpointing=False).fit(
        Model(), torch.utils.data.DataLoader(torch.randn(96, 2), 8))
"""
RANDOM = RARELY.replace("torch.ones(2)", "torch.randn(2)").replace(
    "report_to=", 'gradient_accumulation_steps=2, logging_strategy="steps", logging_steps=LOG_EVERY, report_to='
)


@pytest.mark.parametrize(("script", "losses"), [(LIGHTNING, []), (RANDOM, ["train_loss"])])
def test_a_loss_is_sampled_before_the_first_log(runs: FrameworkRuns, script: str, losses: list[str]):
    """Of the loop's own steps, and the only curve where nothing is logged. Trainer's summary is none."""
    done = runs.call("run", "--run-id", "a", runs.script(script.replace("LOG_EVERY", "1000")))
    assert done.returncode == 0, done.stderr
    document = runs.document("a")
    assert document["sampled_metrics"] == ["loss"]
    assert {name for name in document["metrics"] if "loss" in name} == {"loss", *losses}
    curve = runs.curve("a", "loss")
    assert max(curve) == document["last_step"] > 5


@pytest.mark.parametrize(("script", "name"), [(LIGHTNING, "train/loss"), (RANDOM, "loss")])
def test_a_sampled_loss_is_the_one_of_the_step(runs: FrameworkRuns, script: str, name: str):
    """With gradient accumulation, too: the loss that Trainer logs; Lightning logs that of the last batch."""
    done = runs.call("run", "--run-id", "a", runs.script(script.replace("LOG_EVERY", "1")))
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in runs.events("a").splitlines()]
    sampled = {line["step"]: line["loss"] for line in lines if line.get("sampled")}
    logged = {line["step"]: line[name] for line in lines if name in line and not line.get("sampled")}
    assert runs.document("a")["sampled_metrics"] == []
    assert sampled
    if name == "loss":
        assert {step: pytest.approx(logged[step], rel=1e-3) for step in sampled} == sampled
