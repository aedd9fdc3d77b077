"""Trainings of the Hugging Face Trainer that are cut and go on, many in one process: what they see and what they report."""

import json
from typing import Any

import pytest

from tests.conftest import IS_NIGHTLY
from tests.frameworks.conftest import FrameworkRuns

# a training that is stopped after certain steps and goes on each time, in the same process: `cut_and_resumed`
TRAININGS = """
    import contextlib, itertools, json, random, tempfile, torch, transformers
    from _backprop_trainer import link as links, step_reports
    from torch.utils.data import IterableDataset

    link = links.current()
    link.is_stop_requested = lambda: True  # by the supervisor, and not by a signal
    summaries = []
    steps = []  # reported without metrics
    step_reports.STEP_EVERY_S = 0  # each of them

    def log(step, metrics, total_steps=None):
        link.steps._reported = step
        if not metrics:
            steps.append((step, total_steps))
        elif "train_loss" in metrics:
            summaries.append(metrics)

    link.steps.log = log

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
        link.should_stop = lambda: trainer.state.global_step in stop_at
        with contextlib.suppress(SystemExit):
            trainer.train(resume_from)
        return trainer, seen

    def cut_and_resumed(make_data, cuts, **arguments):
        global folder
        steps.clear()
        with tempfile.TemporaryDirectory() as folder:
            trainer, expected = train(make_data(), **arguments)
        whole = dict(summaries[-1], epoch=trainer.state.epoch, weight=trainer.model.layer.weight.item())
        with tempfile.TemporaryDirectory() as folder:
            resume_from, seen, reads = None, [], []
            for step in [*cuts, None]:
                data = make_data()
                trainer, more = train(data, resume_from, [step], **arguments)
                seen += more
                reads.append(getattr(data, "reads", None))
                resume_from = f"{folder}/checkpoint-{step}"
        parts = dict(summaries[-1], epoch=trainer.state.epoch, weight=trainer.model.layer.weight.item())
        names = ["train_loss", "epoch", "weight"]
        return {
            "expected": expected, "seen": seen, "reads": reads, "steps": steps,
            "whole": [whole[name] for name in names], "parts": [parts[name] for name in names],
        }
"""


STREAMS = """
    class Shuffled(Items):  # by the global generators, and by the epoch
        epoch = 0

        def set_epoch(self, epoch):
            self.epoch = epoch

        def __iter__(self):
            order = sorted(super().__iter__(), key=lambda item: float(item["x"]) * (7 + self.epoch) % 5)
            random.shuffle(order)
            return iter([order[index] for index in torch.randperm(len(order))])

    class Once(Items):  # nothing is left for a second epoch
        def __init__(self):
            super().__init__()
            self.items = super().__iter__()

        def __iter__(self):
            return self.items

    class Cut(transformers.TrainerCallback):  # epochs that a callback ends
        def on_step_end(self, args, state, control, **_):
            control.should_epoch_stop = state.global_step % 5 == 0

    def texts():
        return [{"x": torch.tensor([float(index)]), "input_ids": [0] * (index % 7)} for index in range(20)]

    trainings = [
        ("plain", Items, {}),
        ("accumulated", lambda: Items(9), {"gradient_accumulation_steps": 2}),
        ("shuffled", Shuffled, {}),
        ("cut", lambda: list(Items(20)), {"callbacks": [Cut()], "max_steps": -1, "num_train_epochs": 6}),
        ("once", Once, {"accelerator_config": {"dispatch_batches": False}}),
        ("grouped", texts, {"train_sampling_strategy": "group_by_length", "per_device_train_batch_size": 2}),
    ]
    trainings = trainings[:int(os.environ["TRAININGS"])]
"""

RUN = """
    for name, make_data, arguments in trainings:
        cuts = [3, 7] if name == "once" else [5, 16, 21]
        print(json.dumps({"name": name, **cut_and_resumed(make_data, cuts, **{"max_steps": 26, **arguments})}))
"""

DATASETS = """
    import datasets

    def items():
        for item in range(9):
            yield {"x": [float(item)]}

    def sharded(count=3):
        return datasets.Dataset.from_list(list(items())).to_iterable_dataset(num_shards=count)

    def shuffled():
        return sharded().shuffle(seed=3, buffer_size=4)

    def mapped():
        return shuffled().map(lambda item: {"x": [item["x"][0] / 2]}).filter(lambda item: item["x"][0] != 2)

    def generated():
        return datasets.IterableDataset.from_generator(items)

    def mixed():
        return datasets.interleave_datasets([sharded(), generated()], probabilities=[0.7, 0.3], seed=5)

    trainings = [
        ("sharded", sharded, {}),
        ("shuffled", shuffled, {}),
        ("mapped", mapped, {}),
        ("generated", generated, {"gradient_accumulation_steps": 2}),
        ("mixed", mixed, {"per_device_train_batch_size": 2}),
        ("workers", shuffled, {"dataloader_num_workers": 2}),
    ]
"""


def cut_streams(framework_runs: FrameworkRuns, trainings: str, count: int) -> dict[str, dict[str, Any]]:
    """Cut each of these trainings three times; what was seen of it, by name."""
    script = framework_runs.script(TRAININGS + trainings + RUN)
    done = framework_runs.call("run", "--run-id", "r", script, TRAININGS=str(count))
    assert done.returncode == 0, framework_runs.rundir("r").joinpath("session-1.err").read_text()
    lines = [json.loads(line) for line in framework_runs.output("r").splitlines() if line.startswith('{"name"')]
    told = {line.pop("name"): line for line in lines}
    assert len(told) == count
    for name, result in told.items():
        assert (name, result["seen"]) == (name, result["expected"])
        assert (name, result["parts"]) == (name, result["whole"])
    return told


def test_what_was_seen_is_not_seen_again_whatever_the_epoch(framework_runs: FrameworkRuns) -> None:
    """The same items in the same order, with the same random numbers, as a training that nobody cut; the same loss."""
    told = cut_streams(framework_runs, STREAMS, 6 if IS_NIGHTLY else 3)
    # 8 items an epoch. The epoch that was cut is read from its beginning, and one item more is always read ahead
    assert told["plain"]["reads"] == [5 + 1, 8 + 8, 8 + 5 + 1, 8 + 2 + 1]
    # steps are reported that the Trainer logs nothing of
    assert told["plain"]["steps"] == [[step, 26] for _ in range(2) for step in range(1, 27)]


@pytest.mark.nightly
def test_streams_of_datasets_go_on_where_they_were_cut(framework_runs: FrameworkRuns) -> None:
    """Those of the library `datasets`, which have a state of their own: sharded, shuffled, mapped, mixed."""
    told = cut_streams(framework_runs, DATASETS, 6)
    assert len({str(result["expected"]) for result in told.values()}) == len(told)
