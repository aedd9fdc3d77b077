"""Lightning's `MLFlowLogger`, which creates its run without `mlflow.start_run`. Written against Lightning 2.6."""

from __future__ import annotations

from typing import Any, Optional

from ... import tracker_runs
from ...failsafe import after, guarded, notify_user
from .mlflow_run import keep_parameters

_HOOK = "MLFlowLogger"


def hook(module: Any) -> None:
    """Called when `lightning.pytorch.loggers.mlflow` has been imported."""
    module.MLFlowLogger.__init__ = after(module.MLFlowLogger.__init__, _made, _HOOK)


def _made(logger: Any, *_: Any, **__: Any) -> None:
    client = logger._mlflow_client  # noqa: SLF001
    client.create_run = _CreateRun(client)


class _CreateRun:
    """The `create_run` of one client. In a pickle, for a process that is spawned, it is MLflow's own method."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._original = client.create_run

    def __call__(self, experiment_id: str, *args: Any, **kwargs: Any) -> Any:
        """A logger that is given no run creates one, and only then."""
        run = _continued(self._client, experiment_id) or self._original(experiment_id, *args, **kwargs)
        tracker_runs.remember(tracker_runs.MLFLOW, run.info.run_id)
        return run

    def __reduce__(self) -> Any:
        return getattr, (self._client, "create_run")


@guarded(_HOOK)
def _continued(client: Any, experiment_id: str) -> Optional[Any]:
    """The run of the session before, open again; None if there is none, or it is not in this experiment any more."""
    run_id = tracker_runs.withdraw(tracker_runs.MLFLOW)
    if run_id is None or not tracker_runs.is_to_continue(tracker_runs.MLFLOW):
        return None
    run = client.get_run(run_id)
    if run.info.lifecycle_stage != "active" or run.info.experiment_id != experiment_id:
        notify_user(f"the MLflow run {run_id} cannot be continued, a new one begins: it was deleted, or moved")
        return None
    client.update_run(run_id, status="RUNNING")
    keep_parameters(type(client), run)
    return run
