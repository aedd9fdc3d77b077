"""W&B: `wandb.log` is the method `log` of the current run. Written against wandb 0.31."""

from __future__ import annotations

import sys
from typing import Any, Mapping, Optional

from ...failsafe import after
from .rows import add_row

_HOOK = "wandb"


def hook(module: Any) -> None:
    """Called when `wandb.sdk.wandb_run` has been imported."""
    module.Run.log = after(module.Run.log, _logged, _HOOK)


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
        step = run._local_step - (commit is None or commit)  # noqa: SLF001  run.step asks another process
        if run._starting_step == 0:  # noqa: SLF001
            counted = step
            step = None
    add_row(_HOOK, data, step, counted=counted)
