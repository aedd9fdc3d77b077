"""What frameworks log to trackers: recorded once, although our hooks report most of it themselves."""

import json

import pytest

from tests.frameworks.conftest import FrameworkRuns

SUMMARY_WRITER = """
    import torch
    from torch.utils.tensorboard import SummaryWriter
    train, val = SummaryWriter("runs/train"), SummaryWriter("runs/val")
    total = torch.zeros(())
    for step in range(3):
        total += 0.5
        train.add_scalar("loss", total, step)
        val.add_scalar(tag="loss", scalar_value=step, global_step=torch.tensor(step))
        train.add_scalars("lr", {"body": 0.1}, step)
        train.add_histogram("weights", torch.zeros(8), step)
"""
FABRIC = """
    from lightning.fabric import Fabric
    from lightning.fabric.loggers import CSVLogger
    fabric = Fabric(loggers=CSVLogger("csv"), accelerator="cpu")
    for step in range(3):
        fabric.log_dict({"loss": 0.5, "acc": step}, step=step)
"""
TRAINER = """
    import torch
    from transformers import Trainer, TrainingArguments
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
        def forward(self, x, labels=None):
            scores = self.layer(x)
            return {"loss": ((scores - labels) ** 2).mean(), "logits": scores}
    data = [{"x": torch.randn(1), "labels": torch.ones(1)} for _ in range(80)]
    arguments = TrainingArguments(
        "out", max_steps=4, logging_steps=1, eval_strategy="steps", eval_steps=2, report_to="tensorboard", use_cpu=True,
        learning_rate=0.5, gradient_accumulation_steps=2, save_strategy="no", hub_token="abc",
    )
    arguments.fsdp_config = {"min_num_params": 0, "xla": False}  # as transformers 4 fills it in
    Trainer(Model(), arguments, train_dataset=data, eval_dataset=data).train()
"""
LIGHTNING = """
    import torch
    import lightning
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
        def training_step(self, batch, index):
            loss = self.layer(batch).mean() ** 2
            self.log("train/loss", loss)
            self.logger.experiment.add_scalar("mine", index, index)
            return loss
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)
    loggers = [TensorBoardLogger("board"), CSVLogger("csv")]
    data = torch.utils.data.DataLoader(torch.ones(4, 1))
    lightning.Trainer(max_epochs=1, logger=loggers, log_every_n_steps=1, accelerator="cpu").fit(Model(), data)
"""


# Its checkpoint is the script's own: what continues here is only the run of the tracker.
MLFLOW_LOGGER = """
    import json, os, pickle
    import lightning, torch
    from lightning.pytorch.loggers import MLFlowLogger
    class Model(lightning.LightningModule):
        def __init__(self, pid):
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(1, 1)
        def training_step(self, batch, index):
            loss = self.layer(batch).mean() ** 2
            self.log("loss", loss)
            return loss
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)
    if "BACKPROP_RESUME_FROM" in os.environ:
        open(os.environ["BACKPROP_RESUME_FROM"]).close()
    logger = MLFlowLogger(tracking_uri="sqlite:///mlflow.db")
    data = torch.utils.data.DataLoader(torch.ones(4, 1))
    trainer = lightning.Trainer(
        max_epochs=1, logger=logger, log_every_n_steps=1, accelerator="cpu", enable_checkpointing=False
    )
    trainer.fit(Model(os.getpid()), data)
    print("id", logger.run_id)
    logger = pickle.loads(pickle.dumps(logger))  # as for processes that are spawned
    print("points", len(logger.experiment.get_metric_history(logger.run_id, "loss")))
    open("model.bin", "w").write("x")
    print(json.dumps({"event": "checkpoint_saved", "path": "model.bin", "step": 4}))
"""


def run(runs: FrameworkRuns, script: str) -> dict:
    runs.script(script)
    done = runs.call("run", "--run-id", "r", "train.py")
    assert done.returncode == 0, done.stderr
    assert "hook" not in done.stderr
    return runs.document("r")


def tracked(runs: FrameworkRuns) -> list[str]:
    """Names that trackers got."""
    lines = map(json.loads, (runs.rundir("r") / "session-1.tracked").read_text().splitlines())
    return sorted({name for line in lines for name in line} - {"step", "tracked"})


def sampled_losses(runs: FrameworkRuns) -> dict[int, float]:
    """By step: those that were taken from what the training calls backward on."""
    lines = map(json.loads, runs.events("r").splitlines())
    return {line["step"]: line["loss"] for line in lines if line.get("sampled")}


def test_summary_writer(framework_runs: FrameworkRuns):
    """The value of a tensor is the one at the call, whatever becomes of it afterwards."""
    document = run(framework_runs, SUMMARY_WRITER)
    assert document["tracked_metrics"] == ["loss", "lr/body", "val/loss"]
    assert framework_runs.curve("r", "loss") == {0: 0.5, 1: 1.0, 2: 1.5}
    assert framework_runs.curve("r", "val/loss") == {0: 0, 1: 1, 2: 2}


def test_fabric(framework_runs: FrameworkRuns):
    document = run(framework_runs, FABRIC)
    assert document["tracked_metrics"] == ["acc", "loss"]
    assert framework_runs.curve("r", "acc") == {0: 0, 1: 1, 2: 2}


def test_trainer(framework_runs: FrameworkRuns):
    """It calls its metrics otherwise when it logs them: all are those that it reports.

    A loss that is sampled is that of the step, gradient accumulation included. Its arguments are recorded though the
    script parses none; what differs from machine to machine is left out.
    """
    document = run(framework_runs, TRAINER)
    assert {"train/loss", "eval/loss", "train/train_loss"} <= {*tracked(framework_runs)}
    assert document["tracked_metrics"] == []
    assert {"loss", "eval_loss", "train_loss"} <= document["metrics"].keys()
    assert not any("/" in name for name in document["metrics"])
    logged = framework_runs.curve("r", "loss")
    assert [*logged] == [1, 2, 3, 4]
    assert document["sampled_metrics"] == []
    sampled = sampled_losses(framework_runs)
    assert {step: pytest.approx(logged[step], rel=1e-3) for step in sampled} == sampled != {}
    params, defaults = document["params"], set(document["default_params"])
    given = {name: value for name, value in params.items() if name not in defaults}
    assert given == {
        "output_dir": "out",
        "max_steps": 4,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "report_to": ["tensorboard"],
        "use_cpu": True,
        "learning_rate": 0.5,
        "gradient_accumulation_steps": 2,
        "save_strategy": "no",
        "hub_token": "***",
        "do_eval": True,  # this and the next follow from the others
        "dataloader_pin_memory": False,
    }
    assert params["weight_decay"] == 0.0
    assert "logging_dir" not in params


def test_lightning(framework_runs: FrameworkRuns):
    """Only what it does not know of, because the script logs it to the tracker itself, comes from there."""
    document = run(framework_runs, LIGHTNING)
    assert {"mine", "train/loss"} <= {*tracked(framework_runs)}
    assert document["tracked_metrics"] == ["mine"]
    assert len(framework_runs.curve("r", "train/loss")) == 4
    assert sampled_losses(framework_runs) != {}
    assert document["sampled_metrics"] == []
    assert framework_runs.curve("r", "mine") == {0: 0, 1: 1, 2: 2, 3: 3}


@pytest.mark.nightly
def test_mlflow_logger(framework_runs: FrameworkRuns):
    """A resumed session continues its run, although a hyperparameter differs, which MLflow would refuse."""
    run(framework_runs, MLFLOW_LOGGER)
    done = framework_runs.call("resume", "r", "--again")
    assert done.returncode == 0, done.stderr
    first, second = (framework_runs.output("r", session).splitlines() for session in (1, 2))
    (run_id,) = (line for line in first if line.startswith("id "))
    assert run_id in second
    assert ("points 4" in first, "points 8" in second) == (True, True)
