"""W&B: `wandb.log` is the method `log` of the current run. Written against wandb 0.31 and 0.21."""

from __future__ import annotations

import sys
from typing import Any, Mapping, Optional

from ...failsafe import after
from ...tracked import tracked
from .rows import add_row, number_of

_HOOK = "wandb"


def hook(module: Any) -> None:
    """Called when `wandb.sdk.wandb_run` has been imported."""
    module.Run.log = after(module.Run.log, _logged, _HOOK)
    module.Run.finish = after(module.Run.finish, _finished, _HOOK)


def tap_disabled(run: Any) -> None:
    """Record what a script logs although it has turned W&B off: such a run has a `log` of its own."""
    wandb: Any = sys.modules["wandb"]
    run.log = wandb.log = after(run.log, _logged_to_disabled, _HOOK)


def _logged_to_disabled(data: Mapping[str, Any], step: Any = None, *_: Any, **__: Any) -> None:
    add_row(_HOOK, data, step)


def _logged(run: Any, data: Mapping[str, Any], step: Any = None, commit: Optional[bool] = None, **_: Any) -> None:
    counted = None
    if step is None:
        # of the call that has just ended: with commit=False the next one adds to the same step
        step = _next_step(run) - (commit is None or commit)
        if run._starting_step == 0:  # noqa: SLF001
            counted = step
            step = None
    add_row(_HOOK, data, step, counted=counted, place=number_of(_HOOK, run.id))


def _finished(run: Any, *_: Any, **__: Any) -> None:
    tracked().closed(_HOOK, number_of(_HOOK, run.id))


def _next_step(run: Any) -> int:
    """As this process counts it: `run.step` asks another one."""
    count = "_local_step" if hasattr(run, "_local_step") else "_step"  # the latter in wandb 0.21
    return int(getattr(run, count))
