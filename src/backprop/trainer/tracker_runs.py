"""The run of a tracker (W&B, MLflow) that a session began, so that a later session continues it.

A hook appends each run to `session-N.tracker-runs`. A session that is offered a checkpoint gets the run of the newest
session before it that began one, and not several, in the environment: see supervisor/environment.py.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Mapping, Optional

from . import distributed
from .failsafe import guarded
from .link import SupervisorLink, current
from .plain_files import append, open_plain

WANDB, MLFLOW = "WANDB_RUN_ID", "MLFLOW_RUN_ID"
# what else is set with each; whoever has set one of these names the run
_COMPANIONS: Mapping[str, Mapping[str, str]] = {WANDB: {"WANDB_RESUME": "allow"}, MLFLOW: {}}
_withdrawn: dict[str, str] = {}
OURS_VARIABLE = "BACKPROP_TRACKER_RUNS"  # which of the values in the environment are ours, as NAME=value,...


def variables(run_dir: str, session: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables by which a session continues the runs of those before it, where `environment` names no other."""
    found = {}
    for name, companions in _COMPANIONS.items():
        run_id = _only_run_before(run_dir, session, name)
        if run_id is not None and not {name, *companions} & environment.keys():
            found[name] = run_id
    ours = ",".join(f"{name}={run_id}" for name, run_id in found.items())
    more = {key: value for name in found for key, value in _COMPANIONS[name].items()}
    return {**found, **more, OURS_VARIABLE: ours} if found else {}


def without_ours(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what `variables` has added to it, for another run that is started below a trainer."""
    ours = _ours(environment)
    names = {key for name in ours for key in (name, *_COMPANIONS[name])} | {OURS_VARIABLE}
    return {key: value for key, value in environment.items() if key not in names}


def withdraw(name: str) -> Optional[str]:
    """The id that the environment hands over, which is removed from there: else it would hold for every later run."""
    run_id = _ours(os.environ).get(name)
    if run_id is not None:
        _withdrawn[name] = run_id
        for key in (name, *_COMPANIONS[name]):
            os.environ.pop(key, None)
    return _withdrawn.get(name)


def is_to_continue(name: str) -> bool:
    """Whether this process is to continue the run that was handed over: rank 0, unless a run was begun before."""
    link = current()
    is_named = name in os.environ  # by the script
    return link is not None and distributed.rank() == 0 and not is_named and not _begun(link, name)


@guarded("tracker runs")
def remember(name: str, run_id: str) -> None:
    """Record that this session began, or continued, a run."""
    link = current()
    if link is None or distributed.rank() != 0:
        return
    with suppress(OSError):
        append(_path(link.run_dir, link.session_number), f"{name} {run_id}\n".encode())


def _begun(link: SupervisorLink, name: str) -> set[str]:
    return _runs(link.run_dir, link.session_number, name)


def _only_run_before(run_dir: str, session: int, name: str) -> Optional[str]:
    for number in range(session - 1, 0, -1):
        if runs := _runs(run_dir, number, name):
            return runs.pop() if len(runs) == 1 else None  # several: nobody can tell which of them is next
    return None


def _runs(run_dir: str, session: int, name: str) -> set[str]:
    try:
        with os.fdopen(open_plain(_path(run_dir, session)), encoding="utf-8") as file:
            words = [line.split() for line in file]
    except (OSError, ValueError):
        return set()
    return {pair[1] for pair in words if len(pair) == 2 and pair[0] == name}  # noqa: PLR2004


def _ours(environment: Mapping[str, str]) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in environment.get(OURS_VARIABLE, "").split(","))
    return {name: value for name, _, value in pairs if name in _COMPANIONS and environment.get(name) == value}


def _path(run_dir: str, session: int) -> str:
    return os.path.join(run_dir, f"session-{session}.tracker-runs")
