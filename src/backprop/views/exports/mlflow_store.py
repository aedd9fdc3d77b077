"""MLflow runs, by its client: into a server, or an SQLite file (`sqlite:///mlflow.db`).

A point's step and wall time go along; its session is the value of the metric `backprop/session` at that step.
NaN survives; SQL stores of MLflow turn an infinity into the largest number. Names with characters that MLflow does not
take get an underscore for each, and the tag `backprop.name.<that>` with what they were.
"""

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from backprop.errors import UsageError
from backprop.lifecycle.optional_dependency import missing
from backprop.records import Status
from backprop.store.usage.quantities import PREFIX
from backprop.text import shortened
from backprop.views.exports.record import RunExport
from backprop.views.terminal.params import text as param_text

_RUN_TAG = "backprop.run"
_EXPERIMENT = "Backprop"
_SESSION_METRIC = "backprop/session"
_SYSTEM = "system/"  # MLflow's pages have a tab for metrics below it
# MLflow's limits. A request: 1000 metrics, 100 params, 100 tags. Characters of a name, a param, a tag:
_BATCH_METRICS, _BATCH_PAIRS = 1000, 100
_NAME_LENGTH, _PARAM_LENGTH, _TAG_LENGTH = 250, 6000, 5000
_UNSAFE = re.compile(r"[^\w\-. /]", re.ASCII)
_STATUSES = {
    Status.QUEUED: "SCHEDULED",
    Status.RUNNING: "RUNNING",
    Status.PAUSED: "RUNNING",
    Status.COMPLETED: "FINISHED",
    Status.FAILED: "FAILED",
    Status.REFUSED: "FAILED",
}  # what was ended from outside: KILLED


def write(runs: Sequence[RunExport], destination: str, *, replace: bool) -> str:
    """Log each run into the experiment $MLFLOW_EXPERIMENT_NAME, or "Backprop", of the tracking store `destination`."""
    # ours to decide for this process only; what the user set counts
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # else minutes, if the server is unreachable
    try:
        import mlflow
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise missing("mlflow", error) from error
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)  # its migrations are not of interest
    try:
        client = _client(mlflow, destination)
        experiment = _experiment(client)
        old = [_old_runs(client, experiment, run, replace=replace) for run in runs]
        for run, replaced in zip(runs, old, strict=True):
            _write_run(client, experiment, run)
            for run_id in replaced:
                client.delete_run(run_id)
    except (MlflowException, *_database_errors()) as error:
        raise UsageError(f"MLflow at {destination}: {str(error).strip().splitlines()[0]}") from error
    except ModuleNotFoundError as error:
        raise missing("mlflow", error) from error
    look = "" if destination.startswith("http") else f"; to view it: mlflow ui --backend-store-uri {destination}"
    return destination + look


def _client(mlflow: Any, uri: str) -> Any:
    """MLflow's client. An SQLite file that it cannot finish making is gone: it could not be opened again."""
    file = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    is_new = file is not None and not file.exists()
    try:
        return mlflow.MlflowClient(tracking_uri=uri)
    except BaseException:
        if file is not None and is_new:
            file.unlink(missing_ok=True)
        raise


def _database_errors() -> tuple[type[Exception], ...]:
    """What an SQL store raises that MLflow does not wrap; none where there are no SQL stores."""
    try:
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError:
        return ()
    return (SQLAlchemyError,)


def _experiment(client: Any) -> str:
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
    found = client.get_experiment_by_name(name)
    made: str = client.create_experiment(name) if found is None else found.experiment_id
    return made


def _old_runs(client: Any, experiment: str, run: RunExport, *, replace: bool) -> list[str]:
    """MLflow's ids of what was exported of this run before. Raises UsageError unless that may be replaced."""
    old = [found.info.run_id for found in client.search_runs([experiment], f"tags.`{_RUN_TAG}` = '{run.id}'")]
    if old and not replace:
        raise UsageError(f"run {run.id} already exists as MLflow run {old[0]}; to replace it: --force")
    return old


def _write_run(client: Any, experiment: str, run: RunExport) -> None:
    state = run.view.run
    begins = state.sessions[0].started_at if state.sessions else state.spec.created_at
    made = client.create_run(
        experiment, start_time=_ms(begins.timestamp()), run_name=run.label[:_NAME_LENGTH], tags={_RUN_TAG: run.id}
    ).info.run_id
    try:
        names = _Names()
        metrics = _metrics(run, names)
        while batch := list(islice(metrics, _BATCH_METRICS)):
            client.log_batch(made, metrics=batch)
        _log_facts(client, made, run, names)
        ended = _ms(state.ended_at.timestamp()) if state.ended_at else None
        if state.status.is_final:
            client.set_terminated(made, _STATUSES.get(state.status, "KILLED"), ended)
        else:
            client.update_run(made, _STATUSES[state.status])
    except BaseException:
        client.delete_run(made)  # a partial export would look complete
        raise


def _metrics(run: RunExport, names: "_Names") -> Iterator[Any]:
    from mlflow.entities import Metric

    unix_s, measured = run.clock(), set(run.measured)
    began: dict[int, tuple[float, int]] = {}  # session -> when its first point came, and its step
    for session, metric, step, value, time_s in run.points():
        at = unix_s(session, time_s)
        began[session] = min(began.get(session, (at, int(step))), (at, int(step)))
        shown = metric if metric not in measured else f"{_SYSTEM}{metric.removeprefix(PREFIX)}"
        yield Metric(names.allowed("metric", shown), value, _ms(at), int(step))
    for session, (at, step) in began.items():
        yield Metric(_SESSION_METRIC, float(session), _ms(at), step)


def _log_facts(client: Any, made: str, run: RunExport, names: "_Names") -> None:
    from mlflow.entities import Param, RunTag

    params = [
        Param(names.allowed("param", name), shortened(param_text(value), _PARAM_LENGTH))
        for name, value in run.view.params.items()
    ]
    tags = [RunTag(name, shortened(value, _TAG_LENGTH)) for name, value in {**_tags(run), **names.tags()}.items()]
    for begin in range(0, len(params), _BATCH_PAIRS):
        client.log_batch(made, params=params[begin : begin + _BATCH_PAIRS])
    for begin in range(0, len(tags), _BATCH_PAIRS):
        client.log_batch(made, tags=tags[begin : begin + _BATCH_PAIRS])


def _tags(run: RunExport) -> Mapping[str, str]:
    """The facts, in so many tags; and of MLflow's own those that its pages show."""
    document = run.document
    tags = {
        f"backprop.{key}": param_text(document[key])
        for key in (
            "status",
            "reason",
            "host",
            "command",
            "cwd",
            "elapsed_s",
            "exit_code",
            "last_step",
            "git",
            "run_dir",
            "group",
            "tags",
            "parent",
            "decision",
        )
        if document[key] not in (None, [])
    }
    # the newest first: a tag that is too long is cut at its end
    tags["backprop.checkpoints"] = json.dumps(document["checkpoints"][::-1], ensure_ascii=False)
    tags["backprop.sessions"] = json.dumps(document["sessions"], ensure_ascii=False)
    tags["mlflow.user"] = run.view.run.spec.user
    tags["mlflow.source.name"] = run.view.run.spec.script or document["command"][0]
    if run.notes is not None:
        tags["mlflow.note.content"] = run.notes
    if run.commit is not None:
        tags["mlflow.source.git.commit"] = run.commit
    return tags


class _Names:
    """Names as MLflow takes them, each still its own."""

    def __init__(self) -> None:
        self._allowed: dict[tuple[str, str], str] = {}
        self._taken = {("metric", _SESSION_METRIC)}

    def allowed(self, kind: str, name: str) -> str:
        """What to call it; the same for the same name, and never the same for two."""
        found = self._allowed.get((kind, name))
        if found is None:
            # MLflow's file stores use names as paths, so that it takes no "..", nor an empty part
            parts = [part.strip(". ") or "_" for part in _UNSAFE.sub("_", name).split("/")]
            wanted, number = "/".join(parts)[:_NAME_LENGTH], 1
            found = wanted
            while (kind, found) in self._taken:
                number += 1
                found = f"{wanted[: _NAME_LENGTH - 8]}_{number}"
            self._taken.add((kind, found))
            self._allowed[kind, name] = found
        return found

    def tags(self) -> Mapping[str, str]:
        """What those were that are called otherwise now."""
        changed = {found: name for (_, name), found in self._allowed.items() if found != name}
        return {f"backprop.name.{found}"[:_NAME_LENGTH]: name for found, name in changed.items()}


def _ms(unix_s: float) -> int:
    return round(unix_s * 1000)
