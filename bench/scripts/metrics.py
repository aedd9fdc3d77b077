"""How long one way to log two metrics keeps a training step waiting: `metrics.py WAY SECONDS OUT`.

Writes seconds a call as JSON, one number for each batch of calls. Runs in any Python that has what WAY needs.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CALLS = 20  # in a batch
MAX_BATCHES = 1000  # some put all into a queue, and take minutes at their end to write it

Log = Callable[[int], object]  # it gets the step


def with_backprop() -> Log:
    import backprop

    return lambda step: backprop.log(step, loss=1 / step, lr=0.001)


def with_should_stop() -> Log:
    import backprop

    return lambda step: backprop.should_stop()  # noqa: ARG005


def with_print() -> Log:
    return lambda step: print(json.dumps({"step": step, "loss": 1 / step, "lr": 0.001}), flush=True)


def with_wandb() -> Log:
    import wandb

    run = wandb.init(project="bench", mode="offline", dir=tempfile.mkdtemp(dir="."))
    return lambda step: run.log({"loss": 1 / step, "lr": 0.001}, step=step)


def with_trackio() -> Log:
    import trackio

    trackio.init(project="bench")
    return lambda step: trackio.log({"loss": 1 / step, "lr": 0.001}, step=step)


def with_mlflow() -> Log:
    import mlflow

    mlflow.start_run()  # its store is what it is without a setting: a file in the working directory
    return lambda step: mlflow.log_metrics({"loss": 1 / step, "lr": 0.001}, step=step)


def with_tensorboard() -> Log:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        from tensorboardX import SummaryWriter
    writer = SummaryWriter(tempfile.mkdtemp(dir="."))

    def log(step: int) -> None:
        writer.add_scalar("loss", 1 / step, step)
        writer.add_scalar("lr", 0.001, step)

    return log


WAYS: dict[str, Callable[[], Log]] = {
    "backprop": with_backprop,
    "should_stop": with_should_stop,
    "print": with_print,
    "wandb": with_wandb,
    "trackio": with_trackio,
    "mlflow": with_mlflow,
    "tensorboard": with_tensorboard,
}


def main() -> None:
    way, seconds, out = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    log = WAYS[way]()
    for step in range(1, CALLS + 1):
        log(step)  # the first calls open files and connections
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and len(times) < MAX_BATCHES:
        first = CALLS * (len(times) + 1) + 1
        began = time.perf_counter()
        for step in range(first, first + CALLS):
            log(step)
        times.append((time.perf_counter() - began) / CALLS)
    Path(out).write_text(json.dumps(times))


if __name__ == "__main__":
    main()
