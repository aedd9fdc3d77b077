"""What our part inside the trainer costs: at an interpreter's start, and at every step; and what others cost there."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

from backprop.supervisor.environment import HOOKS_FOLDER
from backprop.trainer.overwrites.keeper import CheckpointKeeper
from bench.measure import Spread, cost, interleaved, spread
from bench.workbench import BACKPROP, PATIENCE_S, Workbench

# what must be importable for it -> how it is called
PEERS = {
    "wandb": ("wandb", "wandb offline: `run.log`"),
    "trackio": ("trackio", "trackio: `trackio.log`"),
    "mlflow": ("mlflow", "MLflow: `mlflow.log_metrics`"),
    "tensorboard": ("tensorboardX", "TensorBoard: `add_scalar` twice"),
}


@dataclass(frozen=True)
class Peer:
    """Somebody else's way to log."""

    way: str
    title: str
    python: str
    version: str


def peers_python() -> str:
    """The Python in which peers are looked for."""
    return os.environ.get("FRAMEWORKS_PYTHON", sys.executable)


def find_peers() -> tuple[list[Peer], list[str]]:
    """Those that are installed, and the names of those that are not."""
    program = (
        "import importlib.metadata as m, json, sys\n"
        "installed = {d.metadata['Name'].lower(): d.version for d in m.distributions() if d.metadata['Name']}\n"
        "print(json.dumps(installed))"
    )
    done = subprocess.run([peers_python(), "-c", program], stdout=subprocess.PIPE, timeout=PATIENCE_S, check=True)
    installed: dict[str, str] = json.loads(done.stdout)
    found, missing = [], []
    for way, (package, title) in PEERS.items():
        version = installed.get(package.lower())
        if version is None:
            missing.append(package)
        else:
            found.append(Peer(way, title, peers_python(), version))
    return found, missing


def call_times(place: Workbench, way: str, command: Callable[[str], list[str]]) -> Spread:
    """Seconds a call. command: makes the command line from that of the script."""
    out = place.folder / f"{way}.json"
    cost(command(str(place.folder / "metrics.py")), place.environment, place.folder, place.folder / "out")
    times: list[float] = json.loads(out.read_text())
    return spread(times)


def under_backprop(place: Workbench, way: str) -> Spread:
    """Seconds a call in a run."""
    return call_times(place, way, lambda script: [BACKPROP, "run", script, "--", *_arguments(place, way)])


def bare(place: Workbench, way: str, python: str = sys.executable) -> Spread:
    """Seconds a call without Backprop."""
    return call_times(place, way, lambda script: [python, script, *_arguments(place, way)])


def _arguments(place: Workbench, way: str) -> list[str]:
    return [way, str(place.sizes.metrics_s), str(place.folder / f"{way}.json")]


def tap_costs(place: Workbench) -> tuple[Spread, Spread]:
    """CPU seconds that recording adds to a scalar logged to a tracker: in the calling thread, and in all."""
    out = place.folder / "tap.json"
    script = str(place.folder / "tap.py")
    command = [BACKPROP, "run", script, "--", str(place.sizes.tap_rounds), str(out)]
    cost(command, place.environment, place.folder, place.folder / "out")
    differences: list[tuple[float, float]] = json.loads(out.read_text())
    return spread([call for call, _ in differences]), spread([whole for _, whole in differences])


def has_torch() -> bool:
    """Whether PyTorch is installed where peers are."""
    program = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)"
    return subprocess.run([peers_python(), "-c", program], timeout=PATIENCE_S, check=False).returncode == 0


def sampled_loss_times(place: Workbench) -> tuple[Spread, Spread]:
    """CPU seconds of a training step of PyTorch, and what sampling its loss adds to it."""
    out = place.folder / "sampled_loss.json"
    script = str(place.folder / "sampled_loss.py")
    seconds = str(5 * place.sizes.metrics_s)
    command = [BACKPROP, "run", "--python", peers_python(), script, "--", seconds, str(out)]
    cost(command, place.environment, place.folder, place.folder / "out")
    times: dict[str, list[float]] = json.loads(out.read_text())
    added = [ours - bare for bare, ours in zip(times["bare"], times["sampled"], strict=True)]
    return spread(times["bare"]), spread(added)


def start_differences(place: Workbench) -> Spread:
    """Seconds that the hooks add to the start of an interpreter which imports nothing."""
    # what a trainer finds; the files are not there, and nothing at the start asks for them
    with_hooks = {
        **place.environment,
        "PYTHONPATH": str(HOOKS_FOLDER),
        "BACKPROP_RUN_ID": "bench",
        "BACKPROP_RUN_DIR": str(place.folder),
        "BACKPROP_SESSION": "1",
        "BACKPROP_TIMEBOX_S": "600",
        "BACKPROP_CONTROL": str(place.folder / "control.json"),
        "BACKPROP_EVENTS": str(place.folder / "events"),
    }

    def arm(environment: dict[str, str]) -> Callable[[], float]:
        return lambda: cost([sys.executable, "-c", "pass"], environment, place.folder).wall_s

    arms = [arm(place.environment), arm(with_hooks)]
    interleaved(arms, 2)  # warm: byte code, page cache
    without, ours = interleaved(arms, place.sizes.interpreter_pairs)
    return spread([b - a for a, b in zip(without, ours, strict=True)])


def keeping_times(place: Workbench, size_bytes: int) -> Spread:
    """Seconds that pass before a checkpoint which is written over in place can be opened."""
    path = str(place.folder / "last.pt")
    keeper = CheckpointKeeper(
        {
            "BACKPROP_RUN_ID": "bench",
            "BACKPROP_SESSION": "1",
            "BACKPROP_CONTROL": str(place.folder / "control.json"),
        }
    )
    times = []
    for step in range(place.sizes.kept_saves):
        with open(path, "wb") as file:  # noqa: PTH123  as a script does
            file.writelines(bytes(1 << 20) for _ in range(size_bytes >> 20))
        keeper.reported(path, step)
        began = perf_counter()
        keeper.before_write(path)
        times.append(perf_counter() - began)
    return spread(times)
