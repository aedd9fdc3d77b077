"""Where a session executes: this machine, or a Slurm cluster. One small contract, that both fulfil: contract.py."""

from functools import cache
from typing import TYPE_CHECKING

from backprop.records import RunSpec
from backprop.store.rundir import Home

if TYPE_CHECKING:
    from backprop.engines.contract import Engine
    from backprop.engines.slurm import Cluster


def of(spec: RunSpec, home: Home) -> "Engine":
    """The engine that executes a run."""
    if spec.slurm is not None:
        return cluster()
    from backprop.engines.here import Here

    return Here(home)


@cache
def cluster() -> "Cluster":
    """The Slurm cluster of this machine: one object, so that what it was told serves many runs."""
    from backprop.engines.slurm import Cluster

    return Cluster()
