"""Trainings of frameworks that log less often than they are long. Examples are the other ones: see their tests."""

import pytest

from tests.frameworks.conftest import FrameworkRuns, assert_first_step_has_total

# a machine so busy that these steps take seconds would have it take turns, and not see the last
WATCHES = """
    import torch
    from _backprop_trainer.hooks.pytorch import sampled_loss
    sampled_loss.WATCHED_S = float("inf")
"""
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

    lightning.Trainer(max_epochs=2, accelerator="cpu", accumulate_grad_batches=2, log_every_n_steps=1000,
        enable_progress_bar=False, enable_checkpointing=False).fit(
        Model(), torch.utils.data.DataLoader(torch.randn(96, 2), 8))
"""
TRAINER = """
    import torch
    from transformers import Trainer, TrainingArguments

    class Data(torch.utils.data.Dataset):
        def __len__(self):
            return 48
        def __getitem__(self, index):
            return {"x": torch.randn(2), "labels": torch.zeros(1)}

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(2, 1)
        def forward(self, x, labels):
            return {"loss": (self.layer(x) - labels).square().mean()}

    Trainer(Model(), TrainingArguments("out", num_train_epochs=2, per_device_train_batch_size=8, use_cpu=True,
            gradient_accumulation_steps=2, report_to="none", save_strategy="no"), train_dataset=Data()).train()
"""


@pytest.mark.parametrize(("script", "losses"), [(LIGHTNING, []), (TRAINER, ["train_loss"])])
def test_a_training_that_logs_rarely_has_steps_and_a_loss(
    framework_runs: FrameworkRuns, script: str, losses: list[str]
):
    """Its steps are reported from the first one on. A sampled loss is its only curve; Trainer's summary is none."""
    runs = framework_runs
    done = runs.call("run", "--run-id", "a", runs.script(WATCHES + script))
    assert done.returncode == 0, done.stderr
    document = runs.document("a")
    assert_first_step_has_total(runs, "a", "optimizer step")
    assert document["last_step"] == document["total_steps"] > 5
    assert document["sampled_metrics"] == ["loss"]
    assert {name for name in document["metrics"] if "loss" in name} == {"loss", *losses}
    assert max(runs.curve("a", "loss")) == document["last_step"]
