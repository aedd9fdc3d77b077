"""Each way to search, as its users would start it, for the same time by the clock."""

import json
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from bench.sweeps import optuna_search
from bench.sweeps.processes import Processes
from bench.sweeps.tasks import ETA, RUNGS, SEARCH_S, WORKERS, Task, option

BACKPROP = str(Path(sys.executable).with_name("backprop"))
RAY_PYTHON = f"{sys.prefix}-ray/bin/python"  # Ray needs pandas, which would make every import of LightGBM slower
_RUNG_MIN = 3  # more than a training takes: the rungs are steps
_PATIENCE_S = 300.0


class Cell(NamedTuple):
    """One method, task and seed, in a folder of its own."""

    task: Task
    seed: int
    folder: Path
    environment: Mapping[str, str]


def backprop(cell: Cell, method: str) -> dict[str, Any]:  # noqa: ARG001
    """The run with the best value so far is chosen, whole or not, as from the other tools.

    The budget counts sessions. What it does not count, from the end of one to the start of the next, makes the sweep
    longer than the others: so it is stopped when they are.
    """
    task = cell.task
    words = [
        *(BACKPROP, "sweep", str(task.script), "-n", "bench", "--goal", "min:val_loss"),
        *(word for name, of in task.space.items() for word in ("--param", option(name, of))),
        *("--budget", f"{SEARCH_S * WORKERS / 60:g}", "--rung", str(_RUNG_MIN), "--rung-steps", str(task.rung_steps)),
        *("--eta", str(ETA), "--max-rungs", str(RUNGS), "-p", str(WORKERS), "--seed", str(cell.seed)),
        *("--python", sys.executable, "--", "--seed", str(cell.seed), "--step-s", str(task.step_s)),
    ]
    listing = [BACKPROP, "list", "--filter", "group=bench", "--limit", "0", "--goal", "min:val_loss", "--json"]
    with closing(Processes(cell.folder, cell.environment)) as processes:
        processes.start(words, "sweep")
        if not processes.have_ended(SEARCH_S):
            processes.start([BACKPROP, "sweep", "stop", "bench"], "stop")
            _end(processes)
        processes.start([BACKPROP, "sweep", "status", "bench", "--json"], "status")
        processes.start([*listing, "--fields", "params,best.val_loss.value"], "list")
        _end(processes)
    status = json.loads((cell.folder / "status.out").read_text())
    runs = json.loads((cell.folder / "list.out").read_text())
    best = min(
        (run for run in runs if run["best.val_loss.value"] is not None), key=lambda run: run["best.val_loss.value"]
    )
    params = {name: best["params"][name] for name in task.space}
    choice = {"params": params, "val_loss": best["best.val_loss.value"], "trials": status["trials"]}
    return {**choice, "rungs": status["rungs"]}


def optuna(cell: Cell, method: str) -> dict[str, Any]:
    study, stop = cell.folder / "study.log", cell.folder / "stop"
    words = [sys.executable, "-m", "bench.sweeps.optuna_search", cell.task.name, method, str(cell.seed)]
    with closing(Processes(cell.folder, cell.environment)) as processes:
        for worker in range(WORKERS):
            processes.start([*words, str(worker), str(study), str(stop)], f"worker-{worker}")
        processes.have_ended(SEARCH_S)
        stop.touch()
        _end(processes)
    return optuna_search.choice(str(study))


def ray(cell: Cell, method: str) -> dict[str, Any]:  # noqa: ARG001
    stop = cell.folder / "stop"
    words = [RAY_PYTHON, "-m", "bench.sweeps.ray_search", cell.task.name, str(cell.seed)]
    with closing(Processes(cell.folder, cell.environment)) as processes:
        processes.start([*words, str(cell.folder), str(stop)], "ray")
        processes.have_ended(SEARCH_S)
        stop.touch()
        _end(processes)
    choice: dict[str, Any] = json.loads((cell.folder / "ray.out").read_text().splitlines()[-1])
    return choice


def _end(processes: Processes) -> None:
    if not processes.have_ended(_PATIENCE_S):
        raise TimeoutError("a search that does not end")


METHODS: Mapping[str, Callable[[Cell, str], dict[str, Any]]] = {
    "backprop": backprop,
    "random": optuna,
    "tpe": optuna,
    "optuna-asha": optuna,
    "ray-asha": ray,
}
