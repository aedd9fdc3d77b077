"""MLflow: every way to log a metric, autologging included, ends in `MlflowClient`. Written against MLflow 3.17."""

from __future__ import annotations

from typing import Any

from ...failsafe import after
from ...tracked import tracked
from .rows import number_of

_HOOK = "mlflow"


def hook(module: Any) -> None:
    """Called when `mlflow.tracking.client` has been imported."""
    client = module.MlflowClient
    client.log_metric = after(client.log_metric, _metric, _HOOK)
    client.log_batch = after(client.log_batch, _batch, _HOOK)
    client.set_terminated = after(client.set_terminated, _terminated, _HOOK)


def _metric(_: Any, run_id: str, key: str, value: Any, timestamp: Any = None, step: Any = None, **__: Any) -> None:  # noqa: ARG001
    tracked().add(_HOOK, number_of(_HOOK, run_id), key, value, step)


def _batch(_: Any, run_id: str, metrics: Any = (), *__: Any, **___: Any) -> None:
    place = number_of(_HOOK, run_id)
    for metric in metrics:
        tracked().add(_HOOK, place, metric.key, metric.value, metric.step)


def _terminated(_: Any, run_id: str, *__: Any, **___: Any) -> None:
    tracked().closed(_HOOK, number_of(_HOOK, run_id))
