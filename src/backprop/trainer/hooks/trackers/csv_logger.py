"""Lightning's `CSVLogger`: its other loggers call trackers that have taps. Written against Lightning 2.6."""

from __future__ import annotations

from typing import Any, Mapping

from ...failsafe import after
from .rows import add_row

_HOOK = "CSVLogger"


def hook(module: Any) -> None:
    """Called when `lightning.fabric.loggers.csv_logs` has been imported."""
    module.CSVLogger.log_metrics = after(module.CSVLogger.log_metrics, _logged, _HOOK)


def _logged(_: Any, metrics: Mapping[str, Any], step: Any = None) -> None:
    add_row(_HOOK, metrics, step)
