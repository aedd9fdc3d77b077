"""What a trainer finds in its environment: the contract with the script, and the cards it was given."""

import os
from collections.abc import Sequence

from backprop.governor import devices
from backprop.records import Gpu, Limits, RunSpec
from backprop.store.rundir import RunDir
from backprop.supervisor.launch import RUN_DIR_VARIABLE


def for_trainer(
    spec: RunSpec,
    rundir: RunDir,
    session: int,
    limits: Limits,
    resumed_from: str | None,
    gpus: Sequence[Gpu] | None,
) -> dict[str, str]:
    """All variables of a session's trainer. Starts its Python once where that must be asked about its framework.

    gpus: the cards it was given; None: whatever it finds.
    """
    environment = {key: value for key, value in os.environ.items() if key != "BACKPROP_RESUME_FROM"}
    environment |= {
        "BACKPROP_RUN_ID": spec.id,
        RUN_DIR_VARIABLE: str(rundir.path),
        "BACKPROP_SESSION": str(session),
        "BACKPROP_TIMEBOX_S": f"{limits.timebox_s:g}",
        "BACKPROP_CONTROL": str(rundir.control_path),
        "BACKPROP_FRAMEWORK": spec.framework,
        "PYTHONUNBUFFERED": "1",
    }
    environment.pop("BACKPROP_CHECKPOINT_EVERY_S", None)
    if limits.checkpoint_every_s is not None:
        environment["BACKPROP_CHECKPOINT_EVERY_S"] = f"{limits.checkpoint_every_s:g}"
    if resumed_from is not None:
        environment["BACKPROP_RESUME_FROM"] = resumed_from
    environment |= devices.environment_for(gpus)
    environment |= devices.allocator_environment(limits, gpus or (), spec.framework, spec.python, environment)
    return environment
