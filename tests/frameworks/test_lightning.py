"""Lightning scripts that nobody edited: cut wherever, resumed, and the same as if nothing had happened."""

import csv
import json
import os
import pickle
import signal
import zipfile
from pathlib import Path

import pytest

from backprop.trainer.hooks.lightning.hook import _stored, _unfit
from backprop.trainer.hooks.lightning.identity import mark
from tests.conftest import HANG_S, IS_NIGHTLY, wait_for
from tests.frameworks.conftest import EXAMPLES, FrameworkRuns, assert_first_step_has_total

EXAMPLE = EXAMPLES / "digits_lightning.py"
SCRIPT_NAMES = ("loss_step", "loss_epoch", "accuracy", "val_loss")

# What real trainings have: a loader with workers, a generator of its own and random changes to the data; accumulated
# gradients; an end by steps instead of epochs; validation twice an epoch; a metric object; schedulers that look at it.
SCRIPT = """
    import importlib, random, sys, time
    from pathlib import Path
    import torch
    import torchmetrics
    from sklearn.datasets import load_digits
    from torch.nn import functional
    from torch.utils.data import DataLoader, Dataset

    torch.set_num_threads(1)
    lightning = importlib.import_module(sys.argv[1])
    out, slow_training, slow_validation = Path(sys.argv[2]), Path("slow-training"), Path("slow-validation")

    class Digits(Dataset):
        def __init__(self):
            self.images, self.labels = load_digits(return_X_y=True)
        def __len__(self):
            return 480
        def __getitem__(self, index):
            image = torch.tensor(self.images[index] / 16, dtype=torch.float32)
            return image + 0.1 * torch.rand(64) + 0.1 * random.random(), self.labels[index]

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Dropout(0.3), torch.nn.Linear(32, 10))
            self.accuracy = torchmetrics.classification.MulticlassAccuracy(10)
        def training_step(self, batch, _):
            scores = self.network(batch[0])
            self.accuracy(scores, batch[1])
            self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
            loss = functional.cross_entropy(scores, batch[1])
            self.log("loss", loss, on_step=True, on_epoch=True)
            if slow_training.exists():
                Path("in-batch").write_text(f"after step {self.global_step}")
                time.sleep(1)
            return loss
        def validation_step(self, batch, _):
            self.log("val_loss", functional.cross_entropy(self.network(batch[0]), batch[1]))
            time.sleep(1 if slow_validation.exists() else 0)
        def configure_optimizers(self):
            optimizer = torch.optim.Adam(self.parameters(), 1e-2)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.2)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}

    if __name__ == "__main__":
        lightning.seed_everything(1)
        generator = torch.Generator().manual_seed(2)
        train = DataLoader(Digits(), 16, shuffle=True, num_workers=1, generator=generator)
        trainer = lightning.Trainer(max_steps=70, accumulate_grad_batches=2, val_check_interval=0.5, accelerator="cpu",
                                    log_every_n_steps=1, enable_progress_bar=False, default_root_dir=out,
                                    enable_model_summary=False, logger=lightning.pytorch.loggers.CSVLogger(out)
                                    if hasattr(lightning, "pytorch") else lightning.loggers.CSVLogger(out))
        model = Classifier()
        trainer.fit(model, train, DataLoader(Digits(), 16))
        torch.save(model.state_dict(), out / "weights.pt")
"""


def logged(out: Path, name: str) -> list[float]:
    """A curve as Lightning's own logger wrote it."""
    with (out / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def assert_same_weights(out: Path, other: Path) -> None:
    """Every bit of them; torch.save writes the same file of the same weights."""
    assert (out / "weights.pt").read_bytes() == (other / "weights.pt").read_bytes()


def assert_the_same(runs: FrameworkRuns, run_id: str, out: Path, bare: Path, names: tuple[str, ...]) -> None:
    """Curves and weights of a run under Backprop are those of one without it, bit for bit."""
    for name in names:
        expected = logged(bare, name)
        assert expected
        curve = runs.curve(run_id, name)
        assert [curve[step] for step in sorted(curve)] == expected, name
    assert_same_weights(out, bare)


def ours(runs: FrameworkRuns, run_id: str) -> list[str]:
    """Checkpoints that were saved because Backprop wished it."""
    paths = [checkpoint["path"] for checkpoint in runs.document(run_id)["checkpoints"]]
    return [path for path in paths if "backprop-checkpoints" in path]


def bare_runs(folder: Path) -> FrameworkRuns:
    runs = FrameworkRuns(folder)
    runs.python = os.environ["FRAMEWORKS_PYTHON"]
    return runs


@pytest.fixture(scope="module")
def bare_script(tmp_path_factory):
    """Where SCRIPT wrote to, uninterrupted and without Backprop."""
    runs = bare_runs(tmp_path_factory.mktemp("bare"))
    runs.bare(runs.script(SCRIPT), "lightning", "out")
    return runs.work / "out"


def test_a_run_that_is_stopped_is_the_same_run(framework_runs, tmp_path_factory):
    bare = bare_runs(tmp_path_factory.mktemp("bare"))
    words = ["--epochs", 10 if IS_NIGHTLY else 8, "--out", "out"]
    bare.bare(EXAMPLE, *words)
    cuts = [100, 300] if IS_NIGHTLY else [60]
    framework_runs.cut([EXAMPLE, "--", *words], "it", cuts)
    assert len(ours(framework_runs, "it")) >= len(cuts), "and the end, if it took more than a second"
    document = framework_runs.document("it")
    assert document["sessions"][-1]["resumed_from"] in ours(framework_runs, "it")
    assert_first_step_has_total(framework_runs, "it", "optimizer step")
    assert document["last_step"] == document["total_steps"]
    names = ("train_loss_step", "train_loss_epoch", "val_loss", "val_accuracy")
    assert_the_same(framework_runs, "it", framework_runs.work / "out", bare.work / "out", names)


@pytest.mark.nightly
def test_a_run_cut_by_its_timebox_is_the_same_run(framework_runs, bare_script):
    """Under the other name of Lightning, with checkpoints on the way."""
    slow = framework_runs.work / "slow-training"
    slow.touch()
    script = [framework_runs.script(SCRIPT), "--", "pytorch_lightning", "out"]
    words = ["-m", 0.3, "-c", 0.05]
    assert framework_runs.call("run", "--run-id", "it", *words, *script).returncode in {0, 130}
    while not ours(framework_runs, "it"):  # a machine so slow that Lightning was not even imported by then
        words[1] *= 2
        assert framework_runs.call("resume", "it", *words).returncode in {0, 130}
    assert framework_runs.document("it")["status"] == "timeboxed"
    slow.unlink()
    assert framework_runs.call("resume", "it", "-m", 5).returncode == 0
    document = framework_runs.document("it")
    assert document["status"] == "completed"
    assert "backprop-checkpoints" in document["sessions"][-1]["resumed_from"]
    assert len(ours(framework_runs, "it")) > 1
    assert_the_same(framework_runs, "it", framework_runs.work / "out", bare_script, SCRIPT_NAMES)


@pytest.mark.nightly
def test_a_stop_in_the_midst_of_a_validation_is_obeyed_and_changes_nothing(framework_runs, bare_script):
    """Even between two steps of the optimizer, with gradients half accumulated."""
    slow = framework_runs.work / "slow-validation"
    slow.touch()
    script = [framework_runs.script(SCRIPT), "--", "lightning", "out"]
    running = framework_runs.start("run", "--run-id", "it", *script)
    framework_runs.wait_for_step(
        "it", 7
    )  # of the optimizer: 14 batches; after the 15th comes half a minute of validation
    assert framework_runs.call("stop", "it").returncode == 0
    assert running.wait(HANG_S) == 0
    assert framework_runs.document("it")["last_step"] == 7
    assert "val_loss" not in framework_runs.events("it")
    assert len(ours(framework_runs, "it")) == 1
    slow.unlink()
    assert framework_runs.call("resume", "it").returncode == 0
    assert framework_runs.document("it")["status"] == "completed"
    assert_the_same(framework_runs, "it", framework_runs.work / "out", bare_script, SCRIPT_NAMES)


@pytest.mark.nightly
def test_two_processes_stop_at_the_same_step_and_go_on(framework_runs):
    script = [EXAMPLE, "--", "--out", "out", "--devices", 2, "--epochs", 8]
    running = framework_runs.start("run", "--run-id", "it", *script)
    framework_runs.wait_for_step("it", 20)
    framework_runs.stop_here("it")
    assert running.wait(HANG_S) == 0
    document = framework_runs.document("it")
    assert document["status"] == "stopped"
    assert not framework_runs.tree()
    (path,) = ours(framework_runs, "it")
    assert document["last_step"] == document["checkpoints"][-1]["step"]
    told = [line for line in framework_runs.events("it").splitlines() if '"checkpoint_saved"' in line and path in line]
    assert len(told) == 1  # by one of the two
    assert framework_runs.call("resume", "it").returncode == 0
    assert framework_runs.document("it")["status"] == "completed"
    assert framework_runs.document("it")["last_step"] == 8 * 23


@pytest.mark.nightly
def test_a_sigterm_from_elsewhere_loses_nothing(framework_runs):
    """Lightning leaves at the end of the batch, as it does without us; but with a checkpoint."""
    script = [framework_runs.script(SCRIPT), "--", "lightning", "out"]
    slow = framework_runs.work / "slow-training"
    slow.touch()
    running = framework_runs.start("run", "--run-id", "it", *script)
    in_batch = framework_runs.work / "in-batch"
    wait_for(lambda: in_batch.exists() and in_batch.read_text().rpartition(" ")[2] not in {"", "0"})
    trainer = next(process for process in framework_runs.tree() if "train.py" in " ".join(process.cmdline()))
    os.kill(trainer.pid, signal.SIGTERM)
    assert running.wait(HANG_S) == 143
    document = framework_runs.document("it")
    assert document["status"] == "failed"
    assert len(ours(framework_runs, "it")) == 1
    assert document["checkpoints"][-1]["valid"]


# What scripts save themselves: ModelCheckpoint at the end of an epoch, or of its validation. A scheduler that looks at a
# metric, dropout, and the order of data go by what happens between that and the next epoch.
SAVING_SCRIPT = """
    import sys
    from pathlib import Path
    import lightning, torch, torchmetrics
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger
    from torch.nn import functional
    from torch.utils.data import DataLoader, TensorDataset, random_split

    torch.set_num_threads(1)
    out, saves_after_training = Path(sys.argv[1]), sys.argv[2] == "train"

    class Regression(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.Dropout(0.1), torch.nn.Linear(64, 1))
            self.error = torchmetrics.MeanAbsoluteError()
        def training_step(self, batch, _):
            predicted = self.network(batch[0])
            self.error(predicted, batch[1])
            self.log("error", self.error, on_step=False, on_epoch=True)
            loss = functional.mse_loss(predicted, batch[1])
            self.log("loss", loss, on_step=True, on_epoch=True)
            return loss
        def validation_step(self, batch, _):
            self.log("val_loss", functional.mse_loss(self.network(batch[0]), batch[1]))
        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), 1e-3)
            plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0, threshold=0.5)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}

    if __name__ == "__main__":
        lightning.seed_everything(42)
        inputs = torch.randn(700, 20)
        train, val = random_split(TensorDataset(inputs, inputs.sum(1, keepdim=True).sin()), [600, 100])
        checkpoints = ModelCheckpoint(out / "checkpoints", "{epoch}", monitor="val_loss", save_top_k=-1,
                                      save_on_train_epoch_end=saves_after_training)
        trainer = lightning.Trainer(max_epochs=4, accelerator="cpu", callbacks=[checkpoints], log_every_n_steps=1,
                                    enable_progress_bar=False, enable_model_summary=False, default_root_dir=out,
                                    logger=CSVLogger(out))
        model = Regression()
        trainer.fit(model, DataLoader(train, 16, shuffle=True), DataLoader(val, 50))
        torch.save(model.state_dict(), out / "weights.pt")
"""


@pytest.mark.nightly
@pytest.mark.parametrize("when", ["train", "validation"])
def test_a_run_from_what_model_checkpoint_saved_is_the_same_run(framework_runs, when):
    script = framework_runs.script(SAVING_SCRIPT)
    whole, resumed = framework_runs.work / "whole", framework_runs.work / "resumed"
    path = whole / "checkpoints" / "epoch=1.ckpt"
    words = [script, "--", whole, when]
    assert framework_runs.call("run", "--run-id", "whole", *words).returncode == 0
    words = ["-r", path, script, "--", resumed, when]
    assert framework_runs.call("run", "--run-id", "resumed", *words).returncode == 0
    for name in ("loss_step", "loss_epoch", "error", "val_loss"):
        curve, expected = framework_runs.curve("resumed", name), framework_runs.curve("whole", name)
        assert curve.keys() >= {step for step in expected if step > 2 * 38}
        assert curve.items() <= expected.items(), name
    assert_same_weights(resumed, whole)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"pytorch-lightning_version": "2.6.6", "optimizer_states": []}, None),  # saved by Lightning without us
        ({"pytorch-lightning_version": "2.6.6", "optimizer_states": [], "fit": "backprop-fit:1"}, None),
        ({"pytorch-lightning_version": "2.6.6", "optimizer_states": [], "fit": "backprop-fit:0"}, "call 1 of fit()"),
        # which training it is of says more than the number of the call
        (
            {
                "pytorch-lightning_version": "2.6.6",
                "optimizer_states": [],
                "fit": "backprop-fit:0",
                "training": mark({"version": 1}),
            },
            None,
        ),
        ({"pytorch-lightning_version": "2.6.6", "state_dict": {}}, "only weights"),
        ({"model": {}, "optimizer_states": []}, "not a checkpoint of Lightning"),
    ],
)
def test_the_second_fit_of_a_script_continues_only_from_what_it_saved_itself(tmp_path, content, reason):
    path = tmp_path / "checkpoint.ckpt"
    with zipfile.ZipFile(path, "w") as archive:  # as torch.save writes it
        archive.writestr("checkpoint/data.pkl", pickle.dumps(content, protocol=2))
    found = _unfit(str(path), number=1)
    assert found is None if reason is None else reason in found
    assert _stored(str(path)) == ({"version": 1} if "training" in content else None)


def test_what_is_no_archive_is_no_checkpoint_of_lightning(tmp_path):
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(b"pytorch-lightning_version")
    assert _unfit(str(path), number=0) is not None
    assert _unfit(str(tmp_path), number=0) is not None


# Trainings of seconds, which learn a constant; the end of the first two is worth saving, however busy the machine is. One
# is interrupted by its own process, as Ctrl-C in a terminal does.
FOLDS = """
    import json, os, signal
    import lightning, torch
    from _backprop_trainer.hooks.lightning import driver as lightning_drive
    from torch.utils.data import DataLoader, TensorDataset

    session = int(os.environ["BACKPROP_SESSION"])

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
        def training_step(self, batch, _):
            seen.append(self.global_step + 1)
            if (session, fold, seen[-1]) == (1, 2, 18):
                os.kill(os.getpid(), signal.SIGINT)
            loss = ((self.layer(batch[0])[:, 0] - batch[1]) ** 2).mean()
            self.log("loss", loss)
            return loss
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 0.01)

    for fold, epochs in [(0, 4), (1, 4), (2, 4)] if session == 1 else [(3, 4), (2, 4), (0, 4), (1, 6)]:
        lightning_drive.WORTH_SAVING_S = 0.0 if fold < 2 else float("inf")
        seen = []
        data = TensorDataset(torch.ones(60, 1), torch.full((60,), float(fold)))
        trainer = lightning.Trainer(max_epochs=epochs, logger=False, enable_checkpointing=False, accelerator="cpu",
                                    enable_progress_bar=False, enable_model_summary=False)
        model = Model()
        trainer.fit(model, DataLoader(data, 6, shuffle=True))
        came_to = model.layer.weight.item(), trainer.callback_metrics["loss"].item(), trainer.global_step
        with open(f"{session}-{fold}.json", "w") as file:
            json.dump([seen[:1], came_to], file)
"""


def test_folds_get_their_own_checkpoints_and_what_had_ended_is_given_back(framework_runs):
    """Skipped, reordered, and one of them to be trained for longer; the script sets no seed."""
    script = framework_runs.script(FOLDS)
    assert framework_runs.call("run", "--run-id", "it", script).returncode != 0
    done = framework_runs.call("resume", "it")
    assert done.returncode == 0, done.stderr
    first = [json.loads((framework_runs.work / f"1-{fold}.json").read_text()) for fold in range(2)]
    again = [json.loads((framework_runs.work / f"2-{fold}.json").read_text()) for fold in range(4)]
    assert [seen for seen, _ in again] == [[], [41], [19], [1]]
    assert again[0][1] == first[0][1]
    assert [steps for _, (*_, steps) in again] == [40, 60, 40, 40]
    assert "fit() starts over: " in done.stderr


TUNED = """
    import os, signal
    import lightning, torch
    from lightning.pytorch.tuner import Tuner
    from torch.utils.data import DataLoader, TensorDataset

    class Model(lightning.LightningModule):
        def __init__(self, lr=0.01):
            super().__init__()
            self.lr, self.layer = lr, torch.nn.Linear(1, 1)
        def training_step(self, batch, _):
            if is_tuned and (os.environ["BACKPROP_SESSION"], self.global_step) == ("1", 7):
                os.kill(os.getpid(), signal.SIGINT)
            return ((self.layer(batch[0])[:, 0] - batch[1]) ** 2).mean()
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), self.lr)

    lightning.seed_everything(1)
    data = DataLoader(TensorDataset(torch.ones(30, 1), torch.ones(30)), 6)
    trainer = lightning.Trainer(max_epochs=3, logger=False, enable_checkpointing=False, accelerator="cpu",
                                enable_progress_bar=False, enable_model_summary=False)
    model, is_tuned = Model(), False
    Tuner(trainer).lr_find(model, data, num_training=20)
    is_tuned = True
    trainer.fit(model, data)
"""


@pytest.mark.nightly
def test_the_search_for_a_learning_rate_is_no_training(framework_runs):
    """Its steps and its temporary file are not reported, and it does not start over in the place of the training."""
    script = framework_runs.script(TUNED)
    assert framework_runs.call("run", "--run-id", "it", script).returncode != 0
    assert [saved["step"] for saved in framework_runs.document("it")["checkpoints"]] == [8]
    done = framework_runs.call("resume", "it")
    assert done.returncode == 0, done.stderr
    assert "training began without reading" not in done.stderr
    document = framework_runs.document("it")
    assert document["last_step"] == 15
    assert document["sessions"][1]["resumed_from"] == document["checkpoints"][0]["path"]


RESTORES = """
    import os, sys
    import torch
    import lightning.pytorch as lightning
    from torch.utils.data import DataLoader, TensorDataset

    session = int(os.environ["BACKPROP_SESSION"])

    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
        def on_load_checkpoint(self, _):
            raise ValueError("written by another version")
        def training_step(self, batch, _):
            if (session, self.global_step) == (1, 7):
                sys.exit(1)
            return ((self.layer(batch[0])[:, 0] - batch[1]) ** 2).mean()
        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), 0.01)

    lightning.seed_everything(1)
    data = TensorDataset(torch.ones(30, 1), torch.ones(30))
    checkpoint = lightning.callbacks.ModelCheckpoint(dirpath="out")
    trainer = lightning.Trainer(max_epochs=3, logger=False, callbacks=[checkpoint], accelerator="cpu",
                                enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(Model(), DataLoader(data, 6))
"""


def test_a_checkpoint_that_cannot_be_restored_is_not_resumed_from(framework_runs):
    """It was chosen and read; but Lightning, or the script, failed at putting back what is in it."""
    script = framework_runs.script(RESTORES)
    assert framework_runs.call("run", "--run-id", "it", script).returncode != 0
    done = framework_runs.call("resume", "it")
    assert "written by another version" in done.stderr
    assert "resumed from" not in done.stderr
    session = framework_runs.document("it")["sessions"][1]
    assert session["offered"] is not None
    assert (session["resumed_from"], session["started_over"]) == (None, False)
