"""The environment of a trainer: the contract with the script, and the GPUs assigned to it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from backprop.governor import gpu_environment
from backprop.records import Gpu, Limits, RunSpec, Source, with_step
from backprop.store.rundir import RunDir
from backprop.supervisor.process.launch import RUN_DIR_VARIABLE
from backprop.trainer import distributed, tracker_runs

HOOKS_FOLDER = Path(__file__).parents[1] / "trainer" / "site"  # its sitecustomize.py starts our part of the trainer
_OF_ANOTHER_SESSION = {
    "BACKPROP_RESUME_FROM",
    "BACKPROP_RESUME_STEP",
    "BACKPROP_RESUME_HOLDS_STATE",
    "BACKPROP_NO_SAMPLED_LOSS",
    "BACKPROP_CHECKPOINT_EVERY_S",
    distributed.OUTER_VARIABLE,
    "BACKPROP_PARAMS_PID",
    "BACKPROP_CODE",
    "BACKPROP_SNAPSHOT_OF",
}


class Resumed(NamedTuple):
    """A checkpoint to continue from."""

    path: str
    step: int | None  # that it was reported for; None: unknown

    def __str__(self) -> str:
        return with_step(self.path, self.step)


def for_trainer(
    spec: RunSpec,
    rundir: RunDir,
    session: int,
    limits: Limits,
    resumed: Resumed | None,
    gpus: Sequence[Gpu] | None,
) -> dict[str, str]:
    """All variables of a session's trainer. May start its Python once, to find out about its framework.

    gpus: assigned to the session; None: the trainer uses what it finds.
    """
    outer = tracker_runs.without_ours(os.environ)
    environment = {key: value for key, value in outer.items() if key not in _OF_ANOTHER_SESSION}
    environment |= {
        "BACKPROP_RUN_ID": spec.id,
        RUN_DIR_VARIABLE: str(rundir.path),
        "BACKPROP_SESSION": str(session),
        "BACKPROP_TIMEBOX_S": f"{limits.timebox_s:g}",
        "BACKPROP_CONTROL": str(rundir.control_path),
        "BACKPROP_EVENTS": str(rundir.source_path(session, Source.EVENTS)),
        "BACKPROP_FRAMEWORK": spec.framework,
        "PYTHONUNBUFFERED": "1",
    }
    if not _is_folder(environment.get("PWD"), spec.cwd):  # in a Slurm job, or at a resume from elsewhere
        environment["PWD"] = spec.cwd
    if spec.script is not None:
        environment["BACKPROP_CODE"] = os.path.dirname(spec.script)  # noqa: PTH120  as the script itself is called
    if spec.snapshot_of is not None:
        environment |= {"BACKPROP_CODE": str(rundir.snapshot_path), "BACKPROP_SNAPSHOT_OF": spec.snapshot_of}
    if not spec.reads_printed_metrics:
        environment["BACKPROP_NO_SAMPLED_LOSS"] = "1"
    if limits.checkpoint_every_s is not None:
        environment["BACKPROP_CHECKPOINT_EVERY_S"] = f"{limits.checkpoint_every_s:g}"
    if resumed is not None:
        environment |= _of_resume(spec, resumed)
        if spec.hooks:
            environment |= tracker_runs.variables(str(rundir.path), session, environment)
    if ranks := [f"{name}={os.environ[name]}" for name in distributed.VARIABLES if name in os.environ]:
        environment[distributed.OUTER_VARIABLE] = ",".join(ranks)
    # inherited where this run is started within another one, which may differ in `hooks`
    path = _without(str(HOOKS_FOLDER), environment.pop("PYTHONPATH", None))
    if spec.hooks:
        path = [str(HOOKS_FOLDER), *path]
    if path:
        environment["PYTHONPATH"] = os.pathsep.join(path)
    # on several nodes Slurm sets this on each of them: `gpus` are those of the first node
    environment |= gpu_environment.environment_for(gpus if spec.nodes == 1 else None)
    environment |= gpu_environment.allocator_environment(limits, gpus or (), spec.framework, spec.python, environment)
    return environment


def _of_resume(spec: RunSpec, resumed: Resumed) -> dict[str, str]:
    from backprop.trainer.hooks.saved_files.contents import holds_state  # late: it imports zipfile

    variables = {"BACKPROP_RESUME_FROM": resumed.path}
    if resumed.step is not None:
        variables["BACKPROP_RESUME_STEP"] = str(resumed.step)
    if spec.hooks and holds_state(resumed.path):
        variables["BACKPROP_RESUME_HOLDS_STATE"] = "1"
    return variables


def _is_folder(name: str | None, folder: str) -> bool:
    """Whether a path, which may contain symbolic links as a shell's does, is that folder."""
    try:
        return name is not None and Path(name).samefile(folder)
    except OSError:
        return False


def _without(folder: str, search_path: str | None) -> list[str]:
    """The entries of a search path but this folder; an empty entry is the working folder and stays."""
    return [entry for entry in search_path.split(os.pathsep) if entry != folder] if search_path else []
