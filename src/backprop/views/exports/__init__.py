"""Exports of runs: one module for each kind of destination; all get the same record (see record.py).

Each has `write(runs, destination, replace=...)`, which writes all runs or raises UsageError or OSError, and gives
back what the user may do next. Those that are text also have `lines(runs)`. A destination that holds a run already is
left as it is unless `replace` says otherwise. Libraries are imported where they are used.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

# kind -> its module
KINDS: Mapping[str, str] = {
    "tensorboard": "tensorboard_events",
    "mlflow": "mlflow_store",
    "wandb-offline": "wandb_offline",
    "csv": "csv_files",
    "parquet": "parquet_files",
    "jsonl": "json_lines",
}


def exporter(kind: str) -> Any:
    """The module that writes this kind."""
    return import_module(f"backprop.views.exports.{KINDS[kind]}")
