"""What recording adds to a scalar that is logged to a tracker: `tap.py ROUNDS OUT`, in a run.

The tracker is one that does nothing, so that nothing of its own hides a microsecond. Writes CPU seconds a scalar as
JSON: for each round the difference between calls with and without the tap, of the calling thread alone, and of all
threads until the last scalar is in the file.
"""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from _backprop_trainer.hooks.trackers import tensorboard  # type: ignore[import-not-found]  # it is there in a run
from _backprop_trainer.tracked import tracked  # type: ignore[import-not-found]

STEPS = 10_000


class Writer:
    log_dir = "runs"

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        pass

    def add_scalars(self, main_tag: str, tag_scalar_dict: dict[str, float], global_step: int) -> None:
        pass


class TappedWriter(Writer):
    pass


def cpu_seconds(writer: Writer) -> tuple[float, float]:
    thread, process = time.thread_time(), time.process_time()
    for step in range(STEPS):
        writer.add_scalar("loss", 1 / (step + 1), step)
        writer.add_scalar("lr", 0.001, step)
    thread = time.thread_time() - thread
    tracked().write()
    return thread / (2 * STEPS), (time.process_time() - process) / (2 * STEPS)


def main() -> None:
    tensorboard.hook(SimpleNamespace(__name__="bench", SummaryWriter=TappedWriter))
    rounds, out = int(sys.argv[1]), sys.argv[2]
    differences = []
    for _ in range(rounds):
        bare, tapped = cpu_seconds(Writer()), cpu_seconds(TappedWriter())
        differences.append([tapped[0] - bare[0], tapped[1] - bare[1]])
    Path(out).write_text(json.dumps(differences))


if __name__ == "__main__":
    main()
