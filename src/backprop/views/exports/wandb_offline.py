"""Offline runs of Weights & Biases, by its own SDK: `wandb sync` uploads them, `wandb leet` shows them.

A row of its history is a step of a session, with `step`, `session`, `time_s` and the wall time (`_timestamp`); charts
use `step`. So steps that a resume trained again are there twice, where W&B itself would drop them. NaN and infinities
survive. What was measured (sys/...) follows, in rows without a `step`, and its charts use `time_s`.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

from backprop.errors import UsageError
from backprop.lifecycle.optional_dependency import missing
from backprop.store.output.protocol import json_safe
from backprop.views.exports.drafts import folder
from backprop.views.exports.record import RunExport

_PROJECT = "backprop"
_TAG_LENGTH = 64
_FACTS = ("id", "status", "reason", "command", "cwd", "python", "host", "created_at", "started_at", "ended_at")
_MORE_FACTS = ("elapsed_s", "exit_code", "last_step", "git", "sessions", "checkpoints", "run_dir", "parent", "decision")
# what it must not look at: this process, its console and its folder are not the training's. Versions differ in what
# they know
_SETTINGS = {
    "mode": "offline",
    "silent": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}
_OWN_COLUMNS = ("step", "session", "time_s")


def write(runs: Sequence[RunExport], destination: str, *, replace: bool) -> str:
    """Write `destination`/wandb/offline-run-*-ID for each run, for the project $WANDB_PROJECT, or "backprop"."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # nothing is sent anywhere, mistakes of its own included
    try:
        import wandb
    except ImportError as error:
        raise missing("wandb", error) from error
    path = folder(destination)
    try:
        old = [_offline_runs(path, run, replace=replace) for run in runs]
        for run, replaced in zip(runs, old, strict=True):
            with _set_aside(replaced):
                _write_run(wandb, run, path)
    except wandb.Error as error:
        raise UsageError(f"W&B cannot write to {destination}: {error}") from error
    finally:
        wandb.teardown()
    return f"{destination}; to upload: cd {destination} && wandb sync"


def _offline_runs(path: Path, run: RunExport, *, replace: bool) -> list[Path]:
    """What was exported of this run before. Raises UsageError unless that may be replaced."""
    old = sorted(found.parent for found in path.glob(f"wandb/offline-run-*/run-{run.id}.wandb"))
    if old and not replace:
        raise UsageError(f"run {run.id} already exists as {old[0]}; to replace it: --force")
    return old


@contextmanager
def _set_aside(folders: Sequence[Path]) -> Iterator[None]:
    """Folders out of the way, in which a run begun in the same second would be written; gone when all went well."""
    aside = [found.rename(found.with_name(f".replaced-{found.name}")) for found in folders]
    try:
        yield
    except BaseException:
        for found, old in zip(folders, aside, strict=True):
            old.rename(found)
        raise
    for old in aside:
        shutil.rmtree(old)


def _write_run(wandb: ModuleType, run: RunExport, path: Path) -> None:
    settings = {name: value for name, value in _SETTINGS.items() if name in wandb.Settings.model_fields}
    params = json_safe(run.view.params)
    made = wandb.init(
        dir=str(path),
        id=run.id,
        name=run.label,
        project=os.environ.get("WANDB_PROJECT") or _PROJECT,
        group=run.view.annotations.group,
        notes=run.notes,
        tags=[tag[:_TAG_LENGTH] for tag in _tags(run) if tag],
        config={
            **{"param/backprop" if name == "backprop" else name: value for name, value in params.items()},
            "backprop": {key: run.document[key] for key in (*_FACTS, *_MORE_FACTS)},
        },
        settings=wandb.Settings(**settings),
    )
    target = Path(made.settings.sync_dir)
    try:
        _log(made, run)
    except BaseException:
        made.finish(exit_code=1)
        shutil.rmtree(target, ignore_errors=True)  # a partial export would look complete
        raise
    made.finish(exit_code=run.document["exit_code"] or 0)


def _tags(run: RunExport) -> list[str | None]:
    return [run.view.run.status.value, run.document["host"], run.commit, *run.view.annotations.tags]


def _log(made: Any, run: RunExport) -> None:
    unix_s = run.clock()
    for column in _OWN_COLUMNS:
        made.define_metric(column, hidden=True)
    made.define_metric("*", step_metric="step")
    for name in run.measured:
        made.define_metric(name, step_metric="time_s")
    # W&B's own columns begin with an underscore
    names = {
        name: f"metric/{name}" if name in _OWN_COLUMNS or name.startswith("_") else name for name in run.view.metrics
    }
    rows = chain(((row, {"step": row.step}) for row in run.rows()), ((row, {}) for row in run.measured_rows()))
    for number, (row, step) in enumerate(rows):
        made.log(
            {
                **{names.get(metric, metric): value for metric, value in row.values.items()},
                **step,
                "session": row.session,
                "time_s": row.time_s,
                "_timestamp": unix_s(row.session, row.time_s),
            },
            step=number,
        )
