"""Each way to search, as its users would start it, until its processes have used their budget of CPU time."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from bench.sweeps import optuna_search
from bench.sweeps.cpu import LOOK_EVERY_S, Processes
from bench.sweeps.tasks import ETA, RUNGS, Task, option

BACKPROP = str(Path(sys.executable).with_name("backprop"))
RAY_PYTHON = f"{sys.prefix}-ray/bin/python"  # Ray needs pandas, which would make every import of LightGBM slower
WORKERS = 2
_UNBOUNDED_MIN = 600  # wall time, where the budget is CPU time
_RUNG_MIN = 10  # likewise: the rungs are steps
_PATIENCE_S = 300.0


class Cell(NamedTuple):
    """One method, task and seed, in a folder of its own."""

    task: Task
    seed: int
    folder: Path
    environment: Mapping[str, str]
    budget_s: float


class Outcome(NamedTuple):
    """What a method found with its budget."""

    choice: Mapping[str, Any]  # params, val_loss, trials
    wall_s: float
    cpu_s: float


def backprop(cell: Cell, method: str) -> Outcome:  # noqa: ARG001
    """The run with the best value so far is chosen, whole or not, as from the other tools.

    A sweep that knows its budget shortens its last sessions to fit, and counts them. This one is stopped.
    """
    task = cell.task
    words = [
        *(BACKPROP, "sweep", str(task.script), "-n", "bench", "--goal", "min:val_loss"),
        *(word for name, of in task.space.items() for word in ("--param", option(name, of))),
        *("--budget", str(_UNBOUNDED_MIN), "--rung", str(_RUNG_MIN), "--rung-steps", str(task.rung_steps)),
        *("--eta", str(ETA), "--max-rungs", str(RUNGS), "-p", str(WORKERS), "--seed", str(cell.seed)),
        *("--python", sys.executable, "--", "--seed", str(cell.seed)),
    ]
    listing = [BACKPROP, "list", "--filter", "group=bench", "--limit", "0", "--goal", "min:val_loss", "--json"]
    with closing(Processes(cell.folder, cell.environment)) as processes:
        processes.start(words, "sweep")
        spent = _until_spent(processes, cell.budget_s)
        processes.start([BACKPROP, "sweep", "stop", "bench"], "stop")
        processes.wait(_PATIENCE_S)
        processes.start([BACKPROP, "sweep", "status", "bench", "--json"], "status")
        processes.start([*listing, "--fields", "params,best.val_loss.value"], "list")
        processes.wait(_PATIENCE_S)
    status = json.loads((cell.folder / "status.out").read_text())
    runs = json.loads((cell.folder / "list.out").read_text())
    best = min(
        (run for run in runs if run["best.val_loss.value"] is not None), key=lambda run: run["best.val_loss.value"]
    )
    params = {name: best["params"][name] for name in task.space}
    choice = {"params": params, "val_loss": best["best.val_loss.value"], "trials": status["trials"]}
    return Outcome({**choice, "rungs": status["rungs"]}, *spent)


def optuna(cell: Cell, method: str) -> Outcome:
    study, stop = cell.folder / "study.log", cell.folder / "stop"
    words = [sys.executable, "-m", "bench.sweeps.optuna_search", cell.task.name, method, str(cell.seed)]
    with closing(Processes(cell.folder, cell.environment)) as processes:
        for worker in range(WORKERS):
            processes.start([*words, str(worker), str(study), str(stop)], f"worker-{worker}")
        spent = _until_spent(processes, cell.budget_s)
        stop.touch()
        processes.wait(_PATIENCE_S)
    return Outcome(optuna_search.choice(str(study)), *spent)


def ray(cell: Cell, method: str) -> Outcome:  # noqa: ARG001
    stop = cell.folder / "stop"
    words = [RAY_PYTHON, "-m", "bench.sweeps.ray_search", cell.task.name, str(cell.seed), str(WORKERS)]
    with closing(Processes(cell.folder, cell.environment)) as processes:
        processes.start([*words, str(cell.folder), str(stop)], "ray")
        spent = _until_spent(processes, cell.budget_s)
        stop.touch()
        processes.wait(_PATIENCE_S)
    return Outcome(json.loads((cell.folder / "ray.out").read_text().splitlines()[-1]), *spent)


def _until_spent(processes: Processes, budget_s: float) -> tuple[float, float]:
    """Wall and CPU time when the budget was used up. Raises RuntimeError if the method ended before."""
    began = time.monotonic()
    while (spent_s := processes.spent_s()) < budget_s:
        if processes.have_ended:
            raise RuntimeError(f"it ended before its budget, with exit codes {processes.codes}\n{processes.errors()}")
        time.sleep(LOOK_EVERY_S)
    return time.monotonic() - began, spent_s


METHODS: Mapping[str, Callable[[Cell, str], Outcome]] = {
    "backprop": backprop,
    "random": optuna,
    "tpe": optuna,
    "optuna-asha": optuna,
    "ray-asha": ray,
}
