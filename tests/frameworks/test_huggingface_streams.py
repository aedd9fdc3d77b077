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
    steps = []  # reported without metrics

    def log(step, metrics, total_steps=None):
        if not metrics:
            steps.append((step, total_steps))
        elif "train_loss" in metrics:
            summaries.append(metrics)

    session.log = log

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
    sessions.STEP_EVERY_S = 0  # each of them
    result = cut_and_resumed(lambda: list(Items(20)), [5, 14, 23], max_steps=40)
    print(json.dumps({"name": "loss", **result, "steps": steps}))
    """
    told = results(framework_runs, script)["loss"]
    assert told["seen"] == told["expected"]
    assert told["parts"] == told["whole"]
    # and steps are reported that the Trainer logs nothing of
    assert told["steps"] == [[step, 40] for _ in range(2) for step in range(1, 41)]


STREAMS = """
    class Shuffled(Items):  # by the global generators
        def __iter__(self):
            order = list(super().__iter__())
            random.shuffle(order)
            return iter([order[index] for index in torch.randperm(len(order))])

    class Epochs(Items):  # each in an order of its own
        epoch = 0

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            return iter(sorted(super().__iter__(), key=lambda item: float(item["x"]) * (7 + self.epoch) % 5))

    class Once(Items):  # nothing is left for a second epoch
        def __init__(self):
            super().__init__()
            self.items = super().__iter__()

        def __iter__(self):
            return self.items

    class Cut(transformers.TrainerCallback):  # epochs that a callback ends
        def on_step_end(self, args, state, control, **_):
            control.should_epoch_stop = state.global_step % 5 == 0

    class Texts(Dataset):
        def __len__(self):
            return 20

        def __getitem__(self, index):
            return {"x": torch.tensor([float(index)]), "input_ids": [0] * (index % 7)}

    for name, make_data, arguments in [
        ("plain", Items, {}),
        ("accumulated", lambda: Items(9), {"gradient_accumulation_steps": 2}),
        ("shuffled", Shuffled, {}),
        ("epochs", Epochs, {}),
        ("once", Once, {"accelerator_config": {"dispatch_batches": False}}),
        ("cut", lambda: list(Items(20)), {"callbacks": [Cut()], "max_steps": -1, "num_train_epochs": 6}),
        ("grouped", Texts, {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 2}),
    ]:
        cuts = [3, 7] if name == "once" else [5, 13, 16, 21]
        print(json.dumps({"name": name, **cut_and_resumed(make_data, cuts, **{"max_steps": 26, **arguments})}))
"""


def test_what_was_seen_is_not_seen_again_whatever_the_epoch(framework_runs: FrameworkRuns) -> None:
    """The same items in the same order, with the same random numbers, as a training that nobody cut."""
    told = results(framework_runs, STREAMS)
    assert len(told) == 7
    for name, result in told.items():
        assert (name, result["seen"]) == (name, result["expected"])
        assert (name, result["parts"]) == (name, result["whole"])
    # 8 items an epoch. The epoch that was cut is read from its beginning, and one item more is always read ahead
    assert told["plain"]["reads"] == [5 + 1, 8 + 5 + 1, 8, 8 + 5 + 1, 8 + 2 + 1]
