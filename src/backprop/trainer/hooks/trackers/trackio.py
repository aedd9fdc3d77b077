"""trackio: `trackio.log` calls the method `log` of the current run. Written against trackio 0.43."""

from __future__ import annotations

from typing import Any, Mapping

from ...failsafe import after
from .rows import add_row

_HOOK = "trackio"


def hook(module: Any) -> None:
    """Called when `trackio.run` has been imported."""
    module.Run.log = after(module.Run.log, _logged, _HOOK)


def _logged(run: Any, metrics: Mapping[str, Any], step: Any = None) -> None:
    if step is not None:
        return add_row(_HOOK, metrics, step)
    step = run._next_step - 1  # noqa: SLF001  of the call that has just ended
    counts_from_0 = vars(run).setdefault(
        "_backprop_counts_from_0", step == 0
    )  # at its first call; not if it was resumed
    return add_row(_HOOK, metrics, None if counts_from_0 else step, counted=step)
