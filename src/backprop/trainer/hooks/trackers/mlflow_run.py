"""MLflow: a resumed session continues the MLflow run of the session before. Written against MLflow 3.17."""

from __future__ import annotations

import functools
from inspect import signature
from typing import Any, Callable, Mapping, Optional

from ... import tracker_runs
from ...failsafe import guarded, notify_user

_HOOK = "mlflow_run"


def hook(module: Any) -> None:
    """Called when `mlflow.tracking.fluent` has been imported."""
    handed = tracker_runs.withdraw(tracker_runs.MLFLOW)
    module.start_run = _around_start_run(module.start_run, handed, module.MlflowClient)


def _around_start_run(original: Callable[..., Any], handed: Optional[str], client: Any) -> Callable[..., Any]:
    parameters = signature(original)

    @functools.wraps(original)
    def start_run(*args: Any, **kwargs: Any) -> Any:
        given = parameters.bind(*args, **kwargs).arguments
        if given.get("nested") or given.get("parent_run_id"):
            return original(*args, **kwargs)
        if handed is not None and not given.get("run_id") and tracker_runs.is_to_continue(tracker_runs.MLFLOW):
            run = _continued(original, given, handed, client)
        else:
            run = original(*args, **kwargs)
        _begun(run)
        return run

    return start_run


@guarded(_HOOK)
def _begun(run: Any) -> None:
    tracker_runs.remember(tracker_runs.MLFLOW, run.info.run_id)


def _continued(original: Callable[..., Any], given: Mapping[str, Any], run_id: str, client: Any) -> Any:
    try:
        run = original(**{**given, "run_id": run_id})
    except Exception as error:  # noqa: BLE001  it was deleted, for example: without us, the script would run
        notify_user(f"the MLflow run {run_id} cannot be continued, a new one begins: {type(error).__name__}: {error}")
        return original(**given)
    keep_parameters(client, run)
    return run


@guarded(_HOOK)
def keep_parameters(client: Any, run: Any) -> None:
    """Let MLflow keep the parameters of a run that we continue, instead of failing. client: MlflowClient."""
    client.log_param = _around_log_param(client.log_param, run.info.run_id, run.data.params)
    client.log_batch = _around_log_batch(client.log_batch, run.info.run_id, run.data.params)


def _around_log_param(original: Callable[..., Any], kept_id: str, before: Mapping[str, str]) -> Callable[..., Any]:
    @functools.wraps(original)
    def log_param(self: Any, run_id: str, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if run_id == kept_id and _is_changed(before, key, value):
            return value
        return original(self, run_id, key, value, *args, **kwargs)

    return log_param


def _around_log_batch(original: Callable[..., Any], kept_id: str, before: Mapping[str, str]) -> Callable[..., Any]:
    @functools.wraps(original)
    def log_batch(self: Any, run_id: str, metrics: Any = (), params: Any = (), *args: Any, **kwargs: Any) -> Any:
        if run_id == kept_id:
            params = [param for param in params if not _is_changed(before, param.key, param.value)]
        return original(self, run_id, metrics, params, *args, **kwargs)

    return log_batch


def _is_changed(before: Mapping[str, str], key: str, value: Any) -> bool:
    """Whether the run has another value, which MLflow would not let us change: without us, there would be none."""
    return key in before and before[key] != str(value)
