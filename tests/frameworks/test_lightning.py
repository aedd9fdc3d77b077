"""Lightning scripts that nobody edited: cut wherever, resumed, and the same as if nothing had happened."""

import csv
import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import wait_for
from tests.frameworks.conftest import EXAMPLES, PATIENCE_S, FrameworkRuns

EXAMPLE = EXAMPLES / "digits_lightning.py"
NAMES = ("train_loss_step", "train_loss_epoch", "val_loss", "val_accuracy")

# What real trainings have: a loader with workers, a generator of its own and random changes to the data; accumulated
# gradients; an end by steps instead of epochs; validation twice an epoch; a metric object; schedulers that look at it.
SCRIPT = """
    import random, sys, time
    from pathlib import Path
    import lightning
    import torch
    import torchmetrics
    from sklearn.datasets import load_digits
    from torch.nn import functional
    from torch.utils.data import DataLoader, Dataset

    torch.set_num_threads(1)
    out, slow = Path(sys.argv[1]), Path(sys.argv[2])

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
            time.sleep(0.01)
            return loss
        def validation_step(self, batch, _):
            self.log("val_loss", functional.cross_entropy(self.network(batch[0]), batch[1]))
            time.sleep(0.2 if slow.exists() else 0)
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
                                    enable_model_summary=False)
        model = Classifier()
        trainer.fit(model, train, DataLoader(Digits(), 16))
        torch.save(model.state_dict(), out / "weights.pt")
"""


class Bare:
    """A training without Backprop."""

    def __init__(self, runs: FrameworkRuns, script: Path, *words: object) -> None:
        began = time.monotonic()
        runs.bare(script, *words)
        self.took_s = time.monotonic() - began


def logged(out: Path, name: str) -> dict[float, float]:
    """A curve as Lightning's own logger wrote it: it numbers steps from 0."""
    with (out / "lightning_logs" / "version_0" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {int(row["step"]) + 1: float(row[name]) for row in rows if row.get(name)}


def weights(runs: FrameworkRuns, out: Path) -> str:
    """Every bit of the weights, as a digest."""
    return runs.evaluate(
        """
        import hashlib, sys, torch
        state = torch.load(sys.argv[1])
        print(hashlib.sha256(b"".join(name.encode() + value.numpy().tobytes() for name, value in state.items())).hexdigest())
        """,
        out / "weights.pt",
    )


def assert_the_same(runs: FrameworkRuns, run_id: str, out: Path, bare: Path, names: tuple[str, ...]) -> None:
    """Curves and weights of a run under Backprop are those of one without it, bit for bit."""
    for name in names:
        expected = logged(bare, name)
        assert expected
        assert runs.curve(run_id, name) == expected, name
    assert weights(runs, out) == weights(runs, bare)


def ours(runs: FrameworkRuns, run_id: str) -> list[str]:
    """Checkpoints that were saved because Backprop wished it."""
    paths = [checkpoint["path"] for checkpoint in runs.document(run_id)["checkpoints"]]
    return [path for path in paths if "backprop-checkpoints" in path]


@pytest.fixture(scope="module")
def bare_example(tmp_path_factory):
    """The example, uninterrupted and without Backprop: where it wrote to, and how long it took in seconds."""
    runs = FrameworkRuns(tmp_path_factory.mktemp("bare"))
    runs.python = os.environ["FRAMEWORKS_PYTHON"]
    return runs.work / "out", Bare(runs, EXAMPLE, "--out", "out").took_s


def test_a_run_that_is_stopped_twice_is_the_same_run(framework_runs, bare_example):
    framework_runs.cut([EXAMPLE, "--", "--out", "out"], "it", [100, 800])
    assert len(ours(framework_runs, "it")) == 2
    assert_the_same(framework_runs, "it", framework_runs.work / "out", bare_example[0], NAMES)


def test_a_run_cut_by_its_timebox_is_the_same_run(framework_runs, bare_example):
    """Under the other name of Lightning, with checkpoints on the way."""
    minutes = bare_example[1] * 0.7 / 60
    words = ["-m", minutes, "-c", 0.02]
    script = [EXAMPLE, "--", "--out", "out", "--package", "pytorch_lightning"]
    assert framework_runs.call("run", "--run-id", "it", *words, *script, timeout_s=PATIENCE_S).returncode == 0
    for _ in range(10):  # a session that was over before Lightning was imported has done no harm
        if framework_runs.document("it")["status"] == "completed":
            break
        assert framework_runs.call("resume", "it", *words, timeout_s=PATIENCE_S).returncode in {0, 130}
    document = framework_runs.document("it")
    assert document["status"] == "completed"
    resumed = [session["resumed_from"] for session in document["sessions"] if session["resumed_from"]]
    assert any("backprop-checkpoints" in path for path in resumed)
    assert len(ours(framework_runs, "it")) > len(resumed)
    assert_the_same(framework_runs, "it", framework_runs.work / "out", bare_example[0], NAMES)


def test_a_stop_in_the_midst_of_a_validation_is_obeyed_and_changes_nothing(framework_runs):
    script = framework_runs.script(SCRIPT)
    slow = framework_runs.work / "slow"
    framework_runs.bare(script, "bare", slow)
    slow.touch()
    running = framework_runs.start("run", "--run-id", "it", script, "--", "out", slow)
    framework_runs.wait_for_step("it", 8)  # the first validation comes before, and takes six seconds
    wait_for(lambda: "val_loss" in framework_runs.events("it"), PATIENCE_S)
    validations = framework_runs.events("it").count("val_loss")
    framework_runs.wait_for_step("it", 15)
    time.sleep(1)  # into the second validation: it takes its time
    assert framework_runs.call("stop", "it", timeout_s=PATIENCE_S).returncode == 0
    assert running.wait(PATIENCE_S) == 0
    assert framework_runs.document("it")["status"] == "stopped"
    assert framework_runs.events("it").count("val_loss") == validations
    slow.unlink()
    running = framework_runs.start("resume", "it")
    framework_runs.wait_for_step("it", 40)
    assert framework_runs.call("stop", "it", timeout_s=PATIENCE_S).returncode == 0
    assert running.wait(PATIENCE_S) == 0
    assert framework_runs.call("resume", "it", timeout_s=PATIENCE_S).returncode == 0
    assert [session["status"] for session in framework_runs.document("it")["sessions"]] == [
        "stopped",
        "stopped",
        "completed",
    ]
    names = ("loss_step", "loss_epoch", "accuracy", "val_loss")
    assert_the_same(framework_runs, "it", framework_runs.work / "out", framework_runs.work / "bare", names)
