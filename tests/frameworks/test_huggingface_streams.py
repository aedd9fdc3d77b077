"""Trainings of the Hugging Face Trainer that are cut and go on, many in one process: what they see and what they report."""

import json

from tests.frameworks.conftest import FrameworkRuns

# a training that is stopped after certain steps and goes on each time, in the same process: `cut_and_resumed`
TRAININGS = """
    import contextlib, itertools, json, random, tempfile, torch, transformers
    from _backprop_trainer import session as sessions
    from torch.utils.data import Dataset, IterableDataset

    session = sessions.current()
    session.is_stop_wanted = lambda: True  # by the supervisor, and not by a signal
    summaries = []
    session.log = lambda step, metrics, total_steps=None: summaries.append(metrics) if "train_loss" in metrics else None

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, x):
            return {"loss": self.dropout(self.layer(x / 10)).pow(2).mean()}

    class Items(IterableDataset):
        def __init__(self, length=8):
            self.length, self.reads = length, 0

        def __iter__(self):
            for item in range(self.length):
                self.reads += 1
                yield {"x": torch.tensor([float(item)])}

    def train(data, resume_from=None, stop_at=(), callbacks=(), **arguments):
        seen = []

        class Trainer(transformers.Trainer):
            def training_step(self, model, inputs, *rest, **named):
                seen.append(inputs["x"].flatten().tolist())
                return super().training_step(model, inputs, *rest, **named)

            def log(self, logs, *rest, **named):
                super().log({**logs, "epoch": self.state.epoch}, *rest, **named)

        args = transformers.TrainingArguments(**{
            "output_dir": folder, "per_device_train_batch_size": 1, "save_strategy": "no", "report_to": "none",
            "disable_tqdm": True, "use_cpu": True, "logging_steps": 7, **arguments,
        })
        transformers.set_seed(1)
        trainer = Trainer(Net(), args, train_dataset=data, callbacks=list(callbacks))
        session.should_stop = lambda: trainer.state.global_step in stop_at
        with contextlib.suppress(SystemExit):
            trainer.train(resume_from)
        return trainer, seen

    def cut_and_resumed(make_data, steps, **arguments):
        global folder
        with tempfile.TemporaryDirectory() as folder:
            trainer, expected = train(make_data(), **arguments)
        whole = dict(summaries[-1], epoch=trainer.state.epoch, weight=trainer.model.layer.weight.item())
        with tempfile.TemporaryDirectory() as folder:
            resume_from, seen, reads = None, [], []
            for step in [*steps, None]:
                data = make_data()
                trainer, more = train(data, resume_from, [step], **arguments)
                seen += more
                reads.append(getattr(data, "reads", None))
                resume_from = f"{folder}/checkpoint-{step}"
        parts = dict(summaries[-1], epoch=trainer.state.epoch, weight=trainer.model.layer.weight.item())
        names = ["train_loss", "epoch", "weight"]
        return {
            "expected": expected, "seen": seen, "reads": reads,
            "whole": [whole[name] for name in names], "parts": [parts[name] for name in names],
        }
"""


def results(runs: FrameworkRuns, script: str) -> dict:
    done = runs.call("run", "--run-id", "r", runs.script(TRAININGS + script))
    assert done.returncode == 0, runs.rundir("r").joinpath("session-1.err").read_text()
    lines = [json.loads(line) for line in runs.output("r").splitlines() if line.startswith('{"name"')]
    return {line["name"]: line for line in lines}


def test_the_final_train_loss_is_that_of_all_sessions(framework_runs: FrameworkRuns) -> None:
    """However often it was cut; between two logs, at a log."""
    script = """
    print(json.dumps({"name": "loss", **cut_and_resumed(lambda: list(Items(20)), [5, 14, 23], max_steps=40)}))
    """
    told = results(framework_runs, script)["loss"]
    assert told["seen"] == told["expected"]
    assert told["parts"] == told["whole"]
