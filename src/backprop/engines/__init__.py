"""Where a session executes: on this machine or on a Slurm cluster. Both implement `base.Engine`."""

from functools import cache
from typing import TYPE_CHECKING

from backprop.records import Run
from backprop.store.home import Home

if TYPE_CHECKING:
    from backprop.engines.base import Engine
    from backprop.engines.slurm.engine import SlurmEngine


def of(run: Run, home: Home) -> "Engine":
    """The engine that executes a run."""
    return cluster() if run.is_on_slurm else machine(home)


def machine(home: Home) -> "Engine":
    """The engine of this machine."""
    from backprop.engines.local import LocalEngine

    return LocalEngine(home)


@cache
def cluster() -> "SlurmEngine":
    """The Slurm cluster of this machine: one object, so that one query serves many runs."""
    from backprop.engines.slurm.engine import SlurmEngine

    return SlurmEngine()
