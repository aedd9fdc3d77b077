"""What is searched: two scripts, and the search space of each in the words of every tool."""

import importlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

ETA = 3
RUNGS = 3  # the first rung is 1/9 of a whole training
WORKERS = 2
TRAINING_S = 90.0  # of a whole training, without its start
SEARCH_S = 8 * TRAINING_S  # time for 16 whole trainings


class Range(NamedTuple):
    """Numbers between two ends, both included; integers if both ends are."""

    low: float
    high: float
    is_log: bool = False

    @property
    def is_integer(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


class Task(NamedTuple):
    """A script and its search space. The goal is the lowest val_loss."""

    name: str
    space: Mapping[str, Range]

    @property
    def module(self) -> str:
        return f"bench.sweeps.scripts.digits_{self.name}"

    @property
    def script(self) -> Path:
        return Path(__file__).parent / "scripts" / f"digits_{self.name}.py"

    @property
    def train(self) -> Callable[..., dict[str, float]]:
        """Imports the framework."""
        function: Callable[..., dict[str, float]] = importlib.import_module(self.module).train
        return function

    @property
    def steps(self) -> int:
        """Of a whole training. Imports the framework."""
        return int(importlib.import_module(self.module).STEPS)

    @property
    def step_s(self) -> float:
        """How long a step takes. Imports the framework."""
        return TRAINING_S / self.steps

    @property
    def rung_steps(self) -> int:
        return int(self.steps / math.pow(ETA, RUNGS - 1))


TASKS = {
    task.name: task
    for task in (
        # that of LCBench (Zimmer, Lindauer, Hutter: Auto-PyTorch, TPAMI 2021), with an eighth of its widths and a
        # logarithmic weight decay
        Task(
            "torch",
            {
                "lr": Range(1e-4, 0.1, is_log=True),
                "momentum": Range(0.1, 0.99),
                "batch": Range(16, 512, is_log=True),
                "weight_decay": Range(1e-5, 0.1, is_log=True),
                "layers": Range(1, 5),
                "hidden": Range(8, 128, is_log=True),
                "dropout": Range(0.0, 1.0),
            },
        ),
        # FLAML's space of LightGBM, without the number of bins: a pixel has 17 values
        Task(
            "lightgbm",
            {
                "learning_rate": Range(1 / 1024, 1.0, is_log=True),
                "num_leaves": Range(4, 700, is_log=True),  # as many as there are images to train on
                "min_child_samples": Range(2, 128, is_log=True),
                "colsample_bytree": Range(0.01, 1.0),
                "reg_alpha": Range(1 / 1024, 1024.0, is_log=True),
                "reg_lambda": Range(1 / 1024, 1024.0, is_log=True),
            },
        ),
    )
}


def option(name: str, of: Range) -> str:
    """For `backprop sweep --param`."""
    return f"{name}={of.low!r}..{of.high!r}{':log' if of.is_log else ''}"


def suggest(trial: Any, space: Mapping[str, Range]) -> dict[str, float]:
    """An Optuna trial's parameters."""
    return {
        name: trial.suggest_int(name, int(of.low), int(of.high), log=of.is_log)
        if of.is_integer
        else trial.suggest_float(name, of.low, of.high, log=of.is_log)
        for name, of in space.items()
    }


def ray_space(space: Mapping[str, Range]) -> dict[str, Any]:
    """For `ray.tune`, whose integers end before the upper end."""
    from ray import tune

    def one(of: Range) -> Any:
        if of.is_integer:
            return (tune.lograndint if of.is_log else tune.randint)(int(of.low), int(of.high) + 1)
        return (tune.loguniform if of.is_log else tune.uniform)(of.low, of.high)

    return {name: one(of) for name, of in space.items()}
