"""Where a session executes: this machine, or a Slurm cluster. One small contract, that both fulfil: base.py."""

from functools import cache
from typing import TYPE_CHECKING

from backprop.records import Run
from backprop.store.home import Home

if TYPE_CHECKING:
    from backprop.engines.base import Engine
    from backprop.engines.slurm.engine import Cluster


def of(run: Run, home: Home) -> "Engine":
    """The engine that has a run in hand."""
    return cluster() if run.is_on_slurm else machine(home)


def machine(home: Home) -> "Engine":
    """The one that we are on."""
    from backprop.engines.local import Here

    return Here(home)


@cache
def cluster() -> "Cluster":
    """The Slurm cluster of this machine: one object, so that what it was told serves many runs."""
    from backprop.engines.slurm.engine import Cluster

    return Cluster()
