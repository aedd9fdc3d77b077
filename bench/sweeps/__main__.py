"""python -m bench.sweeps [--seeds N]: search with every tool, and print what each found.

Results are appended to a file of JSON lines as they come; what is in it is not done again. `--table` only prints.
"""

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.sweeps.methods import METHODS, Cell
from bench.sweeps.processes import adopt_orphans
from bench.sweeps.tasks import SEARCH_S, TASKS, TRAINING_S, WORKERS, Task

FRESH_SEEDS = 1000  # and up: of the trainings that are tested
ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).with_name("results.jsonl")

_LIBRARIES = ("backprop-cli", "optuna", "lightgbm", "torch")

Row = dict[str, Any]
Key = tuple[str, str, int]  # task, method, seed

COLUMNS = (
    *("method", "seeds", "test loss", "test accuracy", "validation loss found"),
    *("backprop is better", "trials", "time", "load"),
)
_LOOK_EVERY_S = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.sweeps", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="searches at a time")
    parser.add_argument("--task", choices=TASKS, action="append", help="only this; may be given again")
    parser.add_argument("--method", choices=METHODS, action="append", help="only this; may be given again")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print what is in the file of results")
    parser.add_argument(
        "--one", type=int, metavar="SEED", help="print the row of this seed, with one --task and --method"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what was started
    if arguments.one is not None:
        adopt_orphans()
        print(json.dumps(measure(TASKS[arguments.task[0]], arguments.method[0], arguments.one)))
        return
    if not arguments.table:
        arguments.results.parent.mkdir(parents=True, exist_ok=True)
        done = {_key(row) for row in _read(arguments.results)}
        methods = list(arguments.method or METHODS)
        keys = [
            (task, method, seed)
            for seed in range(arguments.seeds)
            for task in arguments.task or TASKS
            for method in _rotated(methods, seed)  # none is always the first
        ]
        _search([key for key in keys if key not in done], arguments.results, arguments.parallel)
    for text in tables(arguments.results):
        print(text)


def _search(keys: Sequence[Key], results: Path, parallel: int) -> None:
    """Each in a process of its own, which ends what it has started. Raises RuntimeError if one failed, at the end."""
    waiting, failed = list(keys), []
    running: dict[Key, subprocess.Popen[str]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                task, method, seed = key = waiting.pop(0)
                words = [sys.executable, "-m", "bench.sweeps", "--one", str(seed), "--task", task]
                running[key] = subprocess.Popen([*words, "--method", method], stdout=subprocess.PIPE, text=True)
            for key in [key for key, process in running.items() if process.poll() is not None]:
                process = running.pop(key)
                out, _ = process.communicate()
                if process.returncode:
                    failed.append(key)
                else:
                    with results.open("a") as file:
                        file.write(out)
                print(*key, "failed" if process.returncode else "done", file=sys.stderr, flush=True)
            time.sleep(_LOOK_EVERY_S)
    finally:
        for process in running.values():
            process.terminate()
            process.wait()
    if failed:
        raise RuntimeError(f"searches that failed: {failed}")


def measure(task: Task, method: str, seed: int) -> Row:
    """Search, then train what was chosen with a fresh seed, and test it on images that no search has seen."""
    with tempfile.TemporaryDirectory(prefix="sweeps-") as name:
        folder = Path(name)
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("BACKPROP_", "PYTHON"))},
            "BACKPROP_HOME": str(folder / "home"),
            "BACKPROP_MIN_FREE_RAM_GB": "0",
            "BACKPROP_MIN_FREE_DISK_GB": "0",
            "PYTHONPATH": str(ROOT),
            "RAY_AIR_NEW_OUTPUT": "0",
        }
        load, began = os.getloadavg()[0], time.monotonic()
        choice = METHODS[method](Cell(task, seed, folder, environment), method)
        wall_s, load = time.monotonic() - began, (load + os.getloadavg()[0]) / 2
        tested = _test(task, choice["params"], FRESH_SEEDS + seed, folder)
    return {
        "task": task.name,
        "method": method,
        "seed": seed,
        "budget_s": SEARCH_S * WORKERS,
        **choice,
        "wall_s": round(wall_s, 1),
        "load": round(load, 1),
        "test_loss": tested["test_loss"],
        "test_accuracy": tested["test_accuracy"],
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d}",
        "machine": _machine(),
        "versions": {name: version(name) for name in _LIBRARIES},
    }


def _machine() -> str:
    model = re.search("^model name.*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return f"{model[1] if model else platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _test(task: Task, params: Mapping[str, float], seed: int, folder: Path) -> dict[str, float]:
    options = [f"--{name}={int(value) if task.space[name].is_integer else value}" for name, value in params.items()]
    words = [sys.executable, str(task.script), *options, f"--seed={seed}", "--test"]
    done = subprocess.run(words, cwd=folder, stdout=subprocess.PIPE, check=True)
    best: dict[str, float] = json.loads(done.stdout.splitlines()[-1])["best"]
    return best


def tables(results: Path = RESULTS) -> Iterator[str]:
    """A Markdown table for each task, of the seeds that all methods have searched with."""
    rows = _read(results)
    for name in TASKS:
        seeds = [{row["seed"] for row in rows if (row["task"], row["method"]) == (name, method)} for method in METHODS]
        complete = set.intersection(*seeds)
        if complete:
            yield _table([row for row in rows if row["task"] == name and row["seed"] in complete])


def _table(rows: Sequence[Row]) -> str:
    """Medians and quartiles over the seeds."""
    dates = sorted({row["date"] for row in rows})
    days = " to ".join(sorted({dates[0], dates[-1]}))
    lines = [
        f"**{rows[0]['task']}**, {rows[0]['budget_s'] / TRAINING_S:g} trainings, {days}:",
        "",
        f"| {' | '.join(COLUMNS)} |",
        f"|{' --- |' * len(COLUMNS)}",
    ]
    ours = {row["seed"]: row["test_loss"] for row in rows if row["method"] == "backprop"}
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        pairs = [(ours[row["seed"]], row["test_loss"]) for row in mine if row["seed"] in ours]
        if mine:
            figures = [
                _spread([row["test_loss"] for row in mine], ".4f"),
                _spread([100 * row["test_accuracy"] for row in mine], ".2f") + " %",
                _spread([row["val_loss"] for row in mine], ".4f"),
                "-" if method == "backprop" else f"{sum(our < their for our, their in pairs)} of {len(pairs)}",
                f"{statistics.median(row['trials'] for row in mine):g}",
                f"{statistics.median(row['wall_s'] for row in mine):.0f} s",
                f"{min(row['load'] for row in mine):.0f} to {max(row['load'] for row in mine):.0f}",
            ]
            lines.append(f"| {method} | {len(mine)} | {' | '.join(figures)} |")
    return "\n".join([*lines, ""])


def _spread(values: Sequence[float], form: str) -> str:
    if len(values) < 2:
        return f"{values[0]:{form}}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def _read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _key(row: Row) -> Key:
    return row["task"], row["method"], row["seed"]


def _rotated(methods: Sequence[str], by: int) -> list[str]:
    turn = by % len(methods)
    return [*methods[turn:], *methods[:turn]]


if __name__ == "__main__":
    main()
