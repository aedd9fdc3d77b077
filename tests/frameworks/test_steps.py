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
